"""ResNet with bottleneck blocks (arXiv 1512.03385), stride in the 3x3 convolution.

Parameter names are torchvision's, so that any torchvision ResNet file fits as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
_STRIDES = (4, 8, 16, 32)
_EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """Which ResNet, and which of its stages are wanted.

    Attributes:
        depth: 50 or 101.
        out_strides: strides of the returned maps, ascending; a subset of 4, 8, 16, 32.
    """

    depth: int = 50
    out_strides: tuple[int, ...] = (16, 32)

    def build(self) -> ResNet:
        """The module."""
        return ResNet(self)


class ResNet(Part):
    """Image (n, 3, H, W) to one map per requested stride, finest first."""

    folds = (("conv1", "bn1"),)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.out_strides = config.out_strides
        self.out_channels = tuple(64 * stride for stride in config.out_strides)
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        counts = _BLOCKS[config.depth]
        self.layer1 = _stage(64, 64, counts[0], stride=1)
        self.layer2 = _stage(256, 128, counts[1], stride=2)
        self.layer3 = _stage(512, 256, counts[2], stride=2)
        self.layer4 = _stage(1024, 512, counts[3], stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        features = self.stem(images)
        outputs = []
        for stride, stage in zip(
            _STRIDES, (self.layer1, self.layer2, self.layer3, self.layer4), strict=True
        ):
            features = stage(features)
            if stride in self.out_strides:
                outputs.append(features)
        return tuple(outputs)

    def fine(self, images: Tensor) -> Tensor:
        """The stride-4 map alone."""
        return self.layer1(self.stem(images))

    def stem(self, images: Tensor) -> Tensor:
        """First convolution and pooling, stride 4."""
        features = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return F.max_pool2d(features, kernel_size=3, stride=2, padding=1)


class Bottleneck(Part):
    """1x1 down, 3x3, 1x1 up, plus the shortcut."""

    folds = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * _EXPANSION
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)


def _stage(in_channels: int, width: int, count: int, stride: int) -> nn.Sequential:
    first = Bottleneck(in_channels, width, stride)
    return nn.Sequential(
        first, *(Bottleneck(width * _EXPANSION, width, 1) for _ in range(1, count))
    )
