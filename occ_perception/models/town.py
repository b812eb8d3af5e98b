"""The demonstration model, which is small enough to travel with the package: recipe and card."""

from __future__ import annotations

from pathlib import Path

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import ModelCard
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.nets.backbones.basic_resnet import BasicResNetConfig
from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig
from occ_perception.nets.column_flow import ColumnFlowConfig
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.height_depth import HeightToDepthConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import HardLiftConfig
from occ_perception.nets.occupancy_heads import SoftmaxPrototypeHeadConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

# Lifted to voxels of 0.8 x 0.8 x 1.6 m; the height lift makes 2 x 2 x 16 of a column.
_GRID = VoxelGrid(lower=(-40.0, -40.0, -1.0), voxel_size=(0.8, 0.8, 1.6), dims=(100, 100, 4))
_IMAGE_CHANNELS = 64
_CONTEXT = 20
_MAP = 72
_VOLUME = 8


def alocc_town() -> OccupancyNetConfig:
    """ALOcc-2D-mini (arXiv 2411.07725) for a CPU: to be trained on one, and to run on one.

    Small images with features at stride 8, a lift to four layers of 0.8 m voxels, one remembered
    frame, and a map whose channels become 2 x 2 x 16 voxels each.
    """
    return OccupancyNetConfig(
        geometry=ViewGeometry(
            (128, 352), DepthBins(1.0, 45.0, 1.0), _GRID, num_cameras=6, feature_stride=8
        ),
        image=ImageEncoderConfig(
            backbone=BasicResNetConfig(
                stem=24, widths=(32, 64, 104), blocks=(1, 2, 2), out_strides=(8, 16)
            ),
            channels=_IMAGE_CHANNELS,
        ),
        depth=DepthNetConfig(
            context_channels=_CONTEXT,
            in_channels=_IMAGE_CHANNELS,
            width=64,
            aspp_channels=16,
            occluded_bins=None,
            heights=HeightToDepthConfig(),
            dropout=0.0,
        ),
        lift=HardLiftConfig(),
        temporal=ConcatHistoryConfig(channels=_CONTEXT, frames=1),
        encoder=BevEncoderConfig(
            in_channels=_GRID.dims[2] * _CONTEXT,
            widths=(48, 80, 96),
            blocks=(1, 2, 2),
            strides=(1, 2, 2),
            out_channels=_MAP,
            merging_kernel=1,
        ),
        height=HeightLiftConfig(in_channels=_MAP, channels=_VOLUME, upscale=2, kernel=1),
        head=SoftmaxPrototypeHeadConfig(classes=19, channels=_VOLUME, image_channels=_CONTEXT),
        flow=ColumnFlowConfig(in_channels=_MAP),
    )


CARDS = (
    ModelCard(
        name="alocc_town",
        title="ALOcc-Town",
        config=alocc_town(),
        config_stem=None,
        label_set="occ3d",
        backbone="ResNet-12",
        protocol=None,
        url=None,
        licence="Apache-2.0",
        published=None,
        note=(
            "A demonstration on synthetic data; not meant for real images. Its "
            "weights belong to this package; `make demo-checkpoint` trains them."
        ),
        names=(("", ""),),  # its files have our own names
        packaged=Path(__file__).parent / "weights/alocc_town.safetensors",
    ),
)
