"""Voxel encoder that hands on every scale: residual stages and a feature pyramid in 3-D.

Legend: B batch, C channels, X, Y, Z voxels; volumes are (B, C, Y, X, Z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


@dataclass(frozen=True, kw_only=True)
class PyramidEncoderConfig:
    """Residual stages and the pyramid over all of them.

    Attributes:
        in_channels: width of the incoming volume.
        widths, blocks, strides: per stage; strides act on all three axes.
        out_channels: width of every volume of the pyramid.
    """

    in_channels: int
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[int, ...]
    out_channels: int

    def build(self) -> PyramidEncoder:
        """The module."""
        return PyramidEncoder(self)


class PyramidEncoder(Part):
    """Volume to volumes of one width, finest first (the encoder of FB-Occ, arXiv 2307.01492)."""

    runs_in_half = True

    def __init__(self, config: PyramidEncoderConfig) -> None:
        super().__init__()
        self.project = NormedConv3d(config.in_channels, config.widths[0], 1)
        self.backbone = BiasedStack3d(config)
        self.pyramid = VoxelPyramid(config.widths, config.out_channels)

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        return self.pyramid(self.backbone(self.project(volume)))


class NormedConv3d(Part):
    """``relu(bn(conv(x)))``, the convolution without bias."""

    folds = (("conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm3d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class BiasedBlock3d(Part):
    """``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))``, the convolutions with bias.

    The shortcut is the identity unless the shape changes.
    """

    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1)
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv3d(in_channels, out_channels, 1, stride), nn.BatchNorm3d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class BiasedStack3d(nn.Module):
    """Stages of residual blocks; returns the volume after each stage, finest first."""

    def __init__(self, config: PyramidEncoderConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        in_channels = config.widths[0]
        for width, count, stride in zip(config.widths, config.blocks, config.strides, strict=True):
            first = BiasedBlock3d(in_channels, width, stride)
            rest = (BiasedBlock3d(width, width) for _ in range(1, count))
            self.stages.append(nn.Sequential(first, *rest))
            in_channels = width

    def forward(self, volume: Tensor) -> tuple[Tensor, ...]:
        volumes = []
        for stage in self.stages:
            volume = stage(volume)
            volumes.append(volume)
        return tuple(volumes)


class VoxelPyramid(nn.Module):
    """Adds every coarser volume to the next finer one (arXiv 1612.03144), trilinear, voxel centres.

    ``out_i = smooth_i(m_i)`` with ``m_i = lateral_i(v_i) + upsample(m_{i+1})``.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(NormedConv3d(width, channels, 1) for width in in_channels)
        self.smooth = nn.ModuleList(NormedConv3d(channels, channels, 3) for _ in in_channels)

    def forward(self, volumes: Sequence[Tensor]) -> tuple[Tensor, ...]:
        merged: list[Tensor] = []
        for lateral, volume in zip(reversed(self.lateral), reversed(volumes), strict=True):
            own = lateral(volume)
            if merged:
                own = own + F.interpolate(
                    merged[-1], size=own.shape[-3:], mode="trilinear", align_corners=False
                )
            merged.append(own)
        return tuple(smooth(own) for smooth, own in zip(self.smooth, reversed(merged), strict=True))
