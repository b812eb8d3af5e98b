"""From camera images to one stride-16 feature map per camera, and a finer one for matching.

Legend: B batch, N cameras, H, W input pixels, C channels, h, w = H/16, W/16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.backbones.internimage import InternImageConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backbones.swin import SwinConfig
from occ_perception.nets.backbones.timm_backbone import TimmBackboneConfig
from occ_perception.nets.part import Part


class ImageFeatures(NamedTuple):
    """What the images of one step look like.

    Attributes:
        merged_BNChw: stride 16, from the neck.
        fine_BNChw: the backbone's stride-4 map, None unless it was asked for.
    """

    merged_BNChw: Tensor
    fine_BNChw: Tensor | None


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """Backbone and the neck that merges its two coarsest maps.

    Attributes:
        backbone: what computes the maps; its strides must end in 16 and 32, and start with 4
            where a part matches images across time.
        channels: width of the merged map.
    """

    backbone: ResNetConfig | InternImageConfig | SwinConfig | TimmBackboneConfig
    channels: int = 256

    def build(self) -> ImageEncoder:
        """The module."""
        return ImageEncoder(self)


class ImageEncoder(Part):
    """Images (B, N, 3, H, W) to features."""

    runs_in_half = True

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        if config.backbone.out_strides[-2:] != (16, 32):
            raise ValueError(
                f"the image neck merges strides 16 and 32, the backbone gives "
                f"{config.backbone.out_strides}; set its out_strides"
            )
        self.backbone = config.backbone.build()
        c16, c32 = self.backbone.out_channels[-2:]
        self.neck = ImageNeck(c16, c32, config.channels)

    def forward(self, images_BN3HW: Tensor) -> ImageFeatures:
        cameras = images_BN3HW.shape[:2]
        maps = self.backbone(images_BN3HW.flatten(0, 1))
        merged = self.neck(maps[-2], maps[-1])
        fine = maps[0].unflatten(0, cameras) if len(maps) > 2 else None
        return ImageFeatures(merged.unflatten(0, cameras), fine)

    def fine(self, images_BN3HW: Tensor) -> Tensor:
        """The stride-4 map alone."""
        return self.backbone.fine(images_BN3HW.flatten(0, 1)).unflatten(0, images_BN3HW.shape[:2])


class ImageNeck(nn.Module):
    """Adds the stride-32 map to the stride-16 one: a feature pyramid (arXiv 1612.03144), one level.

    ``out = conv3x3(lateral16(m16) + nearest_upsample(lateral32(m32)))``, no norm, no activation.
    """

    def __init__(self, channels16: int, channels32: int, channels: int) -> None:
        super().__init__()
        self.lateral16 = nn.Conv2d(channels16, channels, 1)
        self.lateral32 = nn.Conv2d(channels32, channels, 1)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, map16: Tensor, map32: Tensor) -> Tensor:
        fine = self.lateral16(map16)
        coarse = F.interpolate(self.lateral32(map32), size=fine.shape[-2:], mode="nearest")
        return self.smooth(fine + coarse)
