"""From camera images to one feature map per camera, and a finer one for matching.

Legend: B batch, N cameras, H, W input pixels, C channels, h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.backbones.basic_resnet import BasicResNetConfig
from occ_perception.nets.backbones.internimage import InternImageConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backbones.swin import SwinConfig
from occ_perception.nets.backbones.timm_backbone import TimmBackboneConfig
from occ_perception.nets.part import Part


class ImageFeatures(NamedTuple):
    """What the images of one step look like.

    Attributes:
        merged_BNChw: from the neck, with the stride of the second coarsest map.
        fine_BNChw: the backbone's stride-4 map, None unless it was asked for.
    """

    merged_BNChw: Tensor
    fine_BNChw: Tensor | None


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """Backbone and the neck that merges its two coarsest maps.

    Attributes:
        backbone: what computes the maps; the last of its strides must be twice the one before,
            which is the stride of the features. The first is 4 where a part matches images
            across time.
        channels: width of the merged map.
    """

    backbone: ResNetConfig | BasicResNetConfig | InternImageConfig | SwinConfig | TimmBackboneConfig
    channels: int = 256

    def build(self) -> ImageEncoder:
        """The module."""
        return ImageEncoder(self)


class ImageEncoder(Part):
    """Images (B, N, 3, H, W) to features."""

    runs_in_half = True

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        fine, coarse = config.backbone.out_strides[-2:]
        if coarse != 2 * fine:
            raise ValueError(
                f"the image neck merges a map with one of twice its stride, the backbone gives "
                f"{config.backbone.out_strides}; set its out_strides"
            )
        self.backbone = config.backbone.build()
        fine_channels, coarse_channels = self.backbone.out_channels[-2:]
        self.neck = ImageNeck(fine_channels, coarse_channels, config.channels)

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
    """Adds the coarsest map to the one before: a feature pyramid (arXiv 1612.03144), one level.

    ``out = conv3x3(lateral_fine(fine) + nearest_upsample(lateral_coarse(coarse)))``, no norm, no
    activation.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, channels: int) -> None:
        super().__init__()
        self.lateral_fine = nn.Conv2d(fine_channels, channels, 1)
        self.lateral_coarse = nn.Conv2d(coarse_channels, channels, 1)
        self.smooth = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, fine_map: Tensor, coarse_map: Tensor) -> Tensor:
        fine = self.lateral_fine(fine_map)
        coarse = F.interpolate(
            self.lateral_coarse(coarse_map), size=fine.shape[-2:], mode="nearest"
        )
        return self.smooth(fine + coarse)
