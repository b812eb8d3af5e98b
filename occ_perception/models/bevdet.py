"""BEVDetOcc, which is BEVDet (arXiv 2112.11790) with stereo and an occupancy head: recipes, and the
cards of its models."""

from __future__ import annotations

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import (
    OCCSTUDIO_FILES,
    OCCSTUDIO_LICENCE,
    WITH_MASK,
    WITHOUT_MASK,
    ModelCard,
)
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES, NameRules
from occ_perception.models.gdfusion import GDFUSION_NAMES, with_gradient_fusion
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.depth_net import DepthNetConfig, MatchingEncoderConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import HardLiftConfig
from occ_perception.nets.occupancy_heads import MlpHeadConfig
from occ_perception.nets.stereo import PlaneSweepConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.nets.voxel_encoder import VoxelEncoderConfig, VoxelRefineConfig

_HEAD_NAMES: NameRules = (
    ("head.conv.", "occupancy_head.final_conv.conv."),
    ("head.hidden.", "occupancy_head.predicter.0."),
    ("head.classify.", "occupancy_head.predicter.2."),
)
BEVDETOCC_NAMES: NameRules = (*_HEAD_NAMES, *OCCSTUDIO_NAMES)
BEVDETOCC_GF_NAMES: NameRules = (*_HEAD_NAMES, *GDFUSION_NAMES)

_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 0.4), dims=(200, 200, 16))
_CHANNELS = 32
_OCC3D_CLASSES = 19


def bevdetocc_sf() -> OccupancyNetConfig:
    """Voxel network with stereo, sixteen frames of history."""
    return OccupancyNetConfig(
        geometry=ViewGeometry((256, 704), DepthBins(1.0, 45.0, 0.5), _GRID, num_cameras=6),
        image=ImageEncoderConfig(backbone=ResNetConfig(depth=50, out_strides=(4, 16, 32))),
        stereo=PlaneSweepConfig(channels=256),
        depth=DepthNetConfig(
            context_channels=_CHANNELS, occluded_bins=None, matching=MatchingEncoderConfig()
        ),
        lift=HardLiftConfig(),
        pre=VoxelRefineConfig(channels=_CHANNELS),
        temporal=ConcatHistoryConfig(channels=_CHANNELS),
        encoder=VoxelEncoderConfig(
            in_channels=_CHANNELS,
            widths=(32, 64, 128),
            blocks=(1, 2, 4),
            strides=(1, 2, 2),
            out_channels=_CHANNELS,
        ),
        head=MlpHeadConfig(classes=_OCC3D_CLASSES, channels=_CHANNELS),
    )


def bevdetocc_gf() -> OccupancyNetConfig:
    """The same with gradient-descent fusion (GDFusion, arXiv 2504.12959) as its memory."""
    return with_gradient_fusion(bevdetocc_sf())


CARDS = (
    ModelCard(
        name="bevdetocc_sf",
        title="BEVDetOcc-SF",
        config=bevdetocc_sf(),
        config_stem="bevdetocc_r50_256x704_bevdet_pretrain_solofusion_16f",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "bevdetocc_r50_bevdet_pretrain_solofusion_16f.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 41.9, "mIoU_D": 34.4, "IoU": 75.1, "FPS": 6.5, "memory_MB": 10717.0},
        names=BEVDETOCC_NAMES,
    ),
    ModelCard(
        name="bevdetocc_sf_nomask",
        title="BEVDetOcc-SF",
        config=bevdetocc_sf(),
        config_stem="bevdetocc_r50_256x704_bevdet_pretrain_solofusion_16f_wo_mask",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITHOUT_MASK,
        url=OCCSTUDIO_FILES + "bevdetocc_r50_bevdet_pretrain_solofusion_16f_wo_mask.pth",
        licence=OCCSTUDIO_LICENCE,
        published={
            "mIoU": 24.3,
            "RayIoU": 35.2,
            "RayIoU_1m_2m_4m": [31.2, 35.9, 38.4],
            "FPS": 6.5,
            "memory_MB": 10717.0,
        },
        names=BEVDETOCC_NAMES,
    ),
    ModelCard(
        name="bevdetocc_gf",
        title="BEVDetOcc-GF",
        config=bevdetocc_gf(),
        config_stem="bevdetocc_r50_256x704_bevdet_pretrain_gdfusion",
        label_set="occ3d",
        backbone="R-50",
        protocol=WITH_MASK,
        url=OCCSTUDIO_FILES + "bevdetocc_r50_256x704_bevdet_pretrain_gdfusion.pth",
        licence=OCCSTUDIO_LICENCE,
        published={"mIoU": 43.6, "mIoU_D": 36.1, "IoU": 77.8, "FPS": 7.0, "memory_MB": 3017.0},
        names=BEVDETOCC_GF_NAMES,
    ),
)
