"""Which voxel of a tilted grid lies at the centre of each voxel of a map.

Every map voxel in reach looks its grid voxel up (a gather), so the map has no holes, whatever the
angle between the two. The opposite direction, placing every grid voxel into the map, leaves map
voxels empty that no grid centre falls into.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64, VoxelGrid, invert_transform, transform_points

# Columns that are looked up at once: their arrays stay in the cache of a CPU.
_COLUMNS = 4096
# Rounding of float32 for indices up to a few hundred.
_SLACK = 1e-2


@dataclass(frozen=True, eq=False)
class Lookup:
    """Map voxels, by columns, and the grid voxels at their centres.

    Attributes:
        x, y: (c,) map indices of the columns, relative to :attr:`Coverage.lower`.
        columns: (n,) position of each voxel's column in ``x`` and ``y``.
        z: (n,) map index of each voxel, relative to :attr:`Coverage.lower`.
        grid_voxels: (n,) position of each grid voxel in the flattened (C order) volume.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    columns: NDArray[np.int64]
    z: NDArray[np.int32]
    grid_voxels: NDArray[np.int32]


class Coverage:
    """The part of a map that a grid covers.

    Args:
        grid: the grid.
        map_T_grid: (4, 4) pose of the grid's frame in the frame of the map.
        voxel_size: edge of the map's voxels, metres; voxel (0, 0, 0) has its lower corner at the
            origin of the map's frame.

    Attributes:
        lower: (3,) int64 lowest map index of the box around the grid.
        shape: voxels of that box along x, y, z.
    """

    def __init__(self, grid: VoxelGrid, map_T_grid: Float64, voxel_size: float) -> None:
        corners = np.array(list(product(*zip(grid.lower, grid.upper, strict=True))))
        reached = transform_points(map_T_grid, corners) / voxel_size
        self.lower = np.floor(reached.min(axis=0)).astype(np.int64)
        x, y, z = (np.floor(reached.max(axis=0)).astype(np.int64) - self.lower + 1).tolist()
        self.shape = (x, y, z)
        self._dims = grid.dims
        # Grid index, as a real number, of map voxel (i, j, k): offset + (i, j, k) @ slopes.
        # Small numbers from here on, so that float32 holds them.
        grid_T_map = invert_transform(map_T_grid)
        steps = np.asarray(grid.voxel_size)
        first = transform_points(grid_T_map, (self.lower + 0.5) * voxel_size)
        self._offset = (first - np.asarray(grid.lower)) / steps
        self._slopes = (grid_T_map[:3, :3] * voxel_size / steps[:, None]).T

    def lookups(self) -> Iterator[Lookup]:
        """All map voxels whose centre lies in the grid, each once, in parts."""
        (X, Y, Z), (nx, ny, nz) = self._dims, self.shape
        up = self._slopes[2]
        flat = self._offset[:2] + (
            np.arange(nx)[:, None, None] * self._slopes[0, :2]
            + np.arange(ny)[:, None] * self._slopes[1, :2]
        )
        # The ends of each column, from above; between them lies a straight line.
        ends = np.stack([flat, flat + up[:2] * (nz - 1)])
        reaches = (ends.max(axis=0) >= -_SLACK) & (ends.min(axis=0) < np.array((X, Y)) + _SLACK)
        xs, ys = np.nonzero(reaches.all(axis=-1))
        bases = self._offset + np.stack([xs, ys], axis=-1) @ self._slopes[:2]
        # Only the layers of a column where the grid's height is: a tilt moves them up or down.
        layers, starts = nz, np.zeros(len(xs), np.int64)
        if nz * abs(up[2]) > Z + 2:
            layers = min(nz, int(np.ceil(Z / abs(up[2]))) + 2)
            entry = -bases[:, 2] if up[2] > 0 else Z - bases[:, 2]
            starts = np.clip(np.floor(entry / up[2]), 0, nz - layers).astype(np.int64)
        for begin in range(0, len(xs), _COLUMNS):
            part = slice(begin, begin + _COLUMNS)
            yield self._looked_up(xs[part], ys[part], starts[part], layers, bases[part])

    def _looked_up(
        self,
        xs: NDArray[np.int64],
        ys: NDArray[np.int64],
        starts: NDArray[np.int64],
        layers: int,
        bases: Float64,
    ) -> Lookup:
        _, Y, Z = self._dims
        zs = np.add.outer(starts, np.arange(layers)).astype(np.int32)
        heights: NDArray[np.float32] = zs.astype(np.float32)
        inside = np.ones(zs.shape, np.bool_)
        axes = []
        for slope, base, count in zip(self._slopes[2], bases.T, self._dims, strict=True):
            at = np.float32(slope) * heights
            at += base.astype(np.float32)[:, None]
            inside &= at >= 0
            inside &= at < count
            axes.append(at)
        chosen = np.flatnonzero(inside)
        i, j, k = (at.take(chosen).astype(np.int32) for at in axes)
        return Lookup(xs, ys, chosen // layers, zs.take(chosen), (i * Y + j) * Z + k)
