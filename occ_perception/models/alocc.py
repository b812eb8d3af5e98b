"""The ALOcc family (arXiv 2411.07725): recipes, and the cards of its models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import (
    OCCSTUDIO_FILES,
    OCCSTUDIO_LICENCE,
    WAYMO_CAMERAS,
    WITH_MASK,
    WITHOUT_MASK,
    ModelCard,
)
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.internimage import InternImageConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backbones.swin import SwinConfig
from occ_perception.nets.bev_encoder import BevEncoderConfig, BevRefineConfig, HeightLiftConfig
from occ_perception.nets.depth_net import DepthNetConfig, MatchingEncoderConfig
from occ_perception.nets.flow_head import FlowHeadConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.inter_object import InterObjectConfig
from occ_perception.nets.lift import SoftLiftConfig
from occ_perception.nets.occupancy_heads import PrototypeHeadConfig
from occ_perception.nets.stereo import PlaneSweepConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.nets.voxel_encoder import VoxelEncoderConfig, VoxelRefineConfig

_BEV_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 6.4), dims=(200, 200, 1))
_VOXEL_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 0.4), dims=(200, 200, 16))
_COARSE_DEPTH = DepthBins(1.0, 45.0, 1.0)
_FINE_DEPTH = DepthBins(1.0, 45.0, 0.5)
_OCC3D_PROTOTYPES = 19
_OPENOCC_PROTOTYPES = 18
_WAYMO_PROTOTYPES = 17


def alocc_2d_mini() -> OccupancyNetConfig:
    """Bird's-eye-view network without stereo, sixteen frames of history."""
    return _mini((256, 704), ConcatHistoryConfig(channels=40))


def alocc_2d_mini_surroundocc() -> OccupancyNetConfig:
    """The same network on full-size images, in the lidar frame, without history."""
    return _mini((896, 1600), None)


def _mini(input_size: tuple[int, int], temporal: ConcatHistoryConfig | None) -> OccupancyNetConfig:
    context = 40
    return OccupancyNetConfig(
        geometry=ViewGeometry(input_size, _COARSE_DEPTH, _BEV_GRID, num_cameras=6),
        image=ImageEncoderConfig(backbone=ResNetConfig(depth=50)),
        depth=DepthNetConfig(context_channels=context),
        lift=SoftLiftConfig(),
        temporal=temporal,
        encoder=BevEncoderConfig(
            in_channels=context,
            widths=(32, 64, 128),
            blocks=(1, 2, 4),
            strides=(1, 2, 2),
            out_channels=128,
        ),
        height=HeightLiftConfig(in_channels=128, channels=32),
        head=PrototypeHeadConfig(classes=_OCC3D_PROTOTYPES, channels=32, image_channels=context),
    )


def alocc_2d() -> OccupancyNetConfig:
    """Bird's-eye-view network with stereo, sixteen frames of history."""
    context = 80
    return OccupancyNetConfig(
        geometry=ViewGeometry((256, 704), _FINE_DEPTH, _BEV_GRID, num_cameras=6),
        pre=BevRefineConfig(channels=context),
        temporal=ConcatHistoryConfig(channels=context),
        encoder=BevEncoderConfig(
            in_channels=context,
            widths=(64, 128, 256, 512),
            blocks=(1, 2, 4, 4),
            strides=(1, 2, 2, 2),
            out_channels=256,
        ),
        height=HeightLiftConfig(in_channels=256, channels=48),
        head=PrototypeHeadConfig(classes=_OCC3D_PROTOTYPES, channels=48, image_channels=context),
        **_stereo_parts(context, num_cameras=6),
    )


def alocc_3d() -> OccupancyNetConfig:
    """Voxel network with stereo, sixteen frames of history."""
    geometry = ViewGeometry((256, 704), _FINE_DEPTH, _VOXEL_GRID, num_cameras=6)
    return _voxel(geometry, ConcatHistoryConfig(channels=32), context=32)


def alocc_3d_surroundocc() -> OccupancyNetConfig:
    """Voxel network on full-size images, in the lidar frame, without history."""
    grid = VoxelGrid(lower=(-50.0, -50.0, -5.0), voxel_size=(0.5, 0.5, 0.5), dims=(200, 200, 16))
    geometry = ViewGeometry((896, 1600), DepthBins(1.0, 60.0, 0.5), grid, num_cameras=6)
    return _voxel(geometry, None, context=32)


def alocc_3d_waymo() -> OccupancyNetConfig:
    """Wider voxel network for five cameras; its prototypes do not supervise the images."""
    geometry = ViewGeometry((640, 960), DepthBins(1.0, 58.0, 0.5), _VOXEL_GRID, num_cameras=5)
    config = _voxel(geometry, ConcatHistoryConfig(channels=64), context=64, channels=64)
    return replace(config, head=PrototypeHeadConfig(classes=_WAYMO_PROTOTYPES, channels=64))


def alocc_3d_depth() -> OccupancyNetConfig:
    """Voxel network with lidar depth."""
    return replace(alocc_3d(), measured_depth=True)


