"""The ground under a ray: relief, kerbs and the surface raster.

Compiled without fastmath: labels, masks and lidar come from here.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import numpy as np

from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.layout import (
    CODE_LAYER,
    DISTANCE_SCALE,
    HALF_TOWN,
    KERB_HEIGHT,
    KERB_LAYER,
    MET_GROUND,
    MET_KERB,
    MET_NOTHING,
    OUTSIDE,
    RELIEF_CELL,
    RELIEF_CELLS,
    RELIEF_EDGE,
    SURFACE_CELL,
    SURFACE_CELLS,
)

MISS = 1e30
GROUND_RANGE = 400.0
STEEP = -0.08
"""Below this slope of a ray the fixed-point search for the ground converges quickly."""


@kernel()
def relief_height(relief, x, y):
    """Road height at a world position, metres."""
    u = (x - RELIEF_EDGE) * (1.0 / RELIEF_CELL)
    v = (y - RELIEF_EDGE) * (1.0 / RELIEF_CELL)
    u = min(max(u, 0.0), RELIEF_CELLS - 1.001)
    v = min(max(v, 0.0), RELIEF_CELLS - 1.001)
    i = int(u)
    j = int(v)
    u -= i
    v -= j
    below = relief[i, j] + (relief[i + 1, j] - relief[i, j]) * u
    above = relief[i, j + 1] + (relief[i + 1, j + 1] - relief[i, j + 1]) * u
    return below + (above - below) * v


@kernel()
def signed_distance(surface, layer, x, y):
    """Bilinear signed distance (m) of a layer; positive inside (on the kerb, on the paint)."""
    u = (x + HALF_TOWN) * (1.0 / SURFACE_CELL) - 0.5
    v = (y + HALF_TOWN) * (1.0 / SURFACE_CELL) - 0.5
    if u < 0.0 or v < 0.0 or u >= SURFACE_CELLS - 1 or v >= SURFACE_CELLS - 1:
        return 0.42 if layer == KERB_LAYER else -0.42
    i = int(u)
    j = int(v)
    u -= i
    v -= j
    a = surface[i, j, layer] * (1.0 - u) + surface[i + 1, j, layer] * u
    b = surface[i, j + 1, layer] * (1.0 - u) + surface[i + 1, j + 1, layer] * u
    return (a + (b - a) * v - 128.0) * (1.0 / DISTANCE_SCALE)


@kernel()
def is_raised(surface, x, y):
    """Whether the ground here lies a kerb's height above the road."""
    return signed_distance(surface, KERB_LAYER, x, y) > 0.0


@kernel()
def surface_code(surface, x, y, raised):
    """Code of the surface at road level, or of the one a kerb higher."""
    i = int((x + HALF_TOWN) * (1.0 / SURFACE_CELL))
    j = int((y + HALF_TOWN) * (1.0 / SURFACE_CELL))
    inside = 0 <= i < SURFACE_CELLS and 0 <= j < SURFACE_CELLS
    if not inside or x < -HALF_TOWN or y < -HALF_TOWN:
        return OUTSIDE
    packed = np.int64(surface[i, j, CODE_LAYER])
    if raised:
        return packed & 15
    return packed >> 4


@kernel()
def ground_height(surface, relief, x, y):
    """Height of the ground, kerb included, metres."""
    height = relief_height(relief, x, y)
    if is_raised(surface, x, y):
        height += KERB_HEIGHT
    return height


@kernel()
def meet_relief(relief, ox, oy, oz, dx, dy, dz, lift):
    """Distance to the relief raised by ``lift``; MISS if beyond GROUND_RANGE."""
    if dz < STEEP:
        t = (relief_height(relief, ox, oy) + lift - oz) / dz
        for _ in range(12):
            nearer = (relief_height(relief, ox + t * dx, oy + t * dy) + lift - oz) / dz
            step = nearer - t
            t = nearer
            if abs(step) < 1e-4:
                break
        return t if t > 0.0 else 0.0
    if dz > 0.03:
        return MISS
    before = 0.0
    gap_before = oz - relief_height(relief, ox, oy) - lift
    if gap_before <= 0.0:
        return 0.0
    step = 6.0
    while before < GROUND_RANGE:
        t = before + step
        gap = oz + t * dz - relief_height(relief, ox + t * dx, oy + t * dy) - lift
        if gap <= 0.0:
            for _ in range(6):
                middle = before + (t - before) * gap_before / (gap_before - gap)
                gap_middle = (
                    oz
                    + middle * dz
                    - relief_height(relief, ox + middle * dx, oy + middle * dy)
                    - lift
                )
                if gap_middle > 0.0:
                    before = middle
                    gap_before = gap_middle
                else:
                    t = middle
                    gap = gap_middle
                if gap > -1e-4:
                    break
            return t
        before = t
        gap_before = gap
        step = min(step * 1.15, 16.0)
    return MISS


@kernel()
def meet_ground(surface, relief, ox, oy, oz, dx, dy, dz):
    """(distance, what): the road, a raised surface (both MET_GROUND) or the face of a kerb."""
    low = meet_relief(relief, ox, oy, oz, dx, dy, dz, 0.0)
    high = meet_relief(relief, ox, oy, oz, dx, dy, dz, KERB_HEIGHT)
    if high >= MISS:
        return MISS, MET_NOTHING
    if is_raised(surface, ox + high * dx, oy + high * dy):
        return high, MET_GROUND
    # Between the two heights the ray passes over road; it may run into a kerb before it lands.
    span = min(low, GROUND_RANGE) - high
    steps = min(int(span * 12.0) + 2, 60)
    for n in range(1, steps + 1):
        t = high + span * n / steps
        if is_raised(surface, ox + t * dx, oy + t * dy):
            before = high + span * (n - 1) / steps
            for _ in range(5):
                middle = 0.5 * (before + t)
                if is_raised(surface, ox + middle * dx, oy + middle * dy):
                    t = middle
                else:
                    before = middle
            return t, MET_KERB
    if low >= MISS:
        return MISS, MET_NOTHING
    return low, MET_GROUND
