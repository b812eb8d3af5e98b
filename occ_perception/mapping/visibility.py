"""Observed space: the voxels that a camera has looked at, now or a short while ago.

A network predicts a class for every voxel, also for those behind walls. Whether a voxel was seen
follows from geometry: a camera sees the voxels along its rays. A ray ends when its way through
occupied voxels has the length of a voxel's edge: a voxel is occupied as soon as something touches
it, so a ray may pass beside that. The camera masks of Occ3D are made in a like way from annotated
occupancy, with rays that end at the first occupied voxel (arXiv 2304.14365, section 3.3).
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OptionError, needed_for
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, invert_transform
from occ_perception.labels import UNKNOWN_CLASS

Mask = NDArray[np.bool_]

_NEVER = -1e9
_MARGIN = 4


class ObservedSpace:
    """Voxels that a camera has seen within the last seconds; moves with the vehicle.

    The times of the last observation are kept in a window of the world around the vehicle, so
    voxels do not blur however often the grid moves.

    Args:
        memory_s: how long a voxel stays observed, seconds; 0 = only what is seen now.
        threads: cameras that are followed at a time.

    Raises:
        OptionError: ``memory_s`` is negative or not finite.
    """

    def __init__(self, memory_s: float = 8.0, threads: int = 2) -> None:
        if not (math.isfinite(memory_s) and memory_s >= 0.0):
            raise OptionError(f"memory of observed space is {memory_s} s, expected 0 or more")
        self._memory_s = memory_s
        self._threads = threads
        self._window: _Window | None = None

    def reset(self) -> None:
        """Forget everything, e.g. after a jump of the pose."""
        self._window = None

    def add(self, frame: CameraFrame, prediction: OccupancyPrediction) -> OccupancyPrediction:
        """Observe one frame. A stamp that goes back, or a break of the history, forgets the rest.

        Args:
            frame: cameras, with the ego pose at each exposure.
            prediction: made from it.

        Returns:
            The prediction, with ``observed``: what was seen within the memory.

        Raises:
            MissingPackageError: numba is not installed.
        """
        seen = observed_voxels(frame, prediction, self._threads)
        if self._memory_s > 0.0:
            grid, stamp_ns = prediction.grid, prediction.stamp_ns
            window = None if prediction.history_break else self._window
            if window is None or window.grid != grid or stamp_ns < window.stamp_ns:
                window = _Window(grid, stamp_ns)
            world_T_grid = frame.world_T_reference_ego @ prediction.ego_T_grid
            window.add(seen, world_T_grid, stamp_ns, self._memory_s)
            self._window = window
        return replace(prediction, observed=seen)


def observed_voxels(frame: CameraFrame, prediction: OccupancyPrediction, threads: int = 2) -> Mask:
    """(X, Y, Z) voxels that the frame's cameras see, if the prediction is right.

    Neighbouring rays are at most one voxel apart at the far corner of the grid.

    Args:
        frame: rectified cameras, with the ego pose at each exposure.
        prediction: made from it.
        threads: cameras that are followed at a time; the result does not depend on it.

    Raises:
        MissingPackageError: numba is not installed.
    """
    kernels = _kernels()
    grid, labels = prediction.grid, prediction.labels
    occupied = (labels != prediction.empty_class) & (labels != UNKNOWN_CLASS)
    seen = np.zeros(grid.dims, np.bool_)
    ego_T_world = invert_transform(frame.world_T_reference_ego)
    grid_T_ego = invert_transform(prediction.ego_T_grid)
    voxels = np.array(grid.voxel_size)
    corners = np.array(np.meshgrid(*zip(grid.lower, grid.upper, strict=True))).reshape(3, -1).T

    def follow(name: str) -> Float64:
        camera = frame.rig.camera(name)
        pose = grid_T_ego @ ego_T_world @ frame.world_T_ego[name] @ camera.ego_T_cam
        origin = pose[:3, 3]
        farthest = float(np.linalg.norm(corners - origin, axis=1).max())
        focal = float(max(camera.K[0, 0], camera.K[1, 1]))
        pitch = max(1.0, focal * float(voxels.min()) / farthest)
        ways = pose[:3, :3] @ np.linalg.inv(camera.K) / voxels[:, None]
        size = np.array((camera.width, camera.height), np.float64)
        place: Float64 = (origin - grid.lower) / voxels
        kernels.mark_seen(occupied, place, ways, size, pitch, seen)
        return place

    # Threads only write True, so their order does not matter.
    with ThreadPoolExecutor(threads) as pool:
        origins = list(pool.map(follow, frame.images))
    if origins:
        seen |= occupied & _face_seen_space(seen & ~occupied, np.mean(origins, axis=0))
    return seen


def _face_seen_space(space: Mask, eye: Float64) -> Mask:
    """(X, Y, Z) voxels with a face towards the eye that borders on seen free space.

    Rays at grazing angles are far apart where they meet the ground; the space above it is seen.

    Args:
        space: (X, Y, Z) free voxels that are seen.
        eye: (3,) position in voxels.
    """
    faces = np.zeros_like(space)
    for axis in range(3):
        of_voxel, of_space = np.moveaxis(faces, axis, 0), np.moveaxis(space, axis, 0)
        split = int(np.clip(math.floor(eye[axis]), 0, space.shape[axis]))
        # Voxels before the eye turn their upper side to it, those behind it their lower side.
        upper = slice(0, min(split, space.shape[axis] - 1))
        of_voxel[upper] |= of_space[upper.start + 1 : upper.stop + 1]
        lower = slice(max(split + 1, 1), space.shape[axis])
        of_voxel[lower] |= of_space[lower.start - 1 : lower.stop - 1]
    return faces


class _Window:
    """Time of the last observation of the cells of a window of the world.

    Cells have the size of the grid's voxels and lie along the world's axes. The window follows the
    grid, and is as wide as its diagonal, so that it holds the grid at any heading.
    """

    def __init__(self, grid: VoxelGrid, began_ns: int) -> None:
        self.grid = grid
        self.stamp_ns = self._began_ns = began_ns
        self._cell = np.array(grid.voxel_size)
        extent = np.array(grid.dims) * self._cell
        across = float(np.hypot(extent[0], extent[1]))
        wide = (math.ceil(across / size) + _MARGIN for size in self._cell[:2])
        # A slope of one in ten lifts the border of the grid by half of this.
        high = grid.dims[2] + math.ceil(0.1 * across / self._cell[2]) + _MARGIN
        self._last = np.full((*wide, high), _NEVER, np.float32)
        self._first = np.zeros(3, np.int64)

    def add(self, seen: Mask, world_T_grid: Float64, stamp_ns: int, memory_s: float) -> None:
        """Enter what is seen now; mark in ``seen`` what was seen within the memory."""
        kernels = _kernels()
        now = 1e-9 * (stamp_ns - self._began_ns)
        seen_now = seen.copy()
        since = np.float32(now - memory_s)
        kernels.recall(self._last, self._first, self._cells(world_T_grid, self._first), since, seen)
        middle = world_T_grid @ [*(np.add(self.grid.lower, self.grid.upper) / 2), 1.0]
        first = np.floor(middle[:3] / self._cell).astype(np.int64) - np.array(self._last.shape) // 2
        kernels.remember(
            seen_now,
            np.float32(now),
            np.linalg.inv(self._cells(world_T_grid, first)),
            self._last,
            first,
            self._first,
            np.float32(_NEVER),
        )
        self._first, self.stamp_ns = first, stamp_ns

    def _cells(self, world_T_grid: Float64, first: NDArray[np.int64]) -> Float64:
        """(4, 4) from positions in voxels of the grid to positions in cells of the window."""
        world_T_voxels = world_T_grid @ _scaled(self._cell, np.array(self.grid.lower))
        world_T_cells = _scaled(self._cell, first * self._cell)
        return np.asarray(np.linalg.solve(world_T_cells, world_T_voxels), np.float64)


def _scaled(size: Float64, origin: Float64) -> Float64:
    matrix = np.diag([*size, 1.0])
    matrix[:3, 3] = origin
    return matrix


def _kernels() -> ModuleType:
    with needed_for("observed space"):
        from occ_perception.mapping import visibility_kernels
    return visibility_kernels
