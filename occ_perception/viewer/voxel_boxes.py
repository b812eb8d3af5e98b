"""Merges occupied voxels into few boxes, for viewers that draw boxes or triangles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64
from occ_perception.labels import UNKNOWN_CLASS

UInt8 = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class VoxelBoxes:
    """Boxes along the axes of a grid; each covers voxels of one class.

    Attributes:
        centres: (n, 3) in the grid's frame, metres.
        half_sizes: (n, 3) metres.
        labels: (n,) uint8 class ids.
    """

    centres: Float64
    half_sizes: Float64
    labels: UInt8


def boxes_of_voxels(prediction: OccupancyPrediction) -> VoxelBoxes:
    """Boxes that cover all occupied voxels that can be visible, each voxel once.

    Voxels of one class in a row along x become one box. Rows of equal length beside each other
    along y are merged. Rows enclosed on all sides are left out.
    """
    labels = prediction.labels
    occupied = (labels != prediction.empty_class) & (labels != UNKNOWN_CLASS)
    count_x = labels.shape[0]
    flat = labels.transpose(2, 1, 0).ravel()
    begins = np.ones(len(flat), bool)
    begins[1:] = flat[1:] != flat[:-1]
    begins[::count_x] = True
    starts = np.flatnonzero(begins)
    lengths = np.diff(starts, append=len(flat))
    seen = np.logical_or.reduceat(_surface(occupied).transpose(2, 1, 0).ravel(), starts)
    starts, lengths = starts[seen], lengths[seen]
    z, y, x = np.unravel_index(starts, labels.shape[::-1])
    rows = np.column_stack([flat[starts], z, x, lengths, y])

    rows = rows[np.lexsort(rows.T[::-1])]
    joins = (rows[1:, :4] == rows[:-1, :4]).all(axis=1) & (rows[1:, 4] == rows[:-1, 4] + 1)
    first = np.flatnonzero(np.concatenate([[True], ~joins])) if len(rows) else np.empty(0, int)
    depth = np.diff(first, append=len(rows))
    label, z, x, length, y = rows[first].T
    corner = np.column_stack([x, y, z])
    extent = np.column_stack([length, depth, np.ones_like(depth)])
    size = np.asarray(prediction.grid.voxel_size)
    lower = np.asarray(prediction.grid.lower) + corner * size
    half = extent * size / 2
    return VoxelBoxes(lower + half, half, label.astype(np.uint8))


def triangles_of_boxes(boxes: VoxelBoxes) -> tuple[Float64, NDArray[np.int64], NDArray[np.int64]]:
    """Faces of the boxes as triangles, counter-clockwise seen from outside.

    Returns:
        Vertices (24 n, 3), not shared between faces, so that edges stay sharp; triangles (12 n, 3)
        of vertex indices; and the box of every vertex (24 n,).
    """
    corners: list[Float64] = []
    faces: list[NDArray[np.int64]] = []
    for axis in range(3):
        u, v = (axis + 1) % 3, (axis + 2) % 3
        for side in (1, -1):
            square = np.zeros((4, 3))
            square[:, axis] = side
            square[:, u] = (-1, 1, 1, -1)
            square[:, v] = (-side, -side, side, side)
            faces.append(np.array([(0, 1, 2), (0, 2, 3)]) + 4 * len(corners))
            corners.append(square)
    unit, pattern = np.concatenate(corners), np.concatenate(faces)
    count = len(boxes.labels)
    vertices = boxes.centres[:, None] + boxes.half_sizes[:, None] * unit
    triangles = pattern + 24 * np.arange(count)[:, None, None]
    return vertices.reshape(-1, 3), triangles.reshape(-1, 3), np.repeat(np.arange(count), 24)


def _surface(occupied: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels with a free neighbour, or at the border of the grid, on any side."""
    padded = np.pad(occupied, 1)
    inside = occupied.copy()
    for axis in range(3):
        for step in (-1, 1):
            inside &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    surface: NDArray[np.bool_] = occupied & ~inside
    return surface
