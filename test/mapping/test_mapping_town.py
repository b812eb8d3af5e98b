"""A map of the synthetic town from its exact labels: ghosts, coverage, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import synthetic_scenes
from numpy.typing import NDArray
from scipy import ndimage

from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import LABEL_SETS
from occ_perception.mapping.drive_map import DriveMap, MapVoxels
from occ_perception.synthetic.labels import OCC3D_GRID, voxelise

VOXEL = 0.4
FREE = LABEL_SETS["occ3d"].empty_class
WALL = np.uint8(LABEL_SETS["occ3d"].class_names.index("manmade"))
TIMES = [0.5 * n for n in range(13)]
Boxes = list[tuple[NDArray[np.int64], NDArray[np.bool_]]]
Frames = list[tuple[OccupancyPrediction, NDArray[np.float64], NDArray[np.bool_]]]


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Exact labels with flow, pose, and the voxels that a camera sees."""
    sensors = synthetic_scenes.sensors()
    found = []
    for t in TIMES:
        truth, seen = sensors.truth(t)
        found.append((truth, sensors.drive.pose(sensors.reference_time(t)), seen))
    return found


def mapped(frames: Frames, drive_map: DriveMap | None = None) -> DriveMap:
    drive_map = drive_map or DriveMap()
    for truth, world_T_ego, seen in frames:
        drive_map.add(replace(truth, observed=seen), world_T_ego)
    return drive_map


@dataclass(frozen=True, eq=False)
class Comparison:
    """The voxels of a map beside the scene at the end of the drive, sampled on the map's voxels.

    Attributes:
        inside: whether the scene is known at a voxel.
        occupied: whether the scene is occupied there.
        near: whether it is occupied there or in one of the 26 voxels around.
    """

    inside: NDArray[np.bool_]
    occupied: NDArray[np.bool_]
    near: NDArray[np.bool_]


def boxes_at_the_end(moving: bool) -> Boxes:
    """The scene at the end in boxes along the drive, on the voxels of the map.

    Each box is its lowest index and (X, Y, Z) whether a voxel is occupied.
    """
    drive = synthetic_scenes.sensors().drive
    end = drive.scene(TIMES[-1], moving)
    boxes = []
    for t in TIMES[::3]:
        lower = np.round((drive.pose(t)[:3, 3] + OCC3D_GRID.lower) / VOXEL).astype(int)
        world_T_box = np.eye(4)
        world_T_box[:3, 3] = lower * VOXEL - OCC3D_GRID.lower
        labels, _, _ = voxelise(replace(end, world_T_ego=world_T_box))
        boxes.append((lower, labels != FREE))
    return boxes


def compare(voxels: MapVoxels, boxes: Boxes) -> Comparison:
    inside, occupied, near = np.zeros((3, len(voxels.indices)), np.bool_)
    for lower, is_occupied in boxes:
        index = voxels.indices - lower
        is_in = ((index >= 1) & (index < np.array(is_occupied.shape) - 1)).all(axis=1)
        at = tuple(index[is_in].T)
        inside |= is_in
        occupied[is_in] |= is_occupied[at]
        near[is_in] |= ndimage.binary_dilation(is_occupied, np.ones((3, 3, 3)))[at]
    return Comparison(inside, occupied, near)


def ghosts(voxels: MapVoxels, boxes: Boxes) -> float:
    """Share of the map's occupied voxels around which nothing is at the end of the drive.

    One voxel around, because a voxel of the labels is occupied if anything touches it, and the
    labels' voxels lie differently in every frame. What stands at the end is no ghost.
    """
    compared = compare(voxels, boxes)
    counted = voxels.occupied & compared.inside
    return float((counted & ~compared.near).sum() / counted.sum())


def test_movers_leave_no_ghosts(frames: Frames) -> None:
    boxes = boxes_at_the_end(moving=True)
    assert ghosts(mapped(frames).voxels(), boxes) < 0.01
    # The measure sees them: as if movers were walls.
    walls = []
    for truth, world_T_ego, seen in frames:
        moves = np.abs(truth.flow).max(axis=-1) > 0.5
        labels = np.where(moves, WALL, truth.labels)
        walls.append((replace(truth, labels=labels), world_T_ego, seen))
    assert ghosts(mapped(walls).voxels(), boxes) > 0.002


def test_the_map_holds_what_was_seen(frames: Frames) -> None:
    voxels = mapped(frames).voxels()
    expected = compare(voxels, boxes_at_the_end(moving=False)).occupied
    low = voxels.indices.min(axis=0) - 1
    volume = np.zeros(voxels.indices.max(axis=0) - low + 2, np.bool_)
    volume[tuple((voxels.indices[voxels.occupied] - low).T)] = True
    around = ndimage.binary_dilation(volume, np.ones((3, 3, 3)))[tuple((voxels.indices - low).T)]
    assert expected.sum() > 20_000
    assert (expected & around).sum() / expected.sum() > 0.98
    assert (expected & voxels.occupied).sum() / expected.sum() > 0.8


def test_driving_twice_takes_no_more_memory(frames) -> None:
    drive_map = mapped(frames)
    once = drive_map.nbytes, drive_map.area
    mapped(frames, drive_map)
    assert (drive_map.nbytes, drive_map.area) == once
    assert once[0] / once[1] < 1000  # bytes per square metre
