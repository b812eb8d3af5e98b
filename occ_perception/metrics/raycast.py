"""Casts many rays through several volumes of one grid, to the first occupied voxel, in plain torch.

All rays step together from voxel to voxel (Amanatides & Woo, "A Fast Voxel Traversal Algorithm for
Ray Tracing", 1987). Rays that have ended are dropped from the working set from time to time. The
path of a ray does not depend on the volumes, so ground truth and prediction share one traversal.

The distance is where the ray *leaves* the hit voxel, and arithmetic is float64 on float32 voxel
coordinates. These are the conventions of the reference code of RayIoU (arXiv 2312.17118).

Legend: V volumes, X Y Z voxels, T origins, R directions, N = T * R rays, M active rays.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid
from occ_perception.metrics.counting import MetricsError

# The reference code stops after this many voxels. A ray inside the grid crosses at most X + Y + Z
# of them, so the limit affects only rays that start hundreds of metres away.
MAX_APPROACH_VOXELS = 1001

MAX_VOLUMES = 7
_OUTSIDE = 128  # bit 7 of the voxel code; bits 0..6 tell which volumes are occupied there
_NEVER = torch.finfo(torch.float64).max

# Ended rays cost time until they are dropped; dropping them copies the others.
_DROP_BELOW = 0.8


@dataclass(frozen=True, eq=False)
class RayHits:
    """End points of rays.

    Attributes:
        voxels: (V, N) int64, flat index into an [X, Y, Z] volume: the first occupied voxel, or the
            last voxel inside the grid if all are free, or 0 for a ray that misses the grid.
        distances: (V, N) float32, metres from the origin to where the ray leaves that voxel; minus
            one voxel for a ray that misses the grid.
    """

    voxels: Tensor
    distances: Tensor

    def values(self, volumes: Tensor) -> Tensor:
        """(V, N, ...) values of the volumes (V, X, Y, Z, ...) at the hit voxels."""
        flat = volumes.reshape(volumes.shape[0], -1, *volumes.shape[4:])
        return torch.stack(
            [volume[voxels] for volume, voxels in zip(flat, self.voxels, strict=True)]
        )


@dataclass
class _Walk:
    """Active rays: next crossing per axis, its increment, and the step in the flat index.

    ``crossing`` and ``increment`` (3, M) are float64 ray parameters in voxel units. ``stride``
    (3, M) is added to ``voxel`` (M,) when an axis is crossed.
    """

    ray: Tensor
    voxel: Tensor
    crossing: Tensor
    increment: Tensor
    stride: Tensor

    def keep(self, rows: Tensor) -> _Walk:
        return _Walk(
            self.ray[rows],
            self.voxel[rows],
            self.crossing[:, rows],
            self.increment[:, rows],
            self.stride[:, rows],
        )


def first_hits(occupied: Tensor, origins: Tensor, directions: Tensor, grid: VoxelGrid) -> RayHits:
    """Cast every direction from every origin through each volume.

    Args:
        occupied: (V, X, Y, Z) bool, on the device to work on; at most seven volumes.
        origins: (T, 3) ray origins in the grid's frame, metres; may lie outside the grid. The
            voxel that holds an origin counts as visited.
        directions: (R, 3) directions in the same frame, any length but zero.
        grid: voxel layout; voxels are cubes.

    Returns:
        Hits of the N = T * R rays, origin by origin, directions in their order.

    Raises:
        ValueError: the volumes are not of this grid, or too many.
        MetricsError: the grid's voxels are not cubes.
    """
    if tuple(occupied.shape[1:]) != grid.dims or not 0 < len(occupied) <= MAX_VOLUMES:
        raise ValueError(
            f"expected 1 to {MAX_VOLUMES} volumes of shape {grid.dims}, got {tuple(occupied.shape)}"
        )
    if len(set(grid.voxel_size)) != 1:
        raise MetricsError(f"ray distances need cubic voxels, got voxel_size={grid.voxel_size} m")
    device = occupied.device
    codes = _voxel_codes(occupied)
    walk, padded = _begin(origins.to(device), directions.to(device), grid)
    voxels = torch.full((len(occupied), len(origins) * len(directions)), -1, device=device)
    leave = torch.full(voxels.shape, -1.0, dtype=torch.float64, device=device)
    _march(walk, codes, voxels, leave)
    edge = torch.tensor(grid.voxel_size[0], dtype=torch.float32, device=device)
    return RayHits(_unpadded(voxels, padded, grid.dims), leave.float() * edge)


def _voxel_codes(occupied: Tensor) -> Tensor:
    """Flat uint8 table with one bit per volume, padded by a border of outside voxels."""
    X, Y, Z = occupied.shape[1:]
    codes = torch.full((X + 2, Y + 2, Z + 2), _OUTSIDE, dtype=torch.uint8, device=occupied.device)
    inner = codes[1:-1, 1:-1, 1:-1]
    inner.zero_()
    for bit, volume in enumerate(occupied):
        inner |= volume.to(torch.uint8) << bit
    return codes.reshape(-1)


def _begin(
    origins: Tensor, directions: Tensor, grid: VoxelGrid
) -> tuple[_Walk, tuple[int, int, int]]:
    """The rays at their first voxel inside the grid; rays that never enter are left out."""
    device = origins.device
    lower = torch.tensor(grid.lower, dtype=torch.float64, device=device)
    edge = torch.tensor(grid.voxel_size, dtype=torch.float32, device=device).double()
    start_T13 = origins.double()[:, None]
    end_TR3 = start_T13 + directions.double()[None]

    def voxel_units(points: Tensor) -> Tensor:
        return ((points - lower) / edge).float().double()

    start = voxel_units(start_T13).expand_as(end_TR3).reshape(-1, 3).T.contiguous()
    direction = voxel_units(end_TR3).reshape(-1, 3).T.contiguous() - start
    x, y, z = direction
    direction = direction / (x * x + y * y + z * z).sqrt()
    forward = direction >= 0
    step = torch.where(forward, 1, -1)
    index = start.trunc()
    still = direction == 0
    crossing = torch.where(still, _NEVER, (index + forward - start) / direction)
    increment = torch.where(still, _NEVER, step / direction)

    dims = torch.tensor(grid.dims, device=device)[:, None]
    index = index.long()
    entered = _approach(index, crossing, increment, step, dims)
    padded = (grid.dims[0] + 2, grid.dims[1] + 2, grid.dims[2] + 2)
    strides = torch.tensor([padded[1] * padded[2], padded[2], 1], device=device)[:, None]
    walk = _Walk(
        ray=torch.arange(index.shape[1], device=device),
        voxel=((index + 1) * strides).sum(0),
        crossing=crossing,
        increment=increment,
        stride=step * strides,
    )
    return (walk if entered.all() else walk.keep(entered.nonzero()[:, 0])), padded


def _approach(
    index: Tensor, crossing: Tensor, increment: Tensor, step: Tensor, dims: Tensor
) -> Tensor:
    """Advance rays that start outside to the grid, in place; returns (N,) bool: inside now."""
    inside = ((index >= 0) & (index < dims)).all(0)
    rows = (~inside).nonzero()[:, 0]
    for _ in range(MAX_APPROACH_VOXELS):
        here = index[:, rows]
        moving_away = ((here < 0) & (step[:, rows] < 0)) | ((here >= dims) & (step[:, rows] > 0))
        rows = rows[~moving_away.any(0)]
        if not len(rows):
            break
        axis, crossed_at = _next_axis(crossing[:, rows])
        index[axis, rows] += step[axis, rows]
        crossing[axis, rows] = crossed_at + increment[axis, rows]
        arrived = ((index[:, rows] >= 0) & (index[:, rows] < dims)).all(0)
        inside[rows[arrived]] = True
        rows = rows[~arrived]
    return inside


def _next_axis(crossing: Tensor) -> tuple[Tensor, Tensor]:
    """Axis (M,) crossed next and its ray parameter (M,); on a tie z before y before x."""
    x, y, z = crossing
    horizontal = torch.minimum(x, y)
    axis = torch.where(horizontal < z, (x >= y).long(), 2)
    return axis, torch.minimum(horizontal, z)


def _march(walk: _Walk, codes: Tensor, voxels: Tensor, leave: Tensor) -> None:
    """Step all rays until each volume has stopped each of them; fills ``voxels`` and ``leave``."""
    everything = (1 << len(voxels)) - 1
    waiting = torch.full_like(walk.voxel, everything | _OUTSIDE, dtype=torch.uint8)
    under_way = len(waiting)
    voxel_before, left_before = walk.voxel, torch.zeros_like(walk.crossing[0])
    while under_way:
        axis, leaves_at = _next_axis(walk.crossing)
        stopped = codes[walk.voxel] & waiting
        rows = stopped.nonzero()[:, 0]
        if len(rows):
            stop, ray = stopped[rows], walk.ray[rows]
            outside = stop >= _OUTSIDE
            at_voxel = torch.where(outside, voxel_before[rows], walk.voxel[rows])
            at = torch.where(outside, left_before[rows], leaves_at[rows])
            stop = torch.where(outside, waiting[rows], stop)
            for volume in range(len(voxels)):
                hit = (stop >> volume) & 1 != 0
                voxels[volume, ray[hit]] = at_voxel[hit]
                leave[volume, ray[hit]] = at[hit]
            waiting[rows] &= ~stop
            ended = rows[(waiting[rows] & everything) == 0]
            waiting[ended] = 0
            walk.stride[:, ended] = 0
            under_way -= len(ended)
        voxel_before, left_before = walk.voxel, leaves_at
        position = axis * len(axis) + torch.arange(len(axis), device=axis.device)
        walk.voxel = walk.voxel + walk.stride.view(-1)[position]
        walk.crossing.view(-1)[position] = leaves_at + walk.increment.view(-1)[position]
        if under_way < _DROP_BELOW * len(waiting):
            rows = waiting.nonzero()[:, 0]
            walk, waiting = walk.keep(rows), waiting[rows]
            voxel_before, left_before = voxel_before[rows], left_before[rows]


def _unpadded(voxels: Tensor, padded: tuple[int, int, int], dims: tuple[int, int, int]) -> Tensor:
    """Flat volume indices from those of the padded table; -1 (missed the grid) becomes 0."""
    x = voxels // (padded[1] * padded[2]) - 1
    y = voxels // padded[2] % padded[1] - 1
    z = voxels % padded[2] - 1
    return torch.where(voxels < 0, 0, (x * dims[1] + y) * dims[2] + z)
