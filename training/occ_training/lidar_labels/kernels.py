"""Compiled kernels for lidar rays through voxels; importing this module loads numba.

All kernels are in this file, because numba invalidates cached machine code only when the file of
the kernel itself changes.

Voxels of the world are stored in bricks of BRICK x BRICK x BRICK. Only bricks near the wanted
frames exist: ``table`` (I, J, K) gives the row of a brick in the pools, -1 if it does not exist. A
voxel has one bit per time slot in ``hits`` (a point fell into it) and ``crossings`` (a ray crossed
it). The traversal follows Amanatides & Woo, "A Fast Voxel Traversal Algorithm for Ray Tracing",
1987.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

BRICK = 16
_SHIFT = 4
_ROW = BRICK * BRICK * BRICK
_NEVER = 1e30


def _kernel(function: Callable[..., Any]) -> Any:
    settings: Any = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # no place for the cache: read-only package, no home
        return numba.njit(**settings)(function)


@_kernel
def _voxel_of(table: Any, i: int, j: int, k: int) -> int:
    """Position of a voxel in the flat pools; -1 if its brick does not exist."""
    bi, bj, bk = i >> _SHIFT, j >> _SHIFT, k >> _SHIFT
    if (
        bi < 0
        or bj < 0
        or bk < 0
        or bi >= table.shape[0]
        or bj >= table.shape[1]
        or bk >= table.shape[2]
    ):
        return -1
    row = table[bi, bj, bk]
    if row < 0:
        return -1
    low = BRICK - 1
    return int(row * _ROW + ((i & low) * BRICK + (j & low)) * BRICK + (k & low))


@_kernel
def observe_rays(
    table: Any,
    hits: Any,
    crossings: Any,
    bit: Any,
    origin: Any,
    points: Any,
    voxel: float,
    farthest: float,
) -> None:
    """Mark the voxels that rays with a common origin hit and cross.

    ``origin`` (3,) and ``points`` (n, 3) are metres from the table's lower corner; ``bit`` is the
    sweep's time slot as uint64. A ray crosses the voxels before that of its point.
    """
    ox, oy, oz = origin[0] / voxel, origin[1] / voxel, origin[2] / voxel
    for n in range(points.shape[0]):
        px, py, pz = points[n, 0] / voxel, points[n, 1] / voxel, points[n, 2] / voxel
        last_i, last_j, last_k = math.floor(px), math.floor(py), math.floor(pz)
        at = _voxel_of(table, last_i, last_j, last_k)
        if at >= 0:
            hits[at] |= bit
        dx, dy, dz = px - ox, py - oy, pz - oz
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        if length == 0.0:
            continue
        end = min(1.0, farthest / (voxel * length))
        i, j, k = math.floor(ox), math.floor(oy), math.floor(oz)
        step_i, step_j, step_k = (
            (1 if dx > 0.0 else -1),
            (1 if dy > 0.0 else -1),
            (1 if dz > 0.0 else -1),
        )
        delta_i = 1.0 / abs(dx) if dx != 0.0 else _NEVER
        delta_j = 1.0 / abs(dy) if dy != 0.0 else _NEVER
        delta_k = 1.0 / abs(dz) if dz != 0.0 else _NEVER
        next_i = ((i + 1 - ox) if dx > 0.0 else (ox - i)) * delta_i if dx != 0.0 else _NEVER
        next_j = ((j + 1 - oy) if dy > 0.0 else (oy - j)) * delta_j if dy != 0.0 else _NEVER
        next_k = ((k + 1 - oz) if dz > 0.0 else (oz - k)) * delta_k if dz != 0.0 else _NEVER
        while not (i == last_i and j == last_j and k == last_k):
            at = _voxel_of(table, i, j, k)
            if at >= 0:
                crossings[at] |= bit
            if next_i < next_j and next_i < next_k:
                t = next_i
                next_i += delta_i
                i += step_i
            elif next_j < next_k:
                t = next_j
                next_j += delta_j
                j += step_j
            else:
                t = next_k
                next_k += delta_k
                k += step_k
            if t > end:
                break


@_kernel
def cast_into_grid(occupied: Any, seen: Any, origin: Any, directions: Any, reach: float) -> None:
    """Mark in ``seen`` (X, Y, Z) the voxels that rays cross, up to the first occupied one.

    ``origin`` (3,) and ``directions`` (n, 3) are in voxels of the grid; ``reach`` is the largest
    ray parameter.
    """
    ox, oy, oz = origin[0], origin[1], origin[2]
    X, Y, Z = seen.shape
    for n in range(directions.shape[0]):
        dx, dy, dz = directions[n, 0], directions[n, 1], directions[n, 2]
        near, far = 0.0, reach
        missed = False
        for axis in range(3):
            o = ox if axis == 0 else (oy if axis == 1 else oz)
            d = dx if axis == 0 else (dy if axis == 1 else dz)
            size = float(X if axis == 0 else (Y if axis == 1 else Z))
            if d == 0.0:
                missed = missed or o < 0.0 or o >= size
                continue
            a, b = -o / d, (size - o) / d
            near = max(near, min(a, b))
            far = min(far, max(a, b))
        if missed or near >= far:
            continue
        x, y, z = ox + near * dx, oy + near * dy, oz + near * dz
        i = min(max(math.floor(x), 0), X - 1)
        j = min(max(math.floor(y), 0), Y - 1)
        k = min(max(math.floor(z), 0), Z - 1)
        step_i, step_j, step_k = (
            (1 if dx > 0.0 else -1),
            (1 if dy > 0.0 else -1),
            (1 if dz > 0.0 else -1),
        )
        delta_i = 1.0 / abs(dx) if dx != 0.0 else _NEVER
        delta_j = 1.0 / abs(dy) if dy != 0.0 else _NEVER
        delta_k = 1.0 / abs(dz) if dz != 0.0 else _NEVER
        next_i = near + ((i + 1 - x) if dx > 0.0 else (x - i)) * delta_i if dx != 0.0 else _NEVER
        next_j = near + ((j + 1 - y) if dy > 0.0 else (y - j)) * delta_j if dy != 0.0 else _NEVER
        next_k = near + ((k + 1 - z) if dz > 0.0 else (z - k)) * delta_k if dz != 0.0 else _NEVER
        while True:
            seen[i, j, k] = True
            if occupied[i, j, k]:
                break
            if next_i < next_j and next_i < next_k:
                if next_i > far:
                    break
                i += step_i
                next_i += delta_i
                if i < 0 or i >= X:
                    break
            elif next_j < next_k:
                if next_j > far:
                    break
                j += step_j
                next_j += delta_j
                if j < 0 or j >= Y:
                    break
            else:
                if next_k > far:
                    break
                k += step_k
                next_k += delta_k
                if k < 0 or k >= Z:
                    break


@_kernel
def _bits_between(a: int, b: int) -> Any:
    """uint64 with the bits a..b set, in either order."""
    low, high = min(a, b), max(a, b)
    everything = np.uint64(0xFFFFFFFFFFFFFFFF)
    return (everything << np.uint64(low)) & (everything >> np.uint64(63 - high))


@_kernel
def fill_grid(
    table: Any,
    hits: Any,
    crossings: Any,
    voxel: float,
    points: Any,
    slots: Any,
    trusted: Any,
    labels: Any,
    frame_slot: int,
    hit_now: Any,
    crossed_now: Any,
    grid_T_world: Any,
    counts: Any,
    votes: Any,
) -> None:
    """Count points in the voxels of one frame's grid.

    A point that is not ``trusted`` is carried from its own time slot to the frame's only if its
    voxel was free (crossed and not hit) in no slot between them. A slot is too long for moving
    objects, so in slots next to the frame's the sweep of the frame itself (``hit_now``,
    ``crossed_now``) must not see the voxel as free either.

    ``points`` (n, 3) are metres from the table's lower corner, ``grid_T_world`` (3, 4) maps them to
    voxels of the grid. ``counts`` (X, Y, Z) and ``votes`` (X, Y, Z, classes) are incremented, votes
    only for ``labels`` that are classes.
    """
    X, Y, Z = counts.shape
    m = grid_T_world
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        i = math.floor(m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3])
        j = math.floor(m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3])
        k = math.floor(m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3])
        if i < 0 or j < 0 or k < 0 or i >= X or j >= Y or k >= Z:
            continue
        if not trusted[n]:
            at = _voxel_of(
                table, math.floor(x / voxel), math.floor(y / voxel), math.floor(z / voxel)
            )
            if at >= 0:
                between = _bits_between(slots[n], frame_slot)
                if crossings[at] & ~hits[at] & between:
                    continue
                if abs(slots[n] - frame_slot) <= 1 and crossed_now[at] and not hit_now[at]:
                    continue
        if counts[i, j, k] < 65535:
            counts[i, j, k] += 1
        label = labels[n]
        if label < votes.shape[3] and votes[i, j, k, label] < 65535:
            votes[i, j, k, label] += 1


@_kernel
def look_up(table: Any, pool: Any, bits: Any, voxel: float, world_T_grid: Any, found: Any) -> None:
    """Mark in ``found`` (X, Y, Z) the voxels whose centre has one of ``bits`` in the pool.

    ``world_T_grid`` (3, 4) maps voxels of the grid to metres from the table's lower corner.
    """
    m = world_T_grid
    for i in range(found.shape[0]):
        for j in range(found.shape[1]):
            for k in range(found.shape[2]):
                x, y, z = i + 0.5, j + 0.5, k + 0.5
                at = _voxel_of(
                    table,
                    math.floor((m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]) / voxel),
                    math.floor((m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]) / voxel),
                    math.floor((m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]) / voxel),
                )
                if at >= 0 and pool[at] & bits:
                    found[i, j, k] = True


@_kernel
def points_in_box(points: Any, box_T_world: Any, half: Any, inside: Any) -> None:
    """Set ``inside`` (n,) for the points (n, 3) in a box.

    ``box_T_world`` (3, 4); ``half`` (2, 3) are the lowest and highest coordinates in the box.
    """
    m = box_T_world
    reach = 0.0
    for axis in range(3):
        reach += max(abs(half[0, axis]), abs(half[1, axis])) ** 2
    reach = math.sqrt(reach)
    # The box's origin in the world: R^T (-t).
    cx = -(m[0, 0] * m[0, 3] + m[1, 0] * m[1, 3] + m[2, 0] * m[2, 3])
    cy = -(m[0, 1] * m[0, 3] + m[1, 1] * m[1, 3] + m[2, 1] * m[2, 3])
    for n in range(points.shape[0]):
        x, y, z = points[n, 0], points[n, 1], points[n, 2]
        if abs(x - cx) > reach or abs(y - cy) > reach:
            continue
        a = m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]
        b = m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]
        c = m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]
        if (
            half[0, 0] < a < half[1, 0]
            and half[0, 1] < b < half[1, 1]
            and half[0, 2] < c < half[1, 2]
        ):
            inside[n] = True
