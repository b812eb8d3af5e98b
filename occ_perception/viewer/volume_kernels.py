"""Compiled kernels that cast rays through a voxel grid; importing this module loads numba.

All loops are in this one file, because numba checks only the file of a kernel for changes before
it reuses cached machine code. Kernels release the GIL, and every pixel is independent.

Spaces are those of :class:`~occ_perception.viewer.volume_stage.Stage`. A ray has one parameter in
all of them: metres from the eye.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from occ_perception.viewer.volume_stage import NOTHING

FLOOR, MARKER, SKY = -2, -3, -4
"""Ids of what a ray hits if it hits no voxel."""

# Rays along an axis rely on infinities, so the compiler must not assume them away.
_RELAXED = {"reassoc", "contract", "arcp", "nsz"}


def _kernel(function: Callable[..., Any]) -> Any:
    # Kernels allocate nothing. Reference counting of the stage's arrays would halve the speed.
    settings: Any = {"nogil": True, "_nrt": False, "fastmath": _RELAXED, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **settings)(function)
    except RuntimeError:  # no place for the cache: read-only package, no home folder
        return numba.njit(**settings)(function)


@_kernel
def _to_voxels(m: Any, x: float, y: float, z: float, w: float) -> Any:
    return (
        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z + m[0, 3] * w,
        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z + m[1, 3] * w,
        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z + m[2, 3] * w,
    )


@_kernel
def _span(o: float, d: float, last: float) -> Any:
    """Parameters at which a ray crosses 1 and ``last`` along one axis, near one first."""
    if d == 0.0:
        return (-np.inf, np.inf) if 1.0 <= o < last else (np.inf, -np.inf)
    a, b = (1.0 - o) / d, (last - o) / d
    return (a, b) if a < b else (b, a)


@_kernel
def _axis_walk(o: float, d: float, near: float, last: int) -> Any:
    """Start of a walk along an axis.

    Returns the voxel, the step, the parameter of the voxel's far border, and the parameter length
    of a voxel. Rounding may put the start just outside the face that the ray enters through, so the
    voxel is clamped.
    """
    voxel = min(max(int(np.floor(o + d * near)), 1), last - 1)
    if d > 0.0:
        return voxel, 1, (voxel + 1 - o) / d, 1.0 / d
    if d < 0.0:
        return voxel, -1, (voxel - o) / d, -1.0 / d
    return voxel, 0, np.inf, np.inf


@_kernel
def _first_voxel(stage: Any, origin: Any, way: Any, near: float, far: float) -> Any:
    """The first drawn voxel between two parameters: (t, i, j, k, axis crossed on entering).

    t is negative if there is none. The traversal is that of Amanatides and Woo, "A fast voxel
    traversal algorithm for ray tracing", Eurographics 1987.
    """
    ox, oy, oz = origin
    dx, dy, dz = way
    nx, ny, nz = stage.shape[0] - 1, stage.shape[1] - 1, stage.shape[2] - 1
    ax, bx = _span(ox, dx, nx)
    ay, by = _span(oy, dy, ny)
    az, bz = _span(oz, dz, nz)
    t = max(max(ax, ay), max(az, near))
    far = min(min(bx, by), min(bz, far))
    if t >= far:
        return -1.0, 0, 0, 0, 0
    axis = 2
    if t == ax:
        axis = 0
    elif t == ay:
        axis = 1
    i, si, tx, ux = _axis_walk(ox, dx, t, nx)
    j, sj, ty, uy = _axis_walk(oy, dy, t, ny)
    k, sk, tz, uz = _axis_walk(oz, dz, t, nz)
    voxels = stage.voxels
    rows, layers = ny + 1, nz + 1
    while True:
        if voxels[(i * rows + j) * layers + k] != NOTHING:
            return t, i, j, k, axis
        if tx < ty and tx < tz:
            t = tx
            tx += ux
            i += si
            axis = 0
        elif ty < tz:
            t = ty
            ty += uy
            j += sj
            axis = 1
        else:
            t = tz
            tz += uz
            k += sk
            axis = 2
        if t >= far or i < 1 or j < 1 or k < 1 or i >= nx or j >= ny or k >= nz:
            return -1.0, 0, 0, 0, 0


@_kernel
def _first_body(stage: Any, o: Any, d: Any, far: float) -> Any:
    """Where a ray in ego enters the marker: (t, body, plane); t is negative if it misses."""
    best, which, through = far, -1, -1
    for body in range(len(stage.bodies) - 1):
        enter, leave, plane = 1e-6, best, -1
        for p in range(stage.bodies[body], stage.bodies[body + 1]):
            nx, ny, nz = stage.planes[p, 0], stage.planes[p, 1], stage.planes[p, 2]
            towards = nx * d[0] + ny * d[1] + nz * d[2]
            above = nx * o[0] + ny * o[1] + nz * o[2] - stage.planes[p, 3]
            if towards == 0.0:
                if above > 0.0:
                    leave = -1.0
            elif towards < 0.0:
                if -above / towards > enter:
                    enter, plane = -above / towards, p
            else:
                leave = min(leave, -above / towards)
        if plane >= 0 and enter < leave:
            best, which, through = enter, body, plane
    if which < 0:
        return -1.0, 0, 0
    return best, which, through


@_kernel
def _sunlit(stage: Any, p: Any, n: Any) -> Any:
    """Sunlight on a surface at ``p`` in ego with normal ``n``: the cosine, or 0 in shadow."""
    s = stage.sun
    cosine = n[0] * s[0] + n[1] * s[1] + n[2] * s[2]
    if cosine <= 0.0:
        return 0.0
    o = (p[0] + 2e-3 * n[0], p[1] + 2e-3 * n[1], p[2] + 2e-3 * n[2])
    d = (s[0], s[1], s[2])
    if _first_body(stage, o, d, 1e3)[0] >= 0.0:
        return 0.0
    origin = _to_voxels(stage.voxel_T_ego, o[0], o[1], o[2], 1.0)
    way = _to_voxels(stage.voxel_T_ego, d[0], d[1], d[2], 0.0)
    if _first_voxel(stage, origin, way, 0.0, 1e3)[0] >= 0.0:
        return 0.0
    return cosine


@_kernel
def _fullness(stage: Any, p: Any, n: Any) -> Any:
    """How full the space in front of a surface is, 0 (open) to 1; 0 outside the grid."""
    x, y, z = _to_voxels(
        stage.voxel_T_ego, p[0] + 0.9 * n[0], p[1] + 0.9 * n[1], p[2] + 0.9 * n[2], 1.0
    )
    x, y, z = x - 0.5, y - 0.5, max(z - 0.5, 0.0)
    nx, ny, nz = stage.shape
    if x < 0.0 or y < 0.0 or x >= nx - 1 or y >= ny - 1 or z >= nz - 1:
        return 0.0
    i, j, k = int(x), int(y), int(z)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = abs(1 - a - x + i) * abs(1 - b - y + j) * abs(1 - c - z + k)
                total += weight * stage.density[i + a, j + b, k + c]
    return total


@_kernel
def _corner_light(side: bool, other: bool, corner: bool) -> Any:
    """Light in the corner of a face, from the three neighbouring voxels in front of it.

    This is the usual ambient-occlusion rule for voxel faces in games.
    """
    if side and other:
        return 0.0
    return 1.0 - (side + other + corner) / 3.0


@_kernel
def _line(distance: float, width: float, footprint: float) -> Any:
    """Coverage of a pixel by a line along a voxel's edge; all lengths in voxels."""
    reach = width + 0.7 * footprint
    if distance >= reach:
        return 0.0
    return (1.0 - distance / reach) * width / reach * 1.6


