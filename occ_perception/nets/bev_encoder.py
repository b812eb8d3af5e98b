"""Bird's-eye-view encoder and the step from map to volume.

Legend: B batch, C channels, X, Y, Z voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part
from occ_perception.nets.residual import ResidualStack2d


class VoxelPlaces(NamedTuple):
    """Voxels of a batch.

    Attributes:
        b, x, y, z: (V,) int64, sample and voxel.
    """

    b: Tensor
    x: Tensor
    y: Tensor
    z: Tensor


@dataclass(frozen=True, kw_only=True)
class BevEncoderConfig:
    """Residual stages and the neck that merges all of them.

    Attributes:
        in_channels: width of the incoming map; of a volume the width times its height in voxels.
        widths, blocks, strides: per stage.
        out_channels: width of the merged map.
        merging_kernel: size of the neck's first convolution, which reads all of them; odd.
    """

    in_channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    out_channels: int
    merging_kernel: int = 3

    def build(self) -> BevEncoder:
        """The module."""
        return BevEncoder(self)


class BevEncoder(Part):
    """Map (B, C, Y, X) to map (B, C', Y, X) with context from coarser scales.

    The heights of a volume (B, C, Y, X, Z) become channels, feature by feature.
    """

    runs_in_half = True

    def __init__(self, config: BevEncoderConfig) -> None:
        super().__init__()
        self.backbone = ResidualStack2d(
            config.in_channels, config.widths, config.blocks, config.strides
        )
        self.neck = BevNeck(config.widths, config.out_channels, config.merging_kernel)

    def forward(self, features_BCYX: Tensor) -> Tensor:
        if features_BCYX.dim() == 5:
            features_BCYX = features_BCYX.movedim(-1, 2).flatten(1, 2)
        return self.neck(self.backbone(features_BCYX))


class BevNeck(nn.Module):
    """Coarser maps upsampled to the first one's size, concatenated, two convolutions.

    The neck of BEVDet (arXiv 2112.11790), which follows the encoder of Lift-Splat, extended from
    two maps to all stages. Upsampling is bilinear with aligned corners.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, kernel: int = 3) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(sum(in_channels), out_channels, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        coarse = [
            F.interpolate(m, size=size, mode="bilinear", align_corners=True) for m in maps[1:]
        ]
        return self.conv(torch.cat([maps[0], *coarse], dim=1))


@dataclass(frozen=True, kw_only=True)
class BevRefineConfig:
    """One residual block on the lifted map.

    Attributes:
        channels: width, in and out.
    """

    channels: int

    def build(self) -> BevRefine:
        """The module."""
        return BevRefine(self)


class BevRefine(Part):
    """Cleans the lifted map up before it meets the past, (B, C, Y, X) both ways.

    Parts in this place are given the image features, too; this one does not look at them.
    """

    runs_in_half = True

    def __init__(self, config: BevRefineConfig) -> None:
        super().__init__()
        self.stack = ResidualStack2d(config.channels, (config.channels,), (1,), (1,))

    def forward(self, features_BCYX: Tensor, _features_BNChw: Tensor) -> Tensor:
        return self.stack(features_BCYX)[0]


@dataclass(frozen=True, kw_only=True)
class HeightLiftConfig:
    """Height from channels.

    Attributes:
        in_channels: width of the map.
        channels: width of the volume.
        voxels: number of voxels along z.
        upscale: voxels of the volume along each side of a voxel of the map.
        kernel: size of the convolution, odd.
    """

    in_channels: int
    channels: int
    voxels: int = 16
    upscale: int = 1
    kernel: int = 3

    def build(self) -> HeightLift:
        """The module."""
        return HeightLift(self)


class HeightLift(Part):
    """Map (B, C, Y, X) to volume (B, C', sY, sX, Z): a convolution predicts every height.

    FlashOcc (arXiv 2311.12058) calls it channel-to-height. Output channel ``c * Z + z`` of the
    convolution is feature c at height z; with an upscale s, channels become s x s voxels as well
    (pixel shuffle, arXiv 1609.05158).
    """

    runs_in_half = True

    def __init__(self, config: HeightLiftConfig) -> None:
        super().__init__()
        self.shape = (config.channels, config.voxels)
        self.upscale, self.kernel = config.upscale, config.kernel
        out_channels = config.channels * config.voxels * config.upscale**2
        self.conv = nn.Conv2d(
            config.in_channels, out_channels, config.kernel, padding=config.kernel // 2
        )

    def forward(self, features_BCYX: Tensor) -> Tensor:
        heights = self.conv(features_BCYX)
        if self.upscale > 1:
            heights = F.pixel_shuffle(heights, self.upscale)
        return heights.unflatten(1, self.shape).movedim(2, -1)

    def at(self, map_BCXY: Tensor, places: VoxelPlaces) -> Tensor:
        """(V, C') features of single voxels; only a 1x1 convolution can be asked so.

        Voxels at one place within their column share their weights, so there are as many products
        as a column has voxels.
        """
        assert self.kernel == 1 and self.conv.bias is not None
        side, (channels, heights) = self.upscale, self.shape
        b, x, y, z = places
        inner_V = (z * side + y % side) * side + x % side
        order_V = inner_V.argsort()
        rows_VC = map_BCXY.movedim(1, -1)[b, x // side, y // side][order_V]
        counts = inner_V.bincount(minlength=heights * side**2).tolist()
        # (C' * Z * side * side, C) to (Z * side * side, C', C)
        weights = self.conv.weight.view(channels, len(counts), -1).movedim(1, 0)
        biases = self.conv.bias.view(channels, len(counts)).T
        groups = zip(rows_VC.split(counts), weights, biases, strict=True)
        lifted_VC = torch.cat([F.linear(rows, weight, bias) for rows, weight, bias in groups])
        return lifted_VC[order_V.argsort()]
