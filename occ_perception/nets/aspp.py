"""Atrous spatial pyramid pooling (DeepLab v3, arXiv 1706.05587)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part


class AtrousBranch(Part):
    """Convolution, batch norm, ReLU at one dilation (dilation 1 is a 1x1 convolution)."""

    folds = (("atrous_conv", "bn"),)

    def __init__(self, in_channels: int, out_channels: int, dilation: int) -> None:
        super().__init__()
        kernel, padding = (1, 0) if dilation == 1 else (3, dilation)
        self.atrous_conv = nn.Conv2d(
            in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=False
        )
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)), inplace=True)


class ASPP(Part):
    """Four dilations and the image mean side by side, merged by a 1x1 convolution.

    Args:
        channels: input and output width.
        mid_channels: width of each of the five branches.
    """

    folds = (("conv1", "bn1"),)

    def __init__(self, channels: int, mid_channels: int) -> None:
        super().__init__()
        self.aspp1 = AtrousBranch(channels, mid_channels, 1)
        self.aspp2 = AtrousBranch(channels, mid_channels, 6)
        self.aspp3 = AtrousBranch(channels, mid_channels, 12)
        self.aspp4 = AtrousBranch(channels, mid_channels, 18)
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, mid_channels, 1, bias=False),
            nn.BatchNorm2d(mid_channels),
            nn.ReLU(inplace=True),
        )
        self.conv1 = nn.Conv2d(5 * mid_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        branches = [self.aspp1(x), self.aspp2(x), self.aspp3(x), self.aspp4(x), pooled]
        merged = self.bn1(self.conv1(torch.cat(branches, dim=1)))
        return self.dropout(F.relu(merged, inplace=True))
