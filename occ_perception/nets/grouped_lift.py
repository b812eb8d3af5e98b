"""Lift with several depth distributions per pixel and learned places.

Legend: B batch, N cameras, G groups of channels, C channels, D depth bins, h, w feature pixels,
X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from occ_perception.nets.cameras import feature_pixels
from occ_perception.nets.rays import PixelRays
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import grouped_soft_splat


@dataclass(frozen=True, kw_only=True)
class GroupedLiftConfig:
    """Lift-Splat in groups of channels.

    Attributes:
        channels: width of the context.
        groups: lifted with weights of their own; the depth net predicts as many distributions.
    """

    channels: int
    groups: int = 4

    def build(self, geometry: ViewGeometry) -> GroupedLift:
        """The module for a frustum and a grid."""
        return GroupedLift(self, geometry)


class GroupedLift(nn.Module):
    """Lift-Splat (arXiv 2008.05711) as CausalOcc changes it (arXiv 2509.08388).

    Each group of channels is placed by its own depth distribution, so that what a pixel means and
    where it lies can be learned apart. Every pixel and depth bin has a learned offset (input pixels
    and metres), predicted from the context and shared by the groups; it starts at zero. The splat
    is trilinear and can be differentiated twice.
    """

    pixels_hw2: Tensor
    depths_D: Tensor

    def __init__(self, config: GroupedLiftConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        self.groups = config.groups
        self.geometry = geometry
        self.offset = nn.Conv2d(config.channels, 3 * geometry.depth.count, 1)
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("depths_D", geometry.depth.edges(), persistent=False)

    def forward(self, rays: PixelRays, weights_BNDhw: Tensor, context_BNChw: Tensor) -> Tensor:
        """Volume (B, C, Y, X, Z); the camera axis of the weights holds N * G, groups innermost."""
        cameras = context_BNChw.shape[:2]
        offset = self.offset(context_BNChw.flatten(0, 1)).unflatten(0, cameras)
        offset_BNDhw3 = offset.unflatten(2, (-1, 3)).movedim(3, -1)
        voxels = rays.voxels(
            self.pixels_hw2 + offset_BNDhw3[..., :2],
            self.depths_D[:, None, None] + offset_BNDhw3[..., 2],
        )
        weights_BNGDhw = weights_BNDhw.unflatten(1, (-1, self.groups))
        return grouped_soft_splat(voxels, weights_BNGDhw, context_BNChw, self.geometry.grid.dims)
