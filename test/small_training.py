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

from occ_perception.models.card import ModelCard
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.zoo import get_card
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig

IMAGE = (176, 99)
INPUT_SIZE = (64, 176)


def small_card(voxels: int = 50, layers: int = 4) -> ModelCard:
    """``alocc_town`` on 64x176 images, over the same 80 m, with fewer voxels and two past frames.

    Args:
        voxels: along x and y; 50 (1.6 m), 100 (0.8 m) or 200.
        layers: along z; 4 (1.6 m), 8 or 16.
    """
    card = get_card("alocc_town")
    grid = card.config.geometry.grid.with_columns((voxels, voxels), 80.0 / voxels)
    card = card.resized(INPUT_SIZE, grid)
    full = card.config
    assert isinstance(full, OccupancyNetConfig) and isinstance(full.temporal, ConcatHistoryConfig)
    assert full.height is not None and full.flow is not None
    config = replace(
        full,
        temporal=replace(full.temporal, frames=2),
        height=replace(full.height, voxels=layers),
        flow=replace(full.flow, first_voxel=layers // 4, last_voxel=layers // 2, reach=2),
    )
    return replace(card, config=config)


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


@cache
def town_index(drives: int = 3, frames: int = 3) -> DatasetIndex:
    """Key frames of a few drives through one town; read-only."""
    clips = [Clip(7, drive, 4, frames) for drive in range(drives)]
    data = TownData(size=IMAGE, jitter_rig=False, points="lidar")
    return town_dataset(Path(_kept().name), f"{drives}x{frames}", clips, data, jobs=1)
