"""The smoke test of the training code: a network overfits two frames of the town.

Tests whether images, poses, labels, losses and gradients are consistent. It says nothing about
generalisation.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from occ_perception.atomic import OutputError
from occ_perception.errors import OptionError
from occ_perception.geometry import invert_transform, transform_points
from occ_perception.metrics import Evaluation
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint import load_checkpoint
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.zoo import get_card
from occ_perception.synthetic import Drive, DriveSensors, Town
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.records import FrameRecord
from occ_training.data.sample import collate
from occ_training.evaluate import evaluate_frames, evaluation_options, frame_truth
from occ_training.fit import fit
from occ_training.losses.masks import MaskLossConfig
from occ_training.losses.terms import DepthCrossEntropy, DrawnVoxels, ImageMasks, Velocities
from occ_training.optimiser import Optimiser
from occ_training.recipe import TrainingRecipe
from occ_training.schedules import Averaging, LearningRate
from occ_training.town import Clip, TownData, town_dataset

_CLIP = Clip(town=7, drive=0, first=4, frames=2)
_DATA = TownData(size=(176, 99), jitter_rig=False, points="lidar")
_INPUT_SIZE = (64, 176)
_SCORED = ("camera_mask", "all_voxels")


@dataclass(frozen=True)
class OverfitResult:
    """Losses and scores of the smoke test.

    Attributes:
        first_loss, last_loss: without the cosine term of flow, which can be negative.
        scores: mIoU and IoU of the network under the camera mask, fractions of 1.
        oracle: the same scores of :func:`oracle_output`.
        weights: file of the network's weights.
    """

    first_loss: float
    last_loss: float
    scores: dict[str, float]
    oracle: dict[str, float]
    weights: Path

    def summary(self) -> str:
        """The result as text."""
        losses = f"{self.first_loss:.3f} -> {self.last_loss:.3f}"
        rows = [f"loss without the cosine term of flow {losses}"]
        for name in ("mIoU", "IoU"):
            ours, best = 100 * self.scores[name], 100 * self.oracle[name]
            rows.append(f"{name} {ours:.1f} %, oracle of perfect depth and class {best:.1f} %")
        return "\n".join([*rows, f"weights: {self.weights}"])


def small_town_card(voxels: int) -> ModelCard:
    """``alocc_town`` on 64x176 images over the same 80 m, with cubic voxels.

    Args:
        voxels: along x and y: 50 (1.6 m), 100 (0.8 m) or 200 (0.4 m).

    Raises:
        OptionError: another number of voxels, to which the labels cannot be converted.
    """
    if voxels not in (50, 100, 200):
        raise OptionError(f"voxels must be 50, 100 or 200, got {voxels}")
    layers = voxels * 16 // 200
    card = get_card("alocc_town")
    full = card.config
    assert isinstance(full, OccupancyNetConfig) and full.height is not None
    height = full.height
    columns = voxels // height.upscale  # of the lifted volume
    grid = full.geometry.grid.with_columns((columns, columns), 80.0 / columns)
    small = card.resized(_INPUT_SIZE, grid)
    assert isinstance(small.config, OccupancyNetConfig)
    config = replace(small.config, height=replace(height, voxels=layers))
    return replace(small, config=config)


def overfit_recipe(steps: int, precision: str) -> TrainingRecipe:
    """A recipe with every term of the demonstration model, for two frames without augmentation."""
    return TrainingRecipe(
        name="overfit",
        model="alocc_town",
        terms=(
            DrawnVoxels(points=10_000),
            ImageMasks(points=MaskLossConfig(points=100)),
            DepthCrossEntropy(),
            Velocities(),
        ),
        steps=steps,
        batch=1,
        optimiser=Optimiser(
            lr=2e-3,
            weight_decay=0.0,
            schedule=LearningRate(warm_up_steps=20, drops=(steps * 3 // 4,)),
        ),
        averaging=Averaging(most=0.9, updates_at_start=0, ramp=20.0),
        image=None,
        bev=None,
        precision=precision,
        workers=0,
        checkpoint_every=steps,
        kept_checkpoints=1,
        synchronised_norms=False,
    )


def overfit_two_frames(
    out: Path, steps: int, voxels: int, precision: str = "fp32", accelerator: str = "auto"
) -> OverfitResult:
    """Train on two consecutive frames, and score the outputs on them.

    Args:
        out: folder of the run; it must not contain a run.
        steps: of the optimiser.
        voxels: see :func:`small_town_card`.
        precision: of the convolutional parts.
        accelerator: as in Lightning: ``auto``, ``cpu``, ``gpu``.

    Raises:
        OutputError: there is a run in ``out``.
    """
    if (out / "checkpoints").exists():
        raise OutputError(f"{out} already contains a run; choose another folder")
    index = town_dataset(out / "frames", "both", [_CLIP], _DATA)
    card, recipe = small_town_card(voxels), overfit_recipe(steps, precision)
    dataset = OccupancyDataset(index, card, recipe.sample_options(card))
    weights = fit(recipe, dataset, out, card=card, accelerator=accelerator, devices=1, log_every=1)
    first, last = _ends_of_loss(out / "logs/csv/metrics.csv")
    plain = OccupancyDataset(index, card, evaluation_options(card, parts=_SCORED))
    net = card.build()
    load_checkpoint(net, card, weights)
    learnt = Evaluation(card.label_set, _SCORED, card.grid)
    evaluate_frames(net, card, plain, learnt, torch.device("cpu"))
    best = Evaluation(card.label_set, _SCORED, card.grid)
    sensors = DriveSensors(Drive(Town(_CLIP.town), _CLIP.drive), _DATA.sensors())
    for number, (t, frame) in enumerate(zip(_CLIP.times(), index.frames, strict=True)):
        output = oracle_output(sensors, t, frame, card)
        best.update(output, frame_truth(collate([plain[number]])))
    return OverfitResult(first, last, _means(learnt), _means(best), weights)


def oracle_output(
    sensors: DriveSensors, t: float, frame: FrameRecord, card: ModelCard
) -> NDArray[np.uint8]:
    """Voxels from every pixel's true depth and class; voxels without a visible surface are free.

    Args:
        sensors: of the frame's drive.
        t: time of the frame, seconds since the start of the drive.
        frame: for the poses.
        card: for the voxel grid.
    """
    grid, free = card.grid, card.labels.empty_class
    votes = np.zeros((*grid.dims, card.labels.num_classes), dtype=np.int64)
    for camera in sensors.rig.cameras:
        view = sensors.view(camera.name, sensors.exposure(camera.name, t))
        depth = view.depth(camera.K).astype(np.float64)
        v, u = np.nonzero(depth > 0)
        rays = np.stack([u, v, np.ones_like(u)], axis=-1) @ np.linalg.inv(camera.K).T
        grid_T_cam = (
            invert_transform(frame.world_T_reference_ego) @ frame.cameras[camera.name].world_T_cam
        )
        index = grid.indices(transform_points(grid_T_cam, rays * depth[v, u, None]))
        inside = grid.contains(index)
        np.add.at(votes, (*index[inside].T, view.classes[v, u][inside]), 1)
    return np.where(votes.any(axis=-1), votes.argmax(axis=-1), free).astype(np.uint8)


def _ends_of_loss(log: Path) -> tuple[float, float]:
    """First and last logged loss without the cosine term, which is -1 at best."""
    with log.open() as lines:
        rows = [row for row in csv.DictReader(lines) if row.get("loss")]
    losses = [float(row["loss"]) - float(row["loss/flow_cosine"]) for row in rows]
    return losses[0], losses[-1]


def _means(evaluation: Evaluation) -> dict[str, float]:
    scores = evaluation.part("camera_mask").compute()
    return {name: float(scores[name]) for name in ("mIoU", "IoU")}