def alocc_3d_depth_internimage_t() -> OccupancyNetConfig:
    """The same on InternImage-T instead of ResNet-50."""
    backbone = InternImageConfig(out_strides=(4, 16, 32))
    return _with_backbone(alocc_3d_depth(), backbone, matching_channels=64)


def alocc_3d_depth_swin_b() -> OccupancyNetConfig:
    """Wider voxel network with lidar depth on Swin-B, on images of twice the height and width."""
    geometry = ViewGeometry((512, 1408), _FINE_DEPTH, _VOXEL_GRID, num_cameras=6)
    config = _voxel(geometry, ConcatHistoryConfig(channels=64), context=64, channels=64)
    config = replace(config, measured_depth=True)
    return _with_backbone(config, SwinConfig(out_strides=(4, 16, 32)), matching_channels=128)


def alocc_flow_2d() -> OccupancyNetConfig:
    """ALOcc-2D with a flow head, for the classes of OpenOcc."""
    return _with_flow(alocc_2d())


def alocc_flow_3d() -> OccupancyNetConfig:
    """ALOcc-3D with a flow head, for the classes of OpenOcc."""
    return _with_flow(alocc_3d())


def _with_backbone(
    config: OccupancyNetConfig,
    backbone: InternImageConfig | SwinConfig,
    matching_channels: int,
) -> OccupancyNetConfig:
    return replace(
        config,
        image=ImageEncoderConfig(backbone=backbone),
        stereo=PlaneSweepConfig(channels=matching_channels),
    )


def _with_flow(config: OccupancyNetConfig) -> OccupancyNetConfig:
    head = replace(config.head, classes=_OPENOCC_PROTOTYPES)
    return replace(config, head=head, flow=FlowHeadConfig(channels=head.channels))


def _voxel(
    geometry: ViewGeometry,
    temporal: ConcatHistoryConfig | None,
    context: int,
    channels: int = 48,
) -> OccupancyNetConfig:
    return OccupancyNetConfig(
        geometry=geometry,
        pre=VoxelRefineConfig(channels=context),
        temporal=temporal,
        encoder=VoxelEncoderConfig(
            in_channels=context,
            widths=(context, 2 * context, 4 * context, 8 * context),
            blocks=(1, 2, 4, 4),
            strides=(1, 2, 2, 2),
            out_channels=channels,
        ),
        head=PrototypeHeadConfig(
            classes=_OCC3D_PROTOTYPES, channels=channels, image_channels=context
        ),
        **_stereo_parts(context, geometry.num_cameras),
    )


def _stereo_parts(context: int, num_cameras: int) -> dict[str, Any]:
    """From images to volume, as every ALOcc but the mini one has it."""
    return {
        "image": ImageEncoderConfig(backbone=ResNetConfig(depth=50, out_strides=(4, 16, 32))),
        "stereo": PlaneSweepConfig(channels=256),
        "depth": DepthNetConfig(context_channels=context, matching=MatchingEncoderConfig()),
        "inter_object": InterObjectConfig(last_bin=num_cameras - 1),
        "lift": SoftLiftConfig(),
    }


LIDAR_GRID: dict[str, Any] = {"grid_frame": "lidar", "excluded_class": 0}
"""The grid of these models lies in the lidar frame, and "others" is never predicted."""

WAYMO: dict[str, Any] = {
    "cameras": WAYMO_CAMERAS,
    "frame_spacing_s": 0.1,
    "native_size": (1280, 1920),
}