@_kernel
def _face_marks(voxels: Any, voxel: int, front: int, along: Any, at: Any, seen: float) -> Any:
    """Light in the corners and darkness of the edges of a face at (s, t) in [0, 1].

    ``voxel`` and ``front``, the voxel in front of its face, are flat indices. ``along`` holds the
    steps of the flat index along s and t, ``seen`` the size of a pixel in voxels.
    """
    u, v = along
    s, t = at
    west, east = voxels[front - u] != NOTHING, voxels[front + u] != NOTHING
    south, north = voxels[front - v] != NOTHING, voxels[front + v] != NOTHING
    light = (1 - s) * (1 - t) * _corner_light(west, south, voxels[front - u - v] != NOTHING)
    light += s * (1 - t) * _corner_light(east, south, voxels[front + u - v] != NOTHING)
    light += (1 - s) * t * _corner_light(west, north, voxels[front - u + v] != NOTHING)
    light += s * t * _corner_light(east, north, voxels[front + u + v] != NOTHING)

    right, up = s > 0.5, t > 0.5
    dark = 0.0
    if not (east if right else west):
        same = voxels[voxel + (u if right else -u)] == voxels[voxel]
        dark = _edge(same, 1 - s if right else s, seen)
    if not (north if up else south):
        same = voxels[voxel + (v if up else -v)] == voxels[voxel]
        dark = max(dark, _edge(same, 1 - t if up else t, seen))
    return light, dark


@_kernel
def _edge(same: bool, distance: float, seen: float) -> Any:
    """Darkness near the edge of a face; stronger if the neighbour has another label."""
    if same:
        return 0.16 * _line(distance, 0.05, seen)
    return 0.50 * _line(distance, 0.07, seen)


