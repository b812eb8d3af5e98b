"""Recipes of the ALOcc family (arXiv 2411.07725)."""

from __future__ import annotations

from occ_perception.geometry import VoxelGrid
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import SoftLiftConfig
from occ_perception.nets.prototype_head import PrototypeHeadConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

_BEV_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 6.4), dims=(200, 200, 1))
_COARSE_DEPTH = DepthBins(1.0, 45.0, 1.0)
_OCC3D_PROTOTYPES = 19


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
