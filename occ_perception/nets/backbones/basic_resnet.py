"""A small residual network for images, made of two-convolution blocks (arXiv 1512.03385)."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.part import Part
from occ_perception.nets.residual import ResidualStack2d


@dataclass(frozen=True, kw_only=True)
class BasicResNetConfig:
    """Widths and depths; stage k has stride ``4 * 2^k``.

    Attributes:
        stem: width of the first convolution, which has stride 2.
        widths, blocks: per stage.
        out_strides: strides of the returned maps, ascending.
    """

    stem: int = 24
    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    out_strides: tuple[int, ...]

    def build(self) -> BasicResNet:
        """The module."""
        return BasicResNet(self)


class BasicResNet(Part):
    """Image (n, 3, H, W) to one map per requested stride, finest first.

    Raises:
        ValueError: no stage has a requested stride.
    """

    folds = (("conv", "norm"),)

    def __init__(self, config: BasicResNetConfig) -> None:
        super().__init__()
        strides = [4 << stage for stage in range(len(config.widths))]
        if missing := [stride for stride in config.out_strides if stride not in strides]:
            raise ValueError(
                f"no stage has stride {missing}; there are {strides}, choose out_strides among them"
            )
        self.stages_out = tuple(strides.index(stride) for stride in config.out_strides)
        self.out_strides = config.out_strides
        self.out_channels = tuple(config.widths[stage] for stage in self.stages_out)
        self.conv = nn.Conv2d(3, config.stem, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(config.stem)
        self.stack = ResidualStack2d(
            config.stem, config.widths, config.blocks, [2] * len(config.widths)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.stack(F.relu(self.norm(self.conv(images)), inplace=True))
        return tuple(maps[stage] for stage in self.stages_out)

    def fine(self, images: Tensor) -> Tensor:
        """The finest of the requested maps alone."""
        return self.forward(images)[0]