@_kernel
def _sky(stage: Any, up: float) -> Any:
    amount = min(max(up, 0.0), 1.0) ** 0.6
    return (
        stage.sky[0, 0] + amount * (stage.sky[1, 0] - stage.sky[0, 0]),
        stage.sky[0, 1] + amount * (stage.sky[1, 1] - stage.sky[0, 1]),
        stage.sky[0, 2] + amount * (stage.sky[1, 2] - stage.sky[0, 2]),
    )


@_kernel
def _lit(stage: Any, colour: Any, p: Any, n: Any, open_share: float) -> Any:
    """Colour under the sun and the sky; a level open surface in the sun keeps its colour."""
    sun = _sunlit(stage, p, n) / stage.sun[2]
    ambient = (0.62 + 0.38 * n[2]) * open_share
    share = 0.62 * sun * (0.5 + 0.5 * open_share)
    return (
        colour[0] * (1.02 * share + 0.36 * ambient),
        colour[1] * (share + 0.38 * ambient),
        colour[2] * (0.96 * share + 0.42 * ambient),
    )


@_kernel
def _trace(stage: Any, o: Any, d: Any, pixel: float) -> Any:
    """Follow one ray in ego: (red, green, blue, distance, hit).

    ``pixel`` is the angle of a pixel in radians. The hit is a flat voxel index, or one of FLOOR,
    MARKER and SKY.
    """
    origin = _to_voxels(stage.voxel_T_ego, o[0], o[1], o[2], 1.0)
    way = _to_voxels(stage.voxel_T_ego, d[0], d[1], d[2], 0.0)
    t, i, j, k, axis = _first_voxel(stage, origin, way, 0.0, 1e4)
    far = t if t >= 0.0 else 1e4
    t_body, body, plane = _first_body(stage, o, d, far)
    if t_body >= 0.0:
        p = (o[0] + t_body * d[0], o[1] + t_body * d[1], o[2] + t_body * d[2])
        n = (stage.planes[plane, 0], stage.planes[plane, 1], stage.planes[plane, 2])
        c = stage.body_colours
        r, g, b = _lit(stage, (c[body, 0], c[body, 1], c[body, 2]), p, n, 1.0)
        return r, g, b, t_body, MARKER
    if t >= 0.0:
        return _voxel_colour(stage, o, d, origin, way, (t, i, j, k, axis), pixel)
    return _backdrop(stage, o, d)


@_kernel
def _voxel_colour(stage: Any, o: Any, d: Any, origin: Any, way: Any, hit: Any, pixel: float) -> Any:
    t, i, j, k, axis = hit
    side = -1 if way[axis] > 0 else 1
    m = stage.ego_R_voxel
    n = (side * m[0, axis], side * m[1, axis], side * m[2, axis])
    p = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    u, v = (1 if axis == 0 else 0), (1 if axis == 2 else 2)
    q = (origin[0] + t * way[0], origin[1] + t * way[1], origin[2] + t * way[2])
    at = (min(max(q[u] - (i, j, k)[u], 0.0), 1.0), min(max(q[v] - (i, j, k)[v], 0.0), 1.0))
    _, rows, layers = stage.shape
    steps = (rows * layers, layers, 1)
    voxel = (i * rows + j) * layers + k
    # A pixel covers more of a face seen at a grazing angle.
    slant = abs(n[0] * d[0] + n[1] * d[1] + n[2] * d[2])
    scale = np.sqrt(way[0] ** 2 + way[1] ** 2 + way[2] ** 2)
    seen = pixel * t * scale / np.sqrt(max(slant, 0.05))
    front = voxel + side * steps[axis]
    corners, dark = _face_marks(stage.voxels, voxel, front, (steps[u], steps[v]), at, seen)
    open_share = (0.45 + 0.55 * corners) * (1.0 - 0.75 * _fullness(stage, p, n))
    label = stage.voxels[voxel]
    c = (stage.colours[label, 0], stage.colours[label, 1], stage.colours[label, 2])
    r, g, b = _lit(stage, c, p, n, open_share)
    haze = 1.0 - np.exp(-((t / (6.0 * stage.floor[1])) ** 2))
    h = _sky(stage, 0.0)
    keep = (1.0 - dark) * (1.0 - haze)
    index = ((i - 1) * (rows - 2) + j - 1) * (layers - 2) + k - 1
    return keep * r + haze * h[0], keep * g + haze * h[1], keep * b + haze * h[2], t, index


