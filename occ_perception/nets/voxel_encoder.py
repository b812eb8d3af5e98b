"""Voxel encoder: residual stages in 3-D and the neck that merges them.

Legend: B batch, C channels, X, Y, Z voxels; volumes are (B, C, Y, X, Z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


class ConvNorm3d(Part):
    """3x3x3 convolution without bias and batch norm."""

    folds = (("conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class ResidualBlock3d(nn.Module):
    """``relu(cn(relu(cn(x))) + shortcut(x))``; the shortcut is the identity unless given."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = ConvNorm3d(in_channels, out_channels, stride)
        self.conv2 = ConvNorm3d(out_channels, out_channels)
        self.downsample = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x), inplace=True)
        return F.relu(self.conv2(y) + self.downsample(x), inplace=True)


class ResidualStack3d(nn.Module):
    """Stages of residual blocks; returns the volume after each stage, finest first.

    The first block of a stage has a 3x3x3 shortcut with norm even where the shape stays the same
    (BEVDet's occupancy encoder, arXiv 2112.11790 and its code base).
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], blocks: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, count, stride in zip(widths, blocks, strides, strict=True):
            shortcut = ConvNorm3d(in_channels, width, stride)
            first = ResidualBlock3d(in_channels, width, stride, shortcut)
            rest = (ResidualBlock3d(width, width) for _ in range(1, count))
            self.stages.append(nn.Sequential(first, *rest))
            in_channels = width

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        volumes = []
        for stage in self.stages:
            volume = stage(volume)
            volumes.append(volume)
        return tuple(volumes)


@dataclass(frozen=True, kw_only=True)
class VoxelEncoderConfig:
    """Residual stages and the neck that merges all of them.

    Attributes:
        in_channels: width of the incoming volume.
        widths, blocks, strides: per stage; strides act on all three axes.
        out_channels: width of the merged volume.
    """

    in_channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    out_channels: int

    def build(self) -> VoxelEncoder:
        """The module."""
        return VoxelEncoder(self)


class VoxelEncoder(Part):
    """Volume (B, C, Y, X, Z) to volume (B, C', Y, X, Z) with context from coarser scales."""

    runs_in_half = True

    def __init__(self, config: VoxelEncoderConfig) -> None:
        super().__init__()
        self.backbone = ResidualStack3d(
            config.in_channels, config.widths, config.blocks, config.strides
        )
        self.neck = VoxelNeck(config.widths, config.out_channels)

    def forward(self, volume: Tensor) -> Tensor:
        return self.neck(self.backbone(volume))


class VoxelNeck(nn.Module):
    """``relu(bn(conv1x1x1(concat(upsampled stages))))``, evaluated stage by stage.

    A 1x1x1 convolution and an interpolation commute, and the convolution of a concatenation is
    the sum over its parts: each stage is projected at its own resolution and upsampled after
    (trilinear, aligned corners), so that the concatenated volume never exists.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.widths = list(in_channels)
        self.conv = nn.Conv3d(sum(in_channels), out_channels, 1, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, volumes: Sequence[Tensor]) -> Tensor:
        size = volumes[0].shape[-3:]
        weights = self.conv.weight.split(self.widths, dim=1)
        merged = F.conv3d(volumes[0], weights[0])
        for volume, weight in zip(volumes[1:], weights[1:], strict=True):
            merged = merged + F.interpolate(
                F.conv3d(volume, weight), size=size, mode="trilinear", align_corners=True
            )
        return F.relu(self.bn(merged), inplace=True)


@dataclass(frozen=True, kw_only=True)
class VoxelRefineConfig:
    """One residual block on the lifted volume.

    Attributes:
        channels: width, in and out.
    """

    channels: int

    def build(self) -> VoxelRefine:
        """The module."""
        return VoxelRefine(self)


class VoxelRefine(Part):
    """Cleans the lifted volume up before it meets the past, (B, C, Y, X, Z) both ways.

    Parts in this place are given the image features, too; this one does not look at them.
    """

    runs_in_half = True

    def __init__(self, config: VoxelRefineConfig) -> None:
        super().__init__()
        self.stack = ResidualStack3d(config.channels, (config.channels,), (1,), (1,))

    def forward(self, volume: Tensor, _features_BNChw: Tensor) -> Tensor:
        return self.stack(volume)[0]
