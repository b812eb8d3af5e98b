"""A small model of the town, frames to train it on, and recipes of a few steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from occ_training.data.index import DatasetIndex
from occ_training.losses.masks import MaskLossConfig
from occ_training.losses.terms import DepthCrossEntropy, ImageMasks, Velocities, VoxelMasks
from occ_training.optimiser import Optimiser
from occ_training.recipe import TrainingRecipe
from occ_training.schedules import Averaging, CosineRampDown, LearningRate
from occ_training.town import Clip, TownData, town_dataset

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import OCCSTUDIO_NAMES
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.zoo import get_card
from occ_perception.nets.backbones.timm_backbone import TimmBackboneConfig
from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig
from occ_perception.nets.depth_net import DepthNetConfig
from occ_perception.nets.flow_head import FlowHeadConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig
from occ_perception.nets.lift import SoftLiftConfig
from occ_perception.nets.occupancy_heads import PrototypeHeadConfig
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

IMAGE = (176, 99)
INPUT_SIZE = (64, 176)


def small_card(voxels: int = 50, layers: int = 4) -> ModelCard:
    """ALOcc-Flow narrowed, on 64x176 images, over the same 80 m, with two past frames.

    Args:
        voxels: along x and y; 50 (1.6 m), 100 (0.8 m) or 200.
        layers: along z; 4 (1.6 m), 8 or 16.
    """
    step = 80.0 / voxels
    grid = VoxelGrid((-40.0, -40.0, -1.0), (step, step, 6.4), (voxels, voxels, 1))
    config = OccupancyNetConfig(
        geometry=ViewGeometry(INPUT_SIZE, DepthBins(1.0, 45.0, 1.0), grid, num_cameras=6),
        image=ImageEncoderConfig(backbone=TimmBackboneConfig(name="regnetx_002"), channels=96),
        depth=DepthNetConfig(context_channels=32, in_channels=96, width=96, aspp_channels=32),
        lift=SoftLiftConfig(),
        temporal=ConcatHistoryConfig(channels=32, frames=2),
        encoder=BevEncoderConfig(
            in_channels=32,
            widths=(32, 64, 96),
            blocks=(1, 2, 2),
            strides=(1, 2, 2),
            out_channels=80,
        ),
        height=HeightLiftConfig(in_channels=80, channels=16, voxels=layers),
        head=PrototypeHeadConfig(classes=19, channels=16, image_channels=32),
        flow=FlowHeadConfig(channels=16, first_voxel=layers // 4, last_voxel=layers // 2, reach=2),
    )
    return replace(get_card("alocc_town"), config=config, names=OCCSTUDIO_NAMES)


def small_recipe(**changes: object) -> TrainingRecipe:
    """A recipe with all loss terms of the town model, few points, no augmentation, four slots."""
    recipe = TrainingRecipe(
        name="small",
        model="alocc_town",
        terms=(
            VoxelMasks(points=MaskLossConfig(points=400)),
            ImageMasks(points=MaskLossConfig(points=60)),
            DepthCrossEntropy(),
            Velocities(),
        ),
        steps=6,
        batch=2,
        history_from=2,
        depth_fading=CosineRampDown(end=4),
        motion_fading=CosineRampDown(begin=2, end=8),
        optimiser=Optimiser(schedule=LearningRate(warm_up_steps=2)),
        averaging=Averaging(updates_at_start=0, ramp=10.0),
        image=None,
        bev=None,
        workers=0,
        checkpoint_every=100,
        synchronised_norms=False,
    )
    return replace(recipe, **changes)  # type: ignore[arg-type]


@cache
def _kept() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="town-frames-")


def small_town_card():
    """The shipped network on images of 64x176 and voxels of 0.8 m, lifted to some of 1.6 m."""
    full = get_card("alocc_town")
    return full.resized((64, 176), full.config.geometry.grid.with_columns((50, 50), 1.6))


@cache
def town_index(drives: int = 3, frames: int = 3) -> DatasetIndex:
    """Key frames of a few drives through one town; read-only."""
    clips = [Clip(7, drive, 4, frames) for drive in range(drives)]
    data = TownData(size=IMAGE, jitter_rig=False, points="lidar")
    return town_dataset(Path(_kept().name), f"{drives}x{frames}", clips, data, jobs=1)
