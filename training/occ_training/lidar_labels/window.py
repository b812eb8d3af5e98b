"""The accumulated sweeps of a section of a drive, and the occupancy of each of its frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64, VoxelGrid, invert_transform
from occ_training.lidar_labels.boxes import Box, BoxTracks
from occ_training.lidar_labels.ground import find_ground
from occ_training.lidar_labels.sweeps import NO_CLASS, Sweep

Float32 = NDArray[np.float32]
Mask = NDArray[np.bool_]
Pool = NDArray[np.unsignedinteger[Any]]

SLOTS = 64
"""Time slots of a section; a voxel has one bit for each."""


@dataclass(frozen=True)
class LabelRule:
    """Parameters of the labels.

    Attributes:
        window_s: a frame uses sweeps up to this time before and after it.
        slot_s: length of the time slots for free space.
        farthest_m: rays mark free space up to this distance.
        least_points: number of points that makes a voxel occupied.
        ground_gap_m: gaps of the ground up to this width are filled.
        free_span_s: rays up to this time before and after a frame make a voxel observed.
        box_margin_m: points up to this distance outside of a moving box belong to it.
        nearest_sweep_s: a frame without a sweep within this time gets no labels.
    """

    window_s: float = 6.0
    slot_s: float = 0.5
    farthest_m: float = 80.0
    least_points: int = 1
    ground_gap_m: float = 12.0
    free_span_s: float = 2.0
    box_margin_m: float = 0.1
    nearest_sweep_s: float = 0.15

    @property
    def core_s(self) -> float:
        """Longest duration of the frames of a section, so that its sweeps fit into the slots."""
        return SLOTS * self.slot_s - 2 * self.window_s


@dataclass(frozen=True, eq=False)
class LidarOccupancy:
    """Occupancy of one frame from the lidar, in the frame's grid.

    Attributes:
        occupied: (X, Y, Z) a point or inferred ground lies in the voxel.
        classes: (X, Y, Z) uint8 most frequent class of the points, NO_CLASS if they have none.
        observed: (X, Y, Z) occupied, or crossed by a ray.
        flow: (X, Y, Z, 2) float32 over ground along the ego axes, m/s; of moving boxes.
    """

    occupied: Mask
    classes: NDArray[np.uint8]
    observed: Mask
    flow: Float32


class SweepWindow:
    """The accumulated sweeps around some frames.

    Args:
        poses: (n, 4, 4) ``world_T_ego`` of the frames.
        stamps: of the frames, ns; frames and sweeps together span at most ``SLOTS * slot_s``
            seconds.
        sweeps: in time order.
        boxes: tracks of objects; points of moving ones are stored apart and follow the box.
        grid: voxels of the labels, in ego axes.
        class_names: id -> name, to which the boxes' names are matched.
        rule: parameters.
    """

    def __init__(
        self,
        poses: Sequence[Float64],
        stamps: Sequence[int],
        sweeps: Sequence[Sweep],
        boxes: BoxTracks,
        grid: VoxelGrid,
        class_names: Sequence[str],
        rule: LabelRule,
    ) -> None:
        self._grid = grid
        self._rule = rule
        self._names = list(class_names)
        self._sweeps = list(sweeps)
        self._first_ns = min([sweep.stamp_ns for sweep in sweeps] + [min(stamps)])
        self._moving = boxes.moving()
        self._make_bricks(poses)
        self._gather()
        self._find_ground()
        self._observe()

    # -- preparation -----------------------------------------------------------------------------

    def _make_bricks(self, poses: Sequence[Float64]) -> None:
        """Allocate the bricks that the frames' grids touch."""
        from occ_training.lidar_labels.kernels import BRICK

        self._voxel = float(self._grid.voxel_size[0])
        edge = BRICK * self._voxel
        steps = [
            np.arange(low, high + edge, edge / 2)
            for low, high in zip(self._grid.lower, self._grid.upper, strict=True)
        ]
        lattice = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
        lattice = np.minimum(lattice, self._grid.upper)
        places = np.concatenate([lattice @ pose[:3, :3].T + pose[:3, 3] for pose in poses])
        self._corner = np.floor(places.min(axis=0) / edge) * edge - edge
        bricks = np.unique(np.floor((places - self._corner) / edge).astype(np.int64), axis=0)
        self._table = np.full(tuple(bricks.max(axis=0) + 2), -1, np.int32)
        self._table[tuple(bricks.T)] = np.arange(len(bricks), dtype=np.int32)
        self._hits = np.zeros(len(bricks) * BRICK**3, np.uint64)
        self._crossings = np.zeros_like(self._hits)

    def _slot(self, stamp_ns: int) -> int:
        slot = int((stamp_ns - self._first_ns) * 1e-9 / self._rule.slot_s)
        return min(max(slot, 0), SLOTS - 1)

    def _gather(self) -> None:
        """Collect all points in one array; those of moving boxes separately."""
        points, classes, slots = [], [], []
        self._on_boxes: dict[str, list[tuple[Float64, NDArray[np.uint8]]]] = {}
        self._bounds = [0]
        for sweep in self._sweeps:
            standing = np.ones(len(sweep.points), bool)
            for box in self._moving.at(sweep.stamp_ns):
                inside = box.holds(sweep.points, self._rule.box_margin_m)
                standing &= ~inside
                self._keep_on_box(box, sweep, inside)
            points.append((sweep.points[standing] - self._corner).astype(np.float32))
            classes.append(sweep.classes[standing])
            slots.append(np.full(int(standing.sum()), self._slot(sweep.stamp_ns), np.int64))
            self._bounds.append(self._bounds[-1] + len(points[-1]))
        self._points = np.concatenate(points) if points else np.empty((0, 3), np.float32)
        self._classes = np.concatenate(classes) if classes else np.empty(0, np.uint8)
        self._slots = np.concatenate(slots) if slots else np.empty(0, np.int64)

    def _keep_on_box(self, box: Box, sweep: Sweep, inside: Mask) -> None:
        if not inside.any():
            return
        box_T_world = invert_transform(box.world_T_box)
        local = sweep.points[inside] @ box_T_world[:3, :3].T + box_T_world[:3, 3]
        classes = sweep.classes[inside]
        if box.name in self._names:
            classes = np.full(len(local), self._names.index(box.name), np.uint8)
        self._on_boxes.setdefault(box.track, []).append((local, classes))

    def _find_ground(self) -> None:
        self._trusted = np.zeros(len(self._points), bool)
        self._gap_points = np.empty((0, 3), np.float32)
        self._gap_classes = np.empty(0, np.uint8)
        if not len(self._points):
            return
        upper = (np.array(self._table.shape) + 1) * self._voxel * 16
        near = ((self._points > 0) & (self._points < upper)).all(axis=1)
        if not near.any():
            return
        vehicle = np.stack([sweep.world_T_ego for sweep in self._sweeps])
        vehicle[:, :3, 3] -= self._corner
        ground = find_ground(self._points[near], self._voxel, self._rule.ground_gap_m, vehicle)
        self._trusted[near] = ground.holds(self._points[near])
        known = ground.classes(self._points[near], self._classes[near])
        self._gap_points, self._gap_classes = ground.gap_points(known)

    def _observe(self) -> None:
        for sweep in self._sweeps:
            bit = np.uint64(1) << np.uint64(self._slot(sweep.stamp_ns))
            self._observe_sweep(sweep, bit, self._hits, self._crossings)
        self._hit_now = np.zeros(len(self._hits), np.uint8)
        self._crossed_now = np.zeros_like(self._hit_now)

    def _observe_sweep(
        self, sweep: Sweep, bit: np.unsignedinteger[Any], hits: Pool, crossings: Pool
    ) -> None:
        from occ_training.lidar_labels.kernels import observe_rays

        points = (sweep.points - self._corner).astype(np.float32)
        for n, origin in enumerate(sweep.origins - self._corner):
            some = points[sweep.starts[n] : sweep.starts[n + 1]]
            observe_rays(
                self._table, hits, crossings, bit, origin, some, self._voxel, self._rule.farthest_m
            )

    # -- one frame -------------------------------------------------------------------------------

    def occupancy(self, stamp_ns: int, world_T_ego: Float64) -> LidarOccupancy:
        """The occupancy of a frame of this section."""
        from occ_training.lidar_labels.kernels import look_up

        dims = self._grid.dims
        counts = np.zeros(dims, np.uint16)
        votes = np.zeros((*dims, len(self._names)), np.uint16)
        flow = np.zeros((*dims, 2), np.float32)
        self._fill_standing(stamp_ns, world_T_ego, counts, votes)
        self._fill_moving(stamp_ns, world_T_ego, counts, votes, flow)
        occupied = counts >= self._rule.least_points
        best = votes.argmax(axis=-1).astype(np.uint8)
        classes = np.where(votes.max(axis=-1) > 0, best, np.uint8(NO_CLASS))
        observed = occupied.copy()
        world_T_voxel = np.eye(4)
        world_T_voxel[:3, :3] = np.diag(self._grid.voxel_size)
        world_T_voxel[:3, 3] = self._grid.lower
        world_T_voxel = (world_T_ego @ world_T_voxel)[:3]
        world_T_voxel[:, 3] -= self._corner
        bits = self._slots_around(stamp_ns, self._rule.free_span_s)
        look_up(self._table, self._crossings, bits, self._voxel, world_T_voxel, observed)
        return LidarOccupancy(occupied, classes, observed, flow)

    def _slots_around(self, stamp_ns: int, span_s: float) -> np.uint64:
        first = self._slot(stamp_ns - round(span_s * 1e9))
        last = self._slot(stamp_ns + round(span_s * 1e9))
        bits: np.uint64 = np.uint64(sum(1 << slot for slot in range(first, last + 1)))
        return bits

    def _grid_T_world(self, world_T_ego: Float64) -> Float64:
        """(3, 4) from metres relative to the corner to voxels of the grid."""
        ego_T_corner = invert_transform(world_T_ego)
        ego_T_corner[:3, 3] += ego_T_corner[:3, :3] @ self._corner
        scale = 1.0 / np.array(self._grid.voxel_size)
        matrix: Float64 = ego_T_corner[:3] * scale[:, None]
        matrix[:, 3] -= np.array(self._grid.lower) * scale
        return np.ascontiguousarray(matrix)

    def _fill_standing(
        self,
        stamp_ns: int,
        world_T_ego: Float64,
        counts: NDArray[np.uint16],
        votes: NDArray[np.uint16],
    ) -> None:
        window = round(self._rule.window_s * 1e9)
        stamps = np.array([sweep.stamp_ns for sweep in self._sweeps])
        chosen = np.flatnonzero(np.abs(stamps - stamp_ns) <= window)
        if not len(chosen):
            return
        some = slice(self._bounds[chosen[0]], self._bounds[chosen[-1] + 1])
        trusted = self._trusted[some].copy()
        current = int(np.argmin(np.abs(stamps - stamp_ns)))
        self._hit_now[:] = 0
        self._crossed_now[:] = 0
        self._observe_sweep(self._sweeps[current], np.uint8(1), self._hit_now, self._crossed_now)
        start = self._bounds[chosen[0]]
        trusted[self._bounds[current] - start : self._bounds[current + 1] - start] = True
        self._fill(
            stamp_ns, world_T_ego, self._points[some], self._slots[some], trusted,
            self._classes[some], counts, votes,
        )  # fmt: skip
        inferred = len(self._gap_points)
        self._fill(
            stamp_ns, world_T_ego, self._gap_points, np.zeros(inferred, np.int64),
            np.ones(inferred, bool), self._gap_classes, counts, votes,
        )  # fmt: skip

    def _fill_moving(
        self,
        stamp_ns: int,
        world_T_ego: Float64,
        counts: NDArray[np.uint16],
        votes: NDArray[np.uint16],
        flow: Float32,
    ) -> None:
        for box in self._moving.at(stamp_ns):
            if box.track not in self._on_boxes:
                continue
            parts = self._on_boxes[box.track]
            local = np.concatenate([part for part, _ in parts])
            points = local @ box.world_T_box[:3, :3].T + box.world_T_box[:3, 3] - self._corner
            classes = np.concatenate([part for _, part in parts])
            own = np.zeros_like(counts)
            always = np.ones(len(points), bool)
            slots = np.zeros(len(points), np.int64)
            self._fill(
                stamp_ns, world_T_ego, points.astype(np.float32), slots, always, classes, own, votes
            )  # fmt: skip
            counts += own
            flow[own > 0] = (np.array([*box.velocity, 0.0]) @ world_T_ego[:3, :3])[:2]

    def _fill(
        self,
        stamp_ns: int,
        world_T_ego: Float64,
        points: Float32,
        slots: NDArray[np.int64],
        trusted: Mask,
        classes: NDArray[np.uint8],
        counts: NDArray[np.uint16],
        votes: NDArray[np.uint16],
    ) -> None:
        from occ_training.lidar_labels.kernels import fill_grid

        fill_grid(
            self._table,
            self._hits,
            self._crossings,
            self._voxel,
            points,
            slots,
            trusted,
            classes,
            self._slot(stamp_ns),
            self._hit_now,
            self._crossed_now,
            self._grid_T_world(world_T_ego),
            counts,
            votes,
        )
