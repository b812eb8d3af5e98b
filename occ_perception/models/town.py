"""The demonstration model, which is small enough to travel with the package: recipe and card."""

from __future__ import annotations

from pathlib import Path

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import ModelCard
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.timm_backbone import TimmBackboneConfig
from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.flow_head import FlowHeadConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import SoftLiftConfig
from occ_perception.nets.occupancy_heads import PrototypeHeadConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.4, 0.4, 6.4), dims=(200, 200, 1))
_IMAGE_CHANNELS = 96
_CONTEXT = 32
_VOLUME = 16


def alocc_town() -> OccupancyNetConfig:
    """ALOcc-2D-mini (arXiv 2411.07725) narrowed, on a RegNet (2003.13678), with a flow head."""
    return OccupancyNetConfig(
        geometry=ViewGeometry((256, 704), DepthBins(1.0, 45.0, 1.0), _GRID, num_cameras=6),
        image=ImageEncoderConfig(
            backbone=TimmBackboneConfig(name="regnetx_002"), channels=_IMAGE_CHANNELS
        ),
        depth=DepthNetConfig(
            context_channels=_CONTEXT,
            in_channels=_IMAGE_CHANNELS,
            width=_IMAGE_CHANNELS,
            aspp_channels=32,
        ),
        lift=SoftLiftConfig(),
        temporal=ConcatHistoryConfig(channels=_CONTEXT, frames=4),
        encoder=BevEncoderConfig(
            in_channels=_CONTEXT,
            widths=(32, 64, 96),
            blocks=(1, 2, 2),
            strides=(1, 2, 2),
            out_channels=80,
        ),
        height=HeightLiftConfig(in_channels=80, channels=_VOLUME),
        head=PrototypeHeadConfig(classes=19, channels=_VOLUME, image_channels=_CONTEXT),
        flow=FlowHeadConfig(channels=_VOLUME),
    )


CARDS = (
    ModelCard(
        name="alocc_town",
        title="ALOcc-Town",
        config=alocc_town(),
        config_stem=None,
        label_set="occ3d",
        backbone="RegNetX-200MF",
        protocol=None,
        url=None,
        licence="Apache-2.0",
        published=None,
        note=(
            "A demonstration on synthetic data; not meant for real images. Its "
            "weights belong to this package; `make demo-checkpoint` trains them."
        ),
        packaged=Path(__file__).parent / "weights/alocc_town.safetensors",
    ),
)
