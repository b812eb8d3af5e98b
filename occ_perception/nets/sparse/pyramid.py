"""From camera images to a pyramid of feature maps per camera.

Legend: B batch, N cameras, H, W input pixels, h, w pixels of a level, E channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.part import Part

STRIDES = (4, 8, 16, 32)


class Pyramid(NamedTuple):
    """One map per stride, finest first: (B, N, h, w, E), in memory (B, F, N, h, w, E)."""

    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    stride32: Tensor


@dataclass(frozen=True, kw_only=True)
class ImagePyramidConfig:
    """Backbone and feature pyramid.

    Attributes:
        backbone: what computes the maps; its strides must be 4, 8, 16 and 32.
        channels: width of each map of the pyramid.
    """

    backbone: ResNetConfig
    channels: int = 256

    def build(self) -> ImagePyramid:
        """The module."""
        return ImagePyramid(self)


class ImagePyramid(Part):
    """Images (B, N, 3, H, W) to a pyramid, channels last."""

    runs_in_half = True

    def __init__(self, config: ImagePyramidConfig) -> None:
        super().__init__()
        if config.backbone.out_strides != STRIDES:
            raise ValueError(
                f"the pyramid has strides {STRIDES}, the backbone gives "
                f"{config.backbone.out_strides}; set its out_strides"
            )
        self.backbone = config.backbone.build()
        self.neck = PyramidNeck(self.backbone.out_channels, config.channels)

    def forward(self, images_BN3HW: Tensor) -> Pyramid:
        maps = self.neck(self.backbone(images_BN3HW.flatten(0, 1)))
        cameras = images_BN3HW.shape[:2]
        return Pyramid(*(level.movedim(1, -1).unflatten(0, cameras) for level in maps))


class PyramidNeck(nn.Module):
    """Feature pyramid (arXiv 1612.03144): each map gets the next coarser one, repeated to its
    size, and is smoothed by a 3x3 convolution; no norm, no activation."""

    def __init__(self, in_channels: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in in_channels)
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in in_channels
        )

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        merged = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for fine in range(len(merged) - 2, -1, -1):
            size = merged[fine].shape[-2:]
            coarse = F.interpolate(merged[fine + 1], size=size, mode="nearest")
            merged[fine] = merged[fine] + coarse
        return [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]
