"""GDFusion (arXiv 2504.12959) on the ALOcc family: recipes, and the cards of its models."""

from __future__ import annotations

from dataclasses import replace

from occ_perception.geometry import VoxelGrid
from occ_perception.models import alocc
from occ_perception.models.alocc import LIDAR_GRID, WAYMO
from occ_perception.models.card import (
    OCCSTUDIO_FILES,
    OCCSTUDIO_LICENCE,
    WITH_MASK,
    WITHOUT_MASK,
    ModelCard,
)
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.bev_encoder import HeightLiftConfig
from occ_perception.nets.temporal.geometry_fusion import GeometryFusionConfig
from occ_perception.nets.temporal.gradient_fusion import GradientFusionConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GDFUSION_NAMES: NameRules = (("depth.depth_logits.", "depth_net.depth_head."), *OCCSTUDIO_NAMES)
"""With a second depth head, the first one has a name of its own."""


def with_gradient_fusion(config: OccupancyNetConfig) -> OccupancyNetConfig:
    """The network with gradient-descent fusion of depth and volume as its only memory.

    Args:
        config: the network without, whatever history it has.
    """
    channels, width = config.depth.context_channels, config.depth.width
    return replace(
        config,
        geometry_fusion=GeometryFusionConfig(in_channels=width),
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
    return replace(alocc_2d_gf_openoccupancy(), measured_depth=True)


def alocc_3d_gf() -> OccupancyNetConfig:
    """Voxel network."""
    return with_gradient_fusion(alocc.alocc_3d())


def alocc_3d_gf_depth() -> OccupancyNetConfig:
    """Voxel network with lidar depth."""
    return with_gradient_fusion(alocc.alocc_3d_depth())


def alocc_3d_gf_surroundocc() -> OccupancyNetConfig:
    """Voxel network on full-size images, in the lidar frame."""
    return with_gradient_fusion(alocc.alocc_3d_surroundocc())


def alocc_3d_gf_waymo() -> OccupancyNetConfig:
    """Wider voxel network for five cameras."""
    return with_gradient_fusion(alocc.alocc_3d_waymo())


def _openoccupancy() -> OccupancyNetConfig:
    grid = VoxelGrid(lower=(-51.2, -51.2, -5.0), voxel_size=(0.2, 0.2, 8.0), dims=(512, 512, 1))
    geometry = ViewGeometry((896, 1600), DepthBins(1.0, 60.0, 0.5), grid, num_cameras=6)
    height = HeightLiftConfig(in_channels=256, channels=48, voxels=40)
    return replace(alocc.alocc_2d().with_geometry(geometry), height=height)


CARDS = (
    ModelCard(
        name="alocc_2d_gf",
        title="ALOcc-2D-GF",
        config=alocc_2d_gf(),
        config_stem="alocc_2d_r50_256x704_bevdet_preatrain_gdfusion",
        label_set="occ3d",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=OCCSTUDIO_LICENCE,
        published=None,
        names=GDFUSION_NAMES,
    ),
    ModelCard(
        name="alocc_2d_gf_openoccupancy",
        title="ALOcc-2D-GF",
        config=alocc_2d_gf_openoccupancy(),
        config_stem="alocc_2d_r50_900x1600_bevdet_preatrain_gdfusion_openoccupancy",
        label_set="openoccupancy",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_r50_900x1600_bevdet_preatrain_gdfusion_openoccupancy.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 17.9, "mIoU_D": 13.7, "IoU": 28.6, "FPS": 0.8, "memory_MB": 13857.0},
        names=GDFUSION_NAMES,
        **LIDAR_GRID,
    ),
    ModelCard(
        name="alocc_2d_gf_depth_openoccupancy",
        title="ALOcc-2D-GF",
        config=alocc_2d_gf_depth_openoccupancy(),
        config_stem="alocc_2d_r50_900x1600_bevdet_preatrain_gt_depth_gdfusion_openoccupancy",
        label_set="openoccupancy",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES
        + "alocc_2d_r50_900x1600_bevdet_preatrain_gt_depth_gdfusion_openoccupancy.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 24.5, "mIoU_D": 21.6, "IoU": 34.5, "FPS": 0.8, "memory_MB": 13891.0},
        names=GDFUSION_NAMES,
        **LIDAR_GRID,
    ),
    ModelCard(
        name="alocc_3d_gf",
        title="ALOcc-3D-GF",
        config=alocc_3d_gf(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_gdfusion",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_256x704_bevdet_preatrain_gdfusion.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 46.5, "mIoU_D": 40.2, "IoU": 77.4, "FPS": 6.2, "memory_MB": 4347.0},
        names=GDFUSION_NAMES,
    ),
    ModelCard(
        name="alocc_3d_gf_nomask",
        title="ALOcc-3D-GF",
        config=alocc_3d_gf(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_gdfusion_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_256x704_bevdet_preatrain_gdfusion_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 38.4,
            "RayIoU": 44.1,
            "RayIoU_1m_2m_4m": [38.1, 45.1, 49.3],
            "FPS": 6.2,
            "memory_MB": 4347.0,
        },
        names=GDFUSION_NAMES,
    ),
    ModelCard(
        name="alocc_3d_gf_depth",
        title="ALOcc-3D-GF",
        config=alocc_3d_gf_depth(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_gt_depth_gdfusion",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=None,
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 54.9, "mIoU_D": 51.4, "IoU": 85.9, "FPS": 6.2, "memory_MB": 6561.0},
        note=(
            "the published table links the camera-only file here: the file with the "
            "depth weights is not named"
        ),
        names=GDFUSION_NAMES,
    ),
    ModelCard(
        name="alocc_3d_gf_surroundocc",
        title="ALOcc-3D-GF",
        config=alocc_3d_gf_surroundocc(),
        config_stem="alocc_3d_r50_900x1600_bevdet_preatrain_gdfusion_surroundocc",
        label_set="surroundocc",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_900x1600_bevdet_preatrain_gdfusion_surroundocc.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 25.5, "mIoU_D": 22.5, "IoU": 38.2, "FPS": 0.9, "memory_MB": 11857.0},
        names=GDFUSION_NAMES,
        **LIDAR_GRID,
    ),
    ModelCard(
        name="alocc_3d_gf_waymo",
        title="ALOcc-3D-GF",
        config=alocc_3d_gf_waymo(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_gdfusion_waymo",
        label_set="waymo",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=OCCSTUDIO_LICENCE,
        published=None,
        names=GDFUSION_NAMES,
        **WAYMO,
    ),
)
