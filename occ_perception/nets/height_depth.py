"""Depth from the height of what a pixel shows.

Legend: B batch, N cameras, n = B * N, C channels, D depth bins, Q height bins, h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.cameras import CameraTensors, PixelRays, feature_pixels
from occ_perception.nets.view_geometry import ViewGeometry

# What a pixel is given: direction (3) and origin (3) of its ray in the grid frame, and how fast
# the ray comes down to the ground.
_RAY_NUMBERS = 7
_FAR = 20.0  # metres; a second point of the ray


class RayGeometry(NamedTuple):
    """Where pixels look.

    Attributes:
        numbers_BN7hw: direction, origin and slope of the ray, scaled to about one.
        bin_BNDhw: int64, the height bin that each depth bin lies in.
    """

    numbers_BN7hw: Tensor
    bin_BNDhw: Tensor


@dataclass(frozen=True, kw_only=True)
class HeightToDepthConfig:
    """Bins of height.

    Attributes:
        edges: ascending borders between bins, metres above the origin of the grid frame; the first
            and the last bin have no end.
    """

    edges: tuple[float, ...] = (
        *(-3.0, -2.0, -1.0, -0.9, -0.8, -0.7, -0.6, -0.5, -0.4, -0.35, -0.3, -0.25, -0.2, -0.15),
        *(-0.1, -0.05, 0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
        *(1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5, 2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0),
    )

    def build(self, in_channels: int, width: int, geometry: ViewGeometry) -> HeightToDepth:
        """The module for a frustum.

        Args:
            in_channels: width of the image features.
            width: of the features that heights are predicted from.
            geometry: of the network.
        """
        return HeightToDepth(self, in_channels, width, geometry)


class HeightToDepth(nn.Module):
    """Depth logits from a prediction of how high a pixel's surface lies above the ground.

    A height is easier to predict than a depth: it hardly depends on the distance. The calibration
    turns it into a depth along the ray (BEVHeight, arXiv 2303.08498); the logits of both kinds are
    added. The ray itself is given to the features, since a convolution cannot know it. Both layers
    begin at zero, so that a network with this part begins as one without.
    """

    pixels_hw2: Tensor
    middles_D: Tensor
    edges_Q: Tensor
    upright_33: Tensor
    ends_2: Tensor
    lower_3: Tensor
    voxel_size_3: Tensor
    steepness_3: Tensor

    def __init__(
        self, config: HeightToDepthConfig, in_channels: int, width: int, geometry: ViewGeometry
    ) -> None:
        super().__init__()
        self.geometry = geometry
        self.embed_ray = nn.Conv2d(_RAY_NUMBERS, in_channels, 1)
        self.heights = nn.Conv2d(width, len(config.edges) + 1, 1)
        for layer in (self.embed_ray, self.heights):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        middles = geometry.depth.edges() + 0.5 * geometry.depth.step
        self.register_buffer("pixels_hw2", feature_pixels(geometry), persistent=False)
        self.register_buffer("middles_D", middles, persistent=False)
        self.register_buffer("edges_Q", torch.tensor(config.edges), persistent=False)
        grid = geometry.grid
        self.register_buffer("upright_33", torch.eye(3), persistent=False)
        self.register_buffer("ends_2", torch.tensor([0.0, _FAR]), persistent=False)
        self.register_buffer("lower_3", torch.tensor(grid.lower), persistent=False)
        self.register_buffer("voxel_size_3", torch.tensor(grid.voxel_size), persistent=False)
        self.register_buffer("steepness_3", torch.tensor([1.0, 1.0, 3.0]), persistent=False)

    def rays(self, cameras: CameraTensors) -> RayGeometry:
        """Rays of all feature pixels in the grid frame, without its augmentation."""
        with torch.no_grad():
            upright_B33 = self.upright_33.expand(len(cameras.K_BN33), 3, 3)
            rays = PixelRays(cameras, upright_B33, self.geometry)
            voxels_BN2hw3 = rays.voxels(self.pixels_hw2, self.ends_2[:, None, None])
            points_BN2hw3 = voxels_BN2hw3 * self.voxel_size_3 + self.lower_3
            origin_BNhw3, far_BNhw3 = points_BN2hw3.unbind(2)
            along_BNhw3 = (far_BNhw3 - origin_BNhw3) / _FAR
            height_BNDhw = (
                origin_BNhw3[..., 2][:, :, None]
                + along_BNhw3[..., 2][:, :, None] * self.middles_D[:, None, None]
            )
            fall = -along_BNhw3[..., 2:] / origin_BNhw3[..., 2:].clamp(min=0.5)
            slope = 4.0 * fall.clamp(0.0, 0.5)
            numbers = [along_BNhw3 * self.steepness_3, 0.5 * origin_BNhw3, slope]
            return RayGeometry(
                numbers_BN7hw=torch.cat(numbers, dim=-1).permute(0, 1, 4, 2, 3).contiguous(),
                bin_BNDhw=torch.bucketize(height_BNDhw, self.edges_Q),
            )

    def forward(self, features_nChw: Tensor, bin_BNDhw: Tensor) -> Tensor:
        """Logits to be added to those of the depth bins, (B * N, D, h, w)."""
        heights_nQhw = self.heights(F.relu(features_nChw))
        return heights_nQhw.gather(1, bin_BNDhw.flatten(0, 1))
