"""A convolution of the volume that moves features without making or losing any.

Legend: B batch, N cameras, C channels, h, w feature pixels, X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class NormalisedConvolutionConfig:
    """One layer.

    Attributes:
        channels: width of the volume.
        image_channels: width of the image features that the kernels are made from.
        hidden: width in between.
        kernel: voxels along each axis, odd.
    """

    channels: int
    image_channels: int = 256
    hidden: int = 512
    kernel: int = 3

    def build(self) -> NormalisedConvolution:
        """The module."""
        return NormalisedConvolution(self)


class NormalisedConvolution(Part):
    """``(mix(elu(spread(V))) + V) / 2`` with kernels made from the images.

    CausalOcc (arXiv 2509.08388). Each channel is spread over its neighbourhood by a kernel whose
    entries are positive and add up to one; then channels are mixed by a matrix whose columns do.
    Away from the border, and but for the ELU, the sum over all voxels and channels stays what it
    was: the gradient of any part of it by a lifted feature can be read as a share.
    """

    runs_in_half = True

    def __init__(self, config: NormalisedConvolutionConfig) -> None:
        super().__init__()
        C, hidden = config.channels, config.hidden
        self.channels = C
        self.kernel = config.kernel
        self.summary = nn.Sequential(
            nn.Conv2d(config.image_channels, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
        )
        taps = config.kernel**3
        kernels = nn.Linear(hidden, C * taps)
        self.spread = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), kernels)
        self.mix = nn.Sequential(
            nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, C * C)
        )
        with torch.no_grad():
            start = torch.randn(C, taps).abs()
            start[:, taps // 2] = 1.0
            kernels.bias.copy_(start.flatten())

    def forward(self, volume_BCYXZ: Tensor, features_BNChw: Tensor) -> Tensor:
        """The volume after one step of spreading and mixing, (B, C, Y, X, Z)."""
        spread_BCyxz, mix_BOC = self.kernels(features_BNChw)
        slots = len(volume_BCYXZ)
        # Kernels differ from slot to slot: all slots' channels side by side are one grouped layer.
        spread = F.conv_transpose3d(
            volume_BCYXZ.flatten(0, 1)[None],
            spread_BCyxz.flatten(0, 1)[:, None],
            padding=self.kernel // 2,
            groups=slots * self.channels,
        )
        spread = F.elu(spread.view_as(volume_BCYXZ))
        mixed = torch.einsum("boc,bcyxz->boyxz", mix_BOC, spread)
        return (mixed + volume_BCYXZ) / 2

    def kernels(self, features_BNChw: Tensor) -> tuple[Tensor, Tensor]:
        """Spatial kernels (B, C, 3, 3, 3) that add up to one, and a matrix (B, out, in) whose
        columns do."""
        C, k = self.channels, self.kernel
        summary = self.summary(features_BNChw.flatten(0, 1)).mean(dim=(2, 3))
        summary_BH = summary.unflatten(0, features_BNChw.shape[:2]).mean(dim=1)
        spread = self.spread(summary_BH).unflatten(1, (C, -1)).softmax(dim=2)
        mix_BOC = self.mix(summary_BH).unflatten(1, (C, C)).softmax(dim=1)
        return spread.unflatten(2, (k, k, k)), mix_BOC
