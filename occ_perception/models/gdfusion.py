"""Recipes of GDFusion (arXiv 2504.12959) on the ALOcc family."""

from __future__ import annotations

from dataclasses import replace

from occ_perception.geometry import VoxelGrid
from occ_perception.models import alocc
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.published_names import OCCSTUDIO_NAMES, NameRules
from occ_perception.nets.bev_encoder import HeightLiftConfig
from occ_perception.nets.temporal.geometry_fusion import GeometryFusionConfig
from occ_perception.nets.temporal.gradient_fusion import GradientFusionConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GDFUSION_NAMES: NameRules = (("depth.depth_logits.", "depth_net.depth_head."), *OCCSTUDIO_NAMES)
"""With a second depth head, the first one has a name of its own."""


def with_gradient_fusion(
    config: OccupancyNetConfig, measured_depth: bool = False
) -> OccupancyNetConfig:
    """The network with gradient-descent fusion of depth and volume as its only memory.

    Args:
        config: the network without, whatever history it has.
        measured_depth: whether lidar depth enters the fusion of depth.
    """
    channels, width = config.depth.context_channels, config.depth.width
    return replace(
        config,
        geometry_fusion=GeometryFusionConfig(in_channels=width, measured_depth=measured_depth),
        temporal=GradientFusionConfig.of_width(channels),
    )


def alocc_2d_gf() -> OccupancyNetConfig:
    """Bird's-eye-view network."""
    return with_gradient_fusion(alocc.alocc_2d())


def alocc_2d_gf_openoccupancy() -> OccupancyNetConfig:
    """Bird's-eye-view network of twice the resolution, in the lidar frame."""
    return with_gradient_fusion(_openoccupancy())


def alocc_2d_gf_depth_openoccupancy() -> OccupancyNetConfig:
    """The same with lidar depth."""
    return with_gradient_fusion(_openoccupancy(), measured_depth=True)


def alocc_3d_gf() -> OccupancyNetConfig:
    """Voxel network."""
    return with_gradient_fusion(alocc.alocc_3d())


def alocc_3d_gf_depth() -> OccupancyNetConfig:
    """Voxel network with lidar depth."""
    return with_gradient_fusion(alocc.alocc_3d(), measured_depth=True)


def alocc_3d_gf_surroundocc() -> OccupancyNetConfig:
    """Voxel network on full-size pictures, in the lidar frame."""
    return with_gradient_fusion(alocc.alocc_3d_surroundocc())


def alocc_3d_gf_waymo() -> OccupancyNetConfig:
    """Wider voxel network for five cameras."""
    return with_gradient_fusion(alocc.alocc_3d_waymo())


def _openoccupancy() -> OccupancyNetConfig:
    grid = VoxelGrid(lower=(-51.2, -51.2, -5.0), voxel_size=(0.2, 0.2, 8.0), dims=(512, 512, 1))
    geometry = ViewGeometry((896, 1600), DepthBins(1.0, 60.0, 0.5), grid, num_cameras=6)
    height = HeightLiftConfig(in_channels=256, channels=48, cells=40)
    return replace(alocc.alocc_2d().with_geometry(geometry), height=height)