CARDS = (
    ModelCard(
        name="alocc_2d_mini",
        title="ALOcc-2D-mini",
        config=alocc_2d_mini(),
        config_stem="alocc_2d_mini_r50_256x704_bevdet_preatrain_16f",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 41.4, "mIoU_D": 35.4, "IoU": 70.0, "FPS": 30.5, "memory_MB": 1605.0},
    ),
    ModelCard(
        name="alocc_2d_mini_nomask",
        title="ALOcc-2D-mini",
        config=alocc_2d_mini(),
        config_stem="alocc_2d_mini_r50_256x704_bevdet_preatrain_16f_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 33.4,
            "RayIoU": 39.3,
            "RayIoU_1m_2m_4m": [32.9, 40.1, 44.8],
            "FPS": 30.5,
            "memory_MB": 1605.0,
        },
    ),
    ModelCard(
        name="alocc_2d_mini_surroundocc",
        title="ALOcc-2D-mini",
        config=alocc_2d_mini_surroundocc(),
        config_stem="alocc_2d_mini_r50_256x704_bevdet_preatrain_surroundocc",
        label_set="surroundocc",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_mini_r50_256x704_bevdet_preatrain_surroundocc.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 21.5, "mIoU_D": 19.5, "IoU": 31.5, "FPS": 5.8, "memory_MB": 2869.0},
        **LIDAR_GRID,
    ),
    ModelCard(
        name="alocc_2d",
        title="ALOcc-2D",
        config=alocc_2d(),
        config_stem="alocc_2d_r50_256x704_bevdet_preatrain_16f",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_r50_256x704_bevdet_preatrain_16f.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 44.8, "mIoU_D": 38.7, "IoU": 74.3, "FPS": 8.2, "memory_MB": 5553.0},
    ),
    ModelCard(
        name="alocc_2d_nomask",
        title="ALOcc-2D",
        config=alocc_2d(),
        config_stem="alocc_2d_r50_256x704_bevdet_preatrain_16f_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "alocc_2d_r50_256x704_bevdet_preatrain_16f_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 37.4,
            "RayIoU": 43.0,
            "RayIoU_1m_2m_4m": [37.1, 43.8, 48.2],
            "FPS": 8.2,
            "memory_MB": 5553.0,
        },
    ),
    ModelCard(
        name="alocc_3d",
        title="ALOcc-3D",
        config=alocc_3d(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_16f",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_256x704_bevdet_preatrain_16f.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 45.5, "mIoU_D": 39.3, "IoU": 75.3, "FPS": 6.0, "memory_MB": 10793.0},
    ),
    ModelCard(
        name="alocc_3d_nomask",
        title="ALOcc-3D",
        config=alocc_3d(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_16f_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_256x704_bevdet_preatrain_16f_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 38.0,
            "RayIoU": 43.7,
            "RayIoU_1m_2m_4m": [37.8, 44.7, 48.8],
            "FPS": 6.0,
            "memory_MB": 10793.0,
        },
    ),
    ModelCard(
        name="alocc_3d_depth",
        title="ALOcc-3D",
        config=alocc_3d_depth(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_16f_gt_depth",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_256x704_bevdet_preatrain_16f_gt_depth.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 54.5, "mIoU_D": 50.6, "IoU": 85.2, "FPS": 6.0, "memory_MB": 13003.0},
    ),
    ModelCard(
        name="alocc_3d_depth_internimage_t",
        title="ALOcc-3D",
        config=alocc_3d_depth_internimage_t(),
        config_stem="alocc_3d_internimage_tiny_256x704_bevdet_preatrain_16f_gt_depth",
        label_set="occ3d",
        backbone="Intern-T",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_internimage_tiny_256x704_bevdet_preatrain_16f_gt_depth.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 55.6, "mIoU_D": 52.4, "IoU": 85.1, "FPS": 5.8, "memory_MB": 13015.0},
    ),
    ModelCard(
        name="alocc_3d_depth_swin_b",
        title="ALOcc-3D",
        config=alocc_3d_depth_swin_b(),
        config_stem="alocc_3d_swin_base_512x1408_geomim_preatrain_16f_gt_depth",
        label_set="occ3d",
        backbone="Swin-Base",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_swin_base_512x1408_geomim_preatrain_16f_gt_depth.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 60.0, "mIoU_D": 57.8, "IoU": 87.8, "FPS": 1.5, "memory_MB": 26867.0},
    ),
    ModelCard(
        name="alocc_3d_surroundocc",
        title="ALOcc-3D",
        config=alocc_3d_surroundocc(),
        config_stem="alocc_3d_r50_900x1600_bevdet_preatrain_surroundocc",
        label_set="surroundocc",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "alocc_3d_r50_900x1600_bevdet_preatrain_surroundocc.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 24.0, "mIoU_D": 21.7, "IoU": 34.7, "FPS": 1.7, "memory_MB": 11117.0},
        **LIDAR_GRID,
    ),
    ModelCard(
        name="alocc_3d_waymo",
        title="ALOcc-3D",
        config=alocc_3d_waymo(),
        config_stem="alocc_3d_r50_256x704_bevdet_preatrain_16f_waymo",
        label_set="waymo",
        backbone="R-50",
        protocol=None,
        url=None,
        licence=OCCSTUDIO_LICENCE,
        published=None,
        **WAYMO,
    ),
    ModelCard(
        name="alocc_flow_2d",
        title="ALOcc-Flow-2D",
        config=alocc_flow_2d(),
        config_stem="aloccflow_2d_r50_256x704_bevdet_preatrain_16f",
        label_set="openocc",
        backbone="R-50",
        protocol="OpenOcc",
        url=OCCSTUDIO_FILES + "alocc_flow_2d_r50_256x704.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "OccScore": 41.9,
            "mAVE": 0.53,
            "mAVE_TP": 0.431,
            "RayIoU": 40.3,
            "RayIoU_1m_2m_4m": [34.3, 41.0, 45.5],
            "FPS": 7.0,
        },
    ),
    ModelCard(
        name="alocc_flow_3d",
        title="ALOcc-Flow-3D",
        config=alocc_flow_3d(),
        config_stem="aloccflow_3d_r50_256x704_bevdet_preatrain_16f",
        label_set="openocc",
        backbone="R-50",
        protocol="OpenOcc",
        url=OCCSTUDIO_FILES + "alocc_flow_3d_r50_256x704.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "OccScore": 43.1,
            "mAVE": 0.549,
            "mAVE_TP": 0.458,
            "RayIoU": 41.9,
            "RayIoU_1m_2m_4m": [35.6, 42.9, 47.2],
            "FPS": 5.5,
        },
    ),
)
