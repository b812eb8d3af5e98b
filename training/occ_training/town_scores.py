"""Scores of a network on towns by distance, beside predictions that need no network.

    prior    every voxel's most frequent class in the training towns, whatever the images show
    plane    a level road at the height of the ego origin
    oracle   the voxels that hold the nearest surface of every block of 8x8 pixels, with its class:
             perfect depth at the resolution of the network's features

All scores are those of Occ3D under the camera mask. Legend: X, Y, Z voxels, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import VoxelGrid, invert_transform, transform_points
from occ_perception.labels import LABEL_SETS, LabelSet
from occ_perception.metrics import VoxelIoU
from occ_perception.synthetic import OCC3D_GRID
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import FrameLabels, read_labels, read_point_classes, read_points
from occ_training.data.records import FrameRecord
from occ_training.town import LABELS

RINGS_M = ((0.0, 10.0), (10.0, 20.0), (20.0, 40.0))
"""Horizontal distances from the ego origin that are scored apart."""

_CLASSES: LabelSet = LABEL_SETS["occ3d"]
_FREE = _CLASSES.empty_class
_PRIOR_FRAMES = 400

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class RingScores:
    """mIoU and IoU over everything, then for each of :data:`RINGS_M`; fractions of 1."""

    miou: tuple[float, ...]
    iou: tuple[float, ...]


def score_by_distance(
    index: DatasetIndex, training: DatasetIndex, predictions: Mapping[str, Path]
) -> dict[str, RingScores]:
    """Scores of saved predictions on the frames of ``index``, and those of all three baselines.

    Args:
        index: test frames of the town.
        training: training frames, for the prior.
        predictions: name -> folder of ``<sequence>/<token>.npz`` with ``semantics``, as evaluation
            saves them.
    """
    fixed = {"prior": prior(training), "plane": plane()}
    everywhere = np.ones(OCC3D_GRID.dims[:2], bool)
    rings = [everywhere, *(_ring(OCC3D_GRID, *ring) for ring in RINGS_M)]
    metrics = {
        name: [VoxelIoU(_CLASSES) for _ in rings] for name in (*predictions, *fixed, "oracle")
    }
    for frame in index.frames:
        truth = labels_of_frame(index, frame)
        assert truth.camera_mask_XYZ is not None
        guesses = {name: _saved(folder, frame) for name, folder in predictions.items()}
        guesses |= {**fixed, "oracle": oracle(index, frame)}
        for name, guess in guesses.items():
            for ring, metric in zip(rings, metrics[name], strict=True):
                seen = truth.camera_mask_XYZ & ring[..., None]
                metric.update(guess[None], truth.semantics_XYZ[None], seen[None])
    scores = {name: [metric.compute() for metric in rows] for name, rows in metrics.items()}
    return {
        name: RingScores(
            tuple(float(score["mIoU"]) for score in rows),
            tuple(float(score["IoU"]) for score in rows),
        )
        for name, rows in scores.items()
    }


def as_table(scores: Mapping[str, RingScores]) -> Iterable[str]:
    """Lines of Markdown: mIoU / IoU in per cent."""
    names = ["all", *(f"{low:.0f} to {high:.0f} m" for low, high in RINGS_M)]
    yield f"| mIoU / IoU, % | {' | '.join(names)} |"
    yield "| --- |" + " ---: |" * len(names)
    for name, of in scores.items():
        pairs = zip(of.miou, of.iou, strict=True)
        yield f"| {name} | {' | '.join(f'{100 * m:.1f} / {100 * i:.1f}' for m, i in pairs)} |"


def prior(index: DatasetIndex) -> Labels:
    """The most frequent class of every voxel in some frames of a data set."""
    frames = index.frames[:: max(1, len(index.frames) // _PRIOR_FRAMES)]
    return most_frequent(
        (truth.semantics_XYZ, truth.camera_mask_XYZ)
        for truth in (labels_of_frame(index, frame) for frame in frames)
        if truth.camera_mask_XYZ is not None
    )


def most_frequent(samples: Iterable[tuple[Labels, NDArray[np.bool_]]]) -> Labels:
    """Every voxel's most frequent class where cameras see it; free where they never do.

    Args:
        samples: labels and camera mask (X, Y, Z) of each frame.
    """
    counts_KXYZ = np.zeros((_CLASSES.num_classes, *OCC3D_GRID.dims), np.int32)
    for labels, seen in samples:
        for class_id in range(_CLASSES.num_classes):
            counts_KXYZ[class_id] += seen & (labels == class_id)
    majority: Labels = counts_KXYZ.argmax(axis=0).astype(np.uint8)
    majority[counts_KXYZ.sum(axis=0) == 0] = _FREE
    return majority


def plane() -> Labels:
    """A road in the voxels that hold the height of the ego origin."""
    labels = np.full(OCC3D_GRID.dims, _FREE, np.uint8)
    level = OCC3D_GRID.indices(np.zeros((1, 3)))[0, 2]
    labels[:, :, level] = _CLASSES.class_names.index("driveable_surface")
    return labels


def oracle(index: DatasetIndex, frame: FrameRecord) -> Labels:
    """The most frequent class of the surfaces that the frame's points show in each voxel."""
    lidar = frame.lidar
    assert lidar is not None and lidar.points is not None and lidar.semantics is not None
    points = read_points(index.root / lidar.points, lidar.columns)[:, :3].astype(np.float64)
    classes = read_point_classes(
        index.root / lidar.semantics, lidar.semantics_ids, _CLASSES, len(points)
    )
    world_T_ego = frame.cameras[frame.reference_camera].world_T_ego
    ego_T_points = invert_transform(world_T_ego) @ lidar.world_T_lidar
    places = OCC3D_GRID.indices(transform_points(ego_T_points, points))
    inside = OCC3D_GRID.contains(places) & (classes != 255)
    votes_XYZK = np.zeros((*OCC3D_GRID.dims, _CLASSES.num_classes), np.uint16)
    np.add.at(votes_XYZK, (*places[inside].T, classes[inside]), 1)
    labels: Labels = votes_XYZK.argmax(axis=-1).astype(np.uint8)
    labels[votes_XYZK.sum(axis=-1) == 0] = _FREE
    return labels


def labels_of_frame(index: DatasetIndex, frame: FrameRecord) -> FrameLabels:
    """Its ground truth."""
    return read_labels(index.root / frame.labels[LABELS], index.header.label_sets[LABELS])


def _saved(folder: Path, frame: FrameRecord) -> Labels:
    with np.load(folder / frame.sequence / f"{frame.token}.npz") as arrays:
        semantics: Labels = arrays["semantics"].astype(np.uint8)
    return semantics


def _ring(grid: VoxelGrid, low: float, high: float) -> NDArray[np.bool_]:
    """(X, Y) columns whose centre lies that far from the ego origin."""
    x, y = (
        grid.lower[axis] + (np.arange(grid.dims[axis]) + 0.5) * grid.voxel_size[axis]
        for axis in (0, 1)
    )
    distance = np.hypot(x[:, None], y[None, :])
    inside: NDArray[np.bool_] = (distance >= low) & (distance < high)
    return inside
