"""Loops over rays and voxels for observed space, compiled for a CPU; importing this loads numba.

Positions are in voxels of a grid: voxel (i, j, k) reaches from (i, j, k) to (i + 1, j + 1, k + 1).
"""

from __future__ import annotations

import math
from typing import Any

from occ_perception.ops.compiled import kernel

_NEVER = 1e30


@kernel
def _enter(o: float, d: float, count: int, near: float, far: float) -> Any:
    """The part of a ray's parameters that lies inside of the grid along one axis."""
    if d == 0.0:
        return (near, far) if 0.0 <= o < count else (1.0, 0.0)
    a, b = -o / d, (count - o) / d
    return max(near, min(a, b)), min(far, max(a, b))


@kernel
def _axis(o: float, d: float, near: float, count: int) -> Any:
    """Voxel, step, parameter of the next border, and parameter length of a voxel, of one axis."""
    at = o + near * d
    voxel = min(max(math.floor(at), 0), count - 1)
    if d > 0.0:
        return voxel, 1, near + (voxel + 1 - at) / d, 1.0 / d
    if d < 0.0:
        return voxel, -1, near + (voxel - at) / d, -1.0 / d
    return voxel, 0, _NEVER, _NEVER


@kernel
def _walk(occupied: Any, origin: Any, way: Any, seen: Any) -> None:
    """Mark the voxels along a ray, until it has gone the edge of a voxel through occupied ones."""
    X, Y, Z = occupied.shape
    left = 1.0 / math.sqrt(way[0] ** 2 + way[1] ** 2 + way[2] ** 2)
    near, far = _enter(origin[0], way[0], X, 0.0, _NEVER)
    near, far = _enter(origin[1], way[1], Y, near, far)
    near, far = _enter(origin[2], way[2], Z, near, far)
    if near >= far:
        return
    i, si, ti, ui = _axis(origin[0], way[0], near, X)
    j, sj, tj, uj = _axis(origin[1], way[1], near, Y)
    k, sk, tk, uk = _axis(origin[2], way[2], near, Z)
    t = near
    while 0 <= i < X and 0 <= j < Y and 0 <= k < Z:
        seen[i, j, k] = True
        leave = min(ti, min(tj, tk))
        if occupied[i, j, k]:
            left -= leave - t
            if left <= 0.0:
                return
        t = leave
        if ti < tj and ti < tk:
            i += si
            ti += ui
        elif tj < tk:
            j += sj
            tj += uj
        else:
            k += sk
            tk += uk


@kernel
def mark_seen(occupied: Any, origin: Any, ways: Any, size: Any, pitch: float, seen: Any) -> None:
    """Mark every voxel that a ray of a camera crosses before it ends.

    Args:
        occupied: (X, Y, Z) bool.
        origin: (3,) the camera, in voxels.
        ways: (3, 3) from homogeneous pixel positions to ray directions, in voxels.
        size: (2,) width and height of the image, pixels.
        pitch: pixels between rays.
        seen: (X, Y, Z) bool, changed in place.
    """
    columns, rows = int(size[0] / pitch), int(size[1] / pitch)
    start = (origin[0], origin[1], origin[2])
    for row in range(rows):
        v = (row + 0.5) * pitch - 0.5
        for column in range(columns):
            u = (column + 0.5) * pitch - 0.5
            way = (
                ways[0, 0] * u + ways[0, 1] * v + ways[0, 2],
                ways[1, 0] * u + ways[1, 1] * v + ways[1, 2],
                ways[2, 0] * u + ways[2, 1] * v + ways[2, 2],
            )
            _walk(occupied, start, way, seen)


@kernel
def _inside(count: Any, i: int, j: int, k: int) -> Any:
    return 0 <= i < count[0] and 0 <= j < count[1] and 0 <= k < count[2]


@kernel
def _place(m: Any, i: int, j: int, k: int) -> Any:
    """The voxel of another grid that holds the centre of a voxel; ``m`` maps positions."""
    x, y, z = i + 0.5, j + 0.5, k + 0.5
    return (
        math.floor(m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3]),
        math.floor(m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3]),
        math.floor(m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3]),
    )


@kernel
def remember(
    seen: Any, time: float, grid_T_window: Any, last: Any, first: Any, before: Any, never: float
) -> None:
    """Enter the time into all cells of a window of the world whose centre lies in a seen voxel.

    Cell (i, j, k) of the world is stored at its index modulo the size of the window, so a window
    that moves with the vehicle copies nothing; cells that were outside of it are cleared.

    Args:
        seen: (X, Y, Z) bool.
        time: of the observation.
        grid_T_window: (4, 4) from positions in the window, in cells, to positions in the grid.
        last: (A, B, C) the last time of every cell, changed in place.
        first: (3,) index of the first cell of the window.
        before: (3,) that index when ``last`` was written.
        never: value of cells that were never seen.
    """
    for a in range(last.shape[0]):
        i = first[0] + a
        for b in range(last.shape[1]):
            j = first[1] + b
            for c in range(last.shape[2]):
                k = first[2] + c
                cell = (i % last.shape[0], j % last.shape[1], k % last.shape[2])
                if not _inside(last.shape, i - before[0], j - before[1], k - before[2]):
                    last[cell] = never
                x, y, z = _place(grid_T_window, a, b, c)
                if _inside(seen.shape, x, y, z) and seen[x, y, z]:
                    last[cell] = time


@kernel
def recall(last: Any, first: Any, window_T_grid: Any, since: float, seen: Any) -> None:
    """Mark the voxels whose centre lies in a cell that was seen at or after a time.

    Args:
        last, first: as in :func:`remember`.
        window_T_grid: (4, 4) from positions in the grid to positions in the window, in cells.
        since: earliest time that counts.
        seen: (X, Y, Z) bool, changed in place.
    """
    for i in range(seen.shape[0]):
        for j in range(seen.shape[1]):
            for k in range(seen.shape[2]):
                a, b, c = _place(window_T_grid, i, j, k)
                if not seen[i, j, k] and _inside(last.shape, a, b, c):
                    cell = (
                        (first[0] + a) % last.shape[0],
                        (first[1] + b) % last.shape[1],
                        (first[2] + c) % last.shape[2],
                    )
                    seen[i, j, k] = last[cell] >= since
