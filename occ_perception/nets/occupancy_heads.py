"""Occupancy heads: class logits of every voxel, from prototypes, an MLP or a pyramid of scales.

Legend: B batch, C channels, K classes with the leading dummy class, S scales, X, Y, Z voxels (of
the output, where scales differ).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class PrototypeHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of prototypes; the reference label convention puts a dummy class first.
        channels: width of the volume.
        image_channels: width of the lifted context where the same prototypes also supervise the
            images while training, None where they do not.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "sigmoid"

    classes: int
    channels: int
    image_channels: int | None = None

    def build(self) -> PrototypeHead:
        """The module."""
        return PrototypeHead(self)


class PrototypeHead(Part):
    """Class logits as products of voxel features with one learned prototype per class.

    ``logit[k] = <embed(norm(query_k)), feature>`` (ALOcc, arXiv 2411.07725, semantic prototypes;
    the mask embedding of MaskFormer, arXiv 2107.06278, with query k tied to class k). The
    embedding does not depend on the input: at inference this is a bias-free 1x1x1 convolution.
    """

    runs_in_half = True

    def __init__(self, config: PrototypeHeadConfig) -> None:
        super().__init__()
        self.query = nn.Embedding(config.classes, config.channels)
        self.norm = nn.LayerNorm(config.channels)
        self.voxel_embed = _embedding(config.channels, config.channels)
        self.image_embed: nn.Module | None = None
        if config.image_channels is not None:
            self.image_embed = _embedding(config.channels, config.image_channels)

    def forward(self, volume_BCYXZ: Tensor) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        prototypes_KC = self.prototypes()
        # Height lifting leaves z outermost in memory; multiplying in that order avoids a copy.
        logits_BKZYX = torch.einsum("kc,bczyx->bkzyx", prototypes_KC, volume_BCYXZ.movedim(-1, 2))
        return logits_BKZYX.movedim(2, -1)

    def class_logits(self, features_VC: Tensor) -> Tensor:
        """Logits (V, K) of single voxels."""
        return F.linear(features_VC, self.prototypes())

    def prototypes(self) -> Tensor:
        """(K, C), which the volume is multiplied by."""
        return self.voxel_embed(self.norm(self.query.weight))

    def image_prototypes(self) -> Tensor:
        """(K, image_channels) prototypes in the space of the lifted context, for training losses.

        Raises:
            RuntimeError: the head was built without image supervision.
        """
        if self.image_embed is None:
            raise RuntimeError("this head has no image prototypes: image_channels is None")
        prototypes: Tensor = self.image_embed(self.norm(self.query.weight))
        return prototypes


@dataclass(frozen=True, kw_only=True)
class SoftmaxPrototypeHeadConfig(PrototypeHeadConfig):
    """Classes and widths as there; classes exclude each other."""

    class_scores: ClassVar[str] = "softmax"

    def build(self) -> SoftmaxPrototypeHead:
        """The module."""
        return SoftmaxPrototypeHead(self)


class SoftmaxPrototypeHead(PrototypeHead):
    """Prototypes whose products are logits of a softmax, with a bias per class.

    Masks compare every class with the rest, and a sigmoid does; cross entropies over classes drive
    logits beyond what a sigmoid can tell apart in single precision. The bias is trained with the
    rest, and can be set afterwards: the class of largest probability is not what the intersection
    over union of rare classes is best with.
    """

    def __init__(self, config: SoftmaxPrototypeHeadConfig) -> None:
        super().__init__(config)
        self.bias = nn.Parameter(torch.zeros(config.classes))

    def forward(self, volume_BCYXZ: Tensor) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        return super().forward(volume_BCYXZ) + self.bias.view(-1, 1, 1, 1)

    def class_logits(self, features_VC: Tensor) -> Tensor:
        """Logits (V, K) of single voxels."""
        return super().class_logits(features_VC) + self.bias


def _embedding(channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, channels),
        nn.ReLU(inplace=True),
        nn.Linear(channels, out_channels),
    )


@dataclass(frozen=True, kw_only=True)
class MlpHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of logits; the reference label convention puts a dummy class first.
        channels: width of the volume.
        hidden: width of the hidden layer.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "softmax"

    classes: int
    channels: int
    hidden: int = 64

    def build(self) -> MlpHead:
        """The module."""
        return MlpHead(self)


class MlpHead(Part):
    """``classify(softplus(hidden(relu(conv3x3x3(volume)))))``, the last two voxel by voxel.

    The head of BEVDet's occupancy networks (arXiv 2112.11790 and its code base).
    """

    runs_in_half = True

    def __init__(self, config: MlpHeadConfig) -> None:
        super().__init__()
        self.conv = nn.Conv3d(config.channels, config.channels, 3, padding=1)
        self.hidden = nn.Linear(config.channels, config.hidden)
        self.classify = nn.Linear(config.hidden, config.classes)

    def forward(self, volume_BCYXZ: Tensor) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        features = F.relu(self.conv(volume_BCYXZ), inplace=True).flatten(2)
        # Classes outermost, as everything that reads logits wants them.
        hidden = F.softplus(_voxelwise(self.hidden, features))
        return _voxelwise(self.classify, hidden).unflatten(2, volume_BCYXZ.shape[2:])


def _voxelwise(layer: nn.Linear, features_BCP: Tensor) -> Tensor:
    """A linear layer on the channels of all voxels."""
    return torch.matmul(layer.weight, features_BCP) + layer.bias[:, None]


@dataclass(frozen=True, kw_only=True)
class PyramidHeadConfig:
    """Classes and widths.

    Attributes:
        classes: number of logits; the reference label convention puts a dummy class first.
        channels: width of the pyramid.
        scales: volumes in the pyramid.
        width: of each scale's features here.
        hidden: width before the classes.
        class_scores: what classes are compared by.
    """

    class_scores: ClassVar[str] = "softmax"

    classes: int
    channels: int
    scales: int = 3
    width: int = 128
    hidden: int = 64

    def output_grid(self, grid: VoxelGrid) -> VoxelGrid:
        """The grid of the logits for a pyramid whose finest volume has this grid."""
        dx, dy, dz = grid.voxel_size
        X, Y, Z = grid.dims
        return VoxelGrid(grid.lower, (dx / 2, dy / 2, dz / 2), (2 * X, 2 * Y, 2 * Z))

    def build(self) -> PyramidHead:
        """The module."""
        return PyramidHead(self)


class PyramidHead(Part):
    """Class logits from a weighted sum of all scales (FB-Occ, arXiv 2307.01492).

    With o_0 the finest volume brought to twice its resolution and o_1.. every volume convolved::

        a      = softmax_S(weigh(o_0))
        logits = classify(relu(norm(sum_s a_s upsample(reduce(o_s)))))

    The reference order reduces after the sum. A convolution of one voxel without bias commutes with
    interpolation and with weights per voxel, so it runs at each scale's own resolution.
    """

    runs_in_half = True

    def __init__(self, config: PyramidHeadConfig) -> None:
        super().__init__()
        width, hidden = config.width, config.hidden
        self.refine = nn.Sequential(
            nn.ConvTranspose3d(config.channels, width, 2, stride=2, bias=False),
            nn.BatchNorm3d(width),
            nn.ReLU(inplace=True),
        )
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(config.channels, width, 3, padding=1, bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(inplace=True),
            )
            for _ in range(config.scales)
        )
        self.weigh = nn.Sequential(
            nn.Conv3d(width, hidden, 1, bias=False),
            nn.BatchNorm3d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, config.scales + 1, 1, bias=False),
        )
        self.reduce = nn.Conv3d(width, hidden, 1, bias=False)
        self.norm = nn.BatchNorm3d(hidden)
        self.classify = nn.Conv3d(hidden, config.classes, 1, bias=False)

    def forward(self, volumes: Sequence[Tensor]) -> Tensor:
        """Logits (B, K, Y, X, Z)."""
        finest = self.refine(volumes[0])
        share_BSYXZ = self.weigh(finest).softmax(dim=1)
        total = share_BSYXZ[:, :1] * self.reduce(finest)
        for s, (convolve, volume) in enumerate(zip(self.scales, volumes, strict=True), start=1):
            coarse = self.reduce(convolve(volume))
            raised = F.interpolate(
                coarse, size=finest.shape[-3:], mode="trilinear", align_corners=False
            )
            total = torch.addcmul(total, share_BSYXZ[:, s : s + 1], raised)
        return self.classify(F.relu(self.norm(total), inplace=True))
