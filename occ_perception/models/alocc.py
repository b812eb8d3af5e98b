"""Recipes of the ALOcc family (arXiv 2411.07725)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from occ_perception.geometry import VoxelGrid
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
from occ_perception.nets.prototype_head import PrototypeHeadConfig
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
    """The same network on full-size pictures, in the lidar frame, without history."""
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
    """Voxel network on full-size pictures, in the lidar frame, without history."""
    grid = VoxelGrid(lower=(-50.0, -50.0, -5.0), voxel_size=(0.5, 0.5, 0.5), dims=(200, 200, 16))
    geometry = ViewGeometry((896, 1600), DepthBins(1.0, 60.0, 0.5), grid, num_cameras=6)
    return _voxel(geometry, None, context=32)


def alocc_3d_waymo() -> OccupancyNetConfig:
    """Wider voxel network for five cameras; its prototypes do not supervise the pictures."""
    geometry = ViewGeometry((640, 960), DepthBins(1.0, 58.0, 0.5), _VOXEL_GRID, num_cameras=5)
    config = _voxel(geometry, ConcatHistoryConfig(channels=64), context=64, channels=64)
    return replace(config, head=PrototypeHeadConfig(classes=_WAYMO_PROTOTYPES, channels=64))


def alocc_3d_internimage_t() -> OccupancyNetConfig:
    """Voxel network on InternImage-T instead of ResNet-50."""
    backbone = InternImageConfig(out_strides=(4, 16, 32))
    return _with_backbone(alocc_3d(), backbone, matching_channels=64)


def alocc_3d_swin_b() -> OccupancyNetConfig:
    """Wider voxel network on Swin-B, on pictures of twice the height and width."""
    geometry = ViewGeometry((512, 1408), _FINE_DEPTH, _VOXEL_GRID, num_cameras=6)
    config = _voxel(geometry, ConcatHistoryConfig(channels=64), context=64, channels=64)
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
    """From pictures to volume, as every ALOcc but the mini one has it."""
    return {
        "image": ImageEncoderConfig(backbone=ResNetConfig(depth=50, out_strides=(4, 16, 32))),
        "stereo": PlaneSweepConfig(channels=256),
        "depth": DepthNetConfig(context_channels=context, matching=MatchingEncoderConfig()),
        "inter_object": InterObjectConfig(last_bin=num_cameras - 1),
        "lift": SoftLiftConfig(),
    }
