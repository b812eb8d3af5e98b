"""Ground from lidar points: it never moves, and lidar rings leave gaps in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from occ_perception.geometry import Float64

Float32 = NDArray[np.float32]

STEEPEST = 0.2
"""Largest slope of the ground; kerbs are added to it."""
_KERB = 0.12
_NEIGHBOURHOOD_M = 3.0
_TOLERANCE_M = 0.25
_SMOOTHING_M = 1.0

_START_M = 8.0
_START_TOLERANCE_M = 0.3
_STRIDE_M = 12.0
_STEP_M = 0.2
_BEND = 0.025
"""Growth of the ground: start radius and its tolerance, stride, height tolerance and its slope."""


@dataclass(frozen=True, eq=False)
class Ground:
    """Heights of the ground over a raster along the world's x and y.

    Attributes:
        lower: (2,) corner of the raster, metres.
        cell: edge of its cells, metres.
        heights: (I, J) float32 metres, NaN where no ground is known.
        measured: (I, J) bool, cells that a point of the ground fell into.
    """

    lower: NDArray[np.float64]
    cell: float
    heights: Float32
    measured: NDArray[np.bool_]

    def holds(self, points: Float32) -> NDArray[np.bool_]:
        """(n,) whether points (n, 3) lie on the ground."""
        i, j = self._cells(points)
        height = self.heights[i, j]
        on_ground: NDArray[np.bool_] = np.abs(points[:, 2] - height) < _TOLERANCE_M
        return on_ground

    def gap_points(self, labels: NDArray[np.uint8]) -> tuple[Float32, NDArray[np.uint8]]:
        """Points (n, 3), four per cell, where ground was inferred, and their classes.

        ``labels`` (I, J) are the classes of the cells.
        """
        i, j = np.nonzero(~self.measured & np.isfinite(self.heights))
        parts = []
        for di in (0.25, 0.75):
            for dj in (0.25, 0.75):
                x = self.lower[0] + (i + di) * self.cell
                y = self.lower[1] + (j + dj) * self.cell
                parts.append(np.column_stack([x, y, self.heights[i, j]]))
        return np.concatenate(parts).astype(np.float32), np.tile(labels[i, j], 4)

    def classes(self, points: Float32, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(I, J) most frequent class of the points on the ground; in gaps that of the nearest cell.

        255 if no point has a class.
        """
        known = np.flatnonzero(self.holds(points) & (labels != 255))
        if not len(known):
            return np.full(self.heights.shape, 255, np.uint8)
        i, j = self._cells(points[known])
        flat = i * self.heights.shape[1] + j
        kinds = np.unique(labels[known])
        best = np.zeros(self.heights.size, np.int64)
        winner = np.full(self.heights.size, 255, np.uint8)
        for kind in kinds:
            votes = np.bincount(flat[labels[known] == kind], minlength=self.heights.size)
            winner[votes > best] = kind
            np.maximum(best, votes, out=best)
        classes = winner.reshape(self.heights.shape)
        nearest = ndimage.distance_transform_edt(
            classes == 255, return_distances=False, return_indices=True
        )
        spread: NDArray[np.uint8] = classes[tuple(nearest)]
        return spread

    def _cells(self, points: Float32) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        place = np.floor((points[:, :2] - self.lower) / self.cell).astype(np.int64)
        top = np.array(self.heights.shape) - 1
        place = np.clip(place, 0, top)
        return place[:, 0], place[:, 1]


