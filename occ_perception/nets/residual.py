"""The two-convolution residual block that depth net and bird's-eye-view encoder are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


class ResidualBlock2d(Part):
    """``relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))`` with 3x3 convolutions without bias.

    Args:
        in_channels, out_channels: widths.
        stride: of the first convolution.
        shortcut: what brings x to the output's shape; the identity where it has it already.
    """

    folds = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 1,
        shortcut: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.downsample(x), inplace=True)


class ResidualStack2d(nn.Module):
    """Stages of residual blocks; returns the map after each stage, finest first.

    The first block of a stage has a 3x3 shortcut with bias and without norm even where the shape
    stays the same (BEVDet, arXiv 2112.11790, bird's-eye-view encoder).

    Args:
        in_channels: width of the input map.
        widths, blocks, strides: per stage.
    """

    def __init__(
        self, in_channels: int, widths: Sequence[int], blocks: Sequence[int], strides: Sequence[int]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for width, count, stride in zip(widths, blocks, strides, strict=True):
            shortcut = nn.Conv2d(in_channels, width, 3, stride, padding=1)
            first = ResidualBlock2d(in_channels, width, stride, shortcut)
            rest = (ResidualBlock2d(width, width) for _ in range(1, count))
            self.stages.append(nn.Sequential(first, *rest))
            in_channels = width

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        maps = []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps)