@_kernel
def _backdrop(stage: Any, o: Any, d: Any) -> Any:
    """The floor below the grid, fading into the horizon, and the sky."""
    height, radius = stage.floor
    h = _sky(stage, 0.0)
    if d[2] >= -1e-9 or o[2] <= height:
        r, g, b = _sky(stage, d[2])
        return r, g, b, np.inf, SKY
    t = (height - o[2]) / d[2]
    p = (o[0] + t * d[0], o[1] + t * d[1], height)
    fade = min(max(np.hypot(p[0], p[1]) / radius - 0.6, 0.0), 1.0)
    fade = fade * fade * (3.0 - 2.0 * fade)
    if fade >= 1.0:
        return h[0], h[1], h[2], t, FLOOR
    n = (0.0, 0.0, 1.0)
    open_share = 1.0 - 0.6 * _fullness(stage, p, n)
    r, g, b = _lit(stage, (0.80, 0.82, 0.85), p, n, open_share)
    keep = 1.0 - fade
    return keep * r + fade * h[0], keep * g + fade * h[1], keep * b + fade * h[2], t, FLOOR


@_kernel
def _direction(ego_R_eye: Any, lens: Any, column: float, row: float) -> Any:
    """Unit ray in ego of a pixel position; ``lens`` is focal length and principal point."""
    x, y = (column - lens[1]) / lens[0], (row - lens[2]) / lens[0]
    m = ego_R_eye
    dx = m[0, 0] * x + m[0, 1] * y + m[0, 2]
    dy = m[1, 0] * x + m[1, 1] * y + m[1, 2]
    dz = m[2, 0] * x + m[2, 1] * y + m[2, 2]
    length = np.sqrt(dx * dx + dy * dy + dz * dz)
    return dx / length, dy / length, dz / length


@_kernel
def _display(value: float) -> Any:
    """Linear light to the sRGB transfer curve (IEC 61966-2-1), 0 to 255."""
    value = min(max(value, 0.0), 1.0)
    if value <= 0.0031308:
        return 255.0 * 12.92 * value
    return 255.0 * (1.055 * value ** (1.0 / 2.4) - 0.055)


@_kernel
def trace_rows(
    stage: Any, eye: Any, lens: Any, first: int, last: int, rgb: Any, distance: Any, met: Any
) -> None:
    """Cast one ray through the centre of every pixel of some rows.

    Args:
        stage: the scene.
        eye: (3, 4) float64 ``ego_T_eye``, x right, y down, z forward.
        lens: focal length, column and row of the principal point, pixels.
        first, last: rows to fill.
        rgb: (H, W, 3) float32, 0 to 255, gamma-coded.
        distance: (H, W) float32 metres along the ray, inf in the sky.
        met: (H, W) int32 flat C-order index of the voxel without margin, or FLOOR, MARKER, SKY.
    """
    o = (eye[0, 3], eye[1, 3], eye[2, 3])
    for row in range(first, last):
        for column in range(rgb.shape[1]):
            d = _direction(eye, lens, column, row)
            r, g, b, t, what = _trace(stage, o, d, 1.0 / lens[0])
            rgb[row, column, 0] = _display(r)
            rgb[row, column, 1] = _display(g)
            rgb[row, column, 2] = _display(b)
            distance[row, column] = t
            met[row, column] = what


@_kernel
def _contrast(rgb: Any, row: int, column: int) -> Any:
    """Largest difference of a channel to any of the four neighbours."""
    most = 0.0
    for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        r, c = row + dr, column + dc
        if 0 <= r < rgb.shape[0] and 0 <= c < rgb.shape[1]:
            for channel in range(3):
                most = max(most, abs(rgb[row, column, channel] - rgb[r, c, channel]))
    return most


@_kernel
def smooth_rows(
    stage: Any, eye: Any, lens: Any, first: int, last: int, rgb: Any, smooth: Any, threshold: float
) -> None:
    """Cast four more rays for every pixel that differs from a neighbour; copy the others.

    Args:
        stage, eye, lens, first, last, rgb: as in :func:`trace_rows`, which must have filled all
            rows.
        smooth: (H, W, 3) uint8 to fill.
        threshold: difference of a channel above which a pixel gets more rays.
    """
    o = (eye[0, 3], eye[1, 3], eye[2, 3])
    for row in range(first, last):
        for column in range(rgb.shape[1]):
            r, g, b = rgb[row, column, 0], rgb[row, column, 1], rgb[row, column, 2]
            if _contrast(rgb, row, column) > threshold:
                for dc, dr in ((-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)):
                    d = _direction(eye, lens, column + dc, row + dr)
                    more = _trace(stage, o, d, 0.5 / lens[0])
                    r += _display(more[0])
                    g += _display(more[1])
                    b += _display(more[2])
                r, g, b = r / 5, g / 5, b / 5
            smooth[row, column, 0] = int(r + 0.5)
            smooth[row, column, 1] = int(g + 0.5)
            smooth[row, column, 2] = int(b + 0.5)