def find_ground(points: Float32, cell: float, widest_gap: float, poses: Float64) -> Ground:
    """The ground under points (n, 3), metres along the world's axes, z up.

    The search starts under the vehicle, whose frame stands on the ground, and grows outwards. The
    lowest point of a raster cell is ground if it continues the known ground nearby, and if no
    lowest point within 3 m is lower than a slope of 20 % plus a kerb allows. Gaps up to
    ``widest_gap`` metres between cells of ground are filled with the smoothed height around them.

    Args:
        points: of everything static.
        cell: edge of the raster's cells.
        widest_gap: metres.
        poses: (m, 4, 4) ego poses in the frame of the points.
    """
    lower = points[:, :2].min(axis=0).astype(np.float64) - cell
    place = np.floor((points[:, :2] - lower) / cell).astype(np.int64)
    shape = place.max(axis=0) + 2
    lowest = np.full(int(shape[0] * shape[1]), np.inf, np.float32)
    np.minimum.at(lowest, place[:, 0] * shape[1] + place[:, 1], points[:, 2])
    lowest = lowest.reshape(shape)
    candidates = np.isfinite(lowest) & (lowest <= _highest_ground(lowest, cell))
    plane, away = _under_vehicle(poses, lower, cell, lowest.shape)
    above = np.where(candidates, lowest - plane, 0.0).astype(np.float32)
    measured = candidates & (away < _START_M) & (np.abs(above) < _START_TOLERANCE_M)
    while True:
        distance = ndimage.distance_transform_edt(~measured) * cell
        expected = _smoothed(above, measured, _SMOOTHING_M / cell, _STRIDE_M / cell)
        tolerance = _STEP_M + _BEND * distance
        grown = candidates & (distance < _STRIDE_M) & (np.abs(above - expected) < tolerance)
        if not (grown & ~measured).any():
            break
        measured |= grown
    heights = np.where(measured, lowest, np.nan).astype(np.float32)
    gaps = _closed(measured, widest_gap / cell) & ~measured
    bridged = _smoothed(above, measured, _SMOOTHING_M / cell, widest_gap / cell) + plane
    heights[gaps] = bridged[gaps]
    return Ground(lower, cell, heights, measured)


def _under_vehicle(
    poses: Float64, lower: Float64, cell: float, shape: tuple[int, ...]
) -> tuple[Float32, Float64]:
    """(I, J) height of the ground plane of the nearest ego pose, and the distance to that pose."""
    origins, normals = poses[:, :3, 3], poses[:, :3, 2]
    i, j = np.floor((origins[:, :2] - lower) / cell).astype(np.int64).T
    i, j = np.clip(i, 0, shape[0] - 1), np.clip(j, 0, shape[1] - 1)
    owner = np.full(shape, -1)
    owner[i, j] = np.arange(len(poses))
    away, nearest = ndimage.distance_transform_edt(owner < 0, return_indices=True)
    pose = owner[tuple(nearest)]
    x, y = (lower[n] + (np.arange(shape[n]) + 0.5) * cell for n in (0, 1))
    dx = x[:, None] - origins[pose, 0]
    dy = y[None] - origins[pose, 1]
    rise = (normals[pose, 0] * dx + normals[pose, 1] * dy) / normals[pose, 2]
    return (origins[pose, 2] - rise).astype(np.float32), away * cell


def _highest_ground(lowest: Float32, cell: float) -> Float32:
    """Upper limit of each cell's ground, from the lowest points around it."""
    reach = int(_NEIGHBOURHOOD_M / cell)
    allowed = np.full(lowest.shape, np.inf, np.float32)
    padded = np.pad(lowest, reach, constant_values=np.inf)
    for di in range(-reach, reach + 1):
        for dj in range(-reach, reach + 1):
            away = float(np.hypot(di, dj)) * cell
            if 0.0 < away <= _NEIGHBOURHOOD_M:
                rows, columns = reach + di, reach + dj
                near = padded[rows : rows + lowest.shape[0], columns : columns + lowest.shape[1]]
                np.minimum(allowed, near + (STEEPEST * away + _KERB), out=allowed)
    return allowed


def _closed(measured: NDArray[np.bool_], widest: float) -> NDArray[np.bool_]:
    """Morphological closing with a disc: gaps narrower than ``widest`` cells are filled."""
    radius = widest / 2
    margin = int(np.ceil(radius)) + 1
    padded = np.pad(measured, margin)
    grown = ndimage.distance_transform_edt(~padded) <= radius
    closed = ndimage.distance_transform_edt(grown) > radius
    inner: NDArray[np.bool_] = (closed | padded)[margin:-margin, margin:-margin]
    return inner


def _smoothed(
    heights: Float32, measured: NDArray[np.bool_], sigma: float, farthest: float
) -> Float32:
    """Weighted average of the surrounding measured heights; nearer ones have more weight."""
    middle = float(heights[measured].mean()) if measured.any() else 0.0
    values = np.where(measured, heights - middle, 0.0)
    total = np.zeros(heights.shape)
    weight = np.zeros(heights.shape)
    while True:
        share = ndimage.gaussian_filter(measured.astype(np.float64), sigma)
        here = (weight == 0.0) & (share > 1e-4)
        weight[here] = share[here]
        total[here] = ndimage.gaussian_filter(values, sigma)[here]
        if sigma > farthest:
            break
        sigma *= 2.0
    known = weight > 0
    smooth = np.full(heights.shape, np.nan, np.float32)
    smooth[known] = (total[known] / weight[known] + middle).astype(np.float32)
    return smooth
