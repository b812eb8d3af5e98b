"""The ground under a ray: relief, kerbs and the surface raster.

Compiled without fastmath: labels, masks and lidar come from here.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import numpy as np

from occ_perception.synthetic.kernels.columns import (
    ALL_LOW,
    ALL_RAISED,
    BLOCK_CELLS,
    BLOCKS,
    CODE_LAYER,
    DISTANCE_SCALE,
    HALF_TOWN,
    KERB_HEIGHT,
    KERB_LAYER,
    MET_GROUND,
    MET_KERB,
    MET_NOTHING,
    MIXED,
    OUTSIDE,
    RELIEF_CELL,
    RELIEF_CELLS,
    RELIEF_EDGE,
    SURFACE_CELL,
    SURFACE_CELLS,
)
from occ_perception.synthetic.kernels.compiled import kernel

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
def block_at(blocks, x, y):
    """ALL_LOW, ALL_RAISED or MIXED: the ground of the block around a position."""
    u = (x + HALF_TOWN) * (1.0 / (SURFACE_CELL * BLOCK_CELLS))
    v = (y + HALF_TOWN) * (1.0 / (SURFACE_CELL * BLOCK_CELLS))
    if u < 0.0 or v < 0.0 or u >= BLOCKS or v >= BLOCKS:
        return ALL_RAISED
    return np.int64(blocks[int(u), int(v)])


@kernel()
def is_raised(surface, blocks, x, y):
    """Whether the ground here lies a kerb's height above the road."""
    block = block_at(blocks, x, y)
    if block != MIXED:
        return block == ALL_RAISED
    return signed_distance(surface, KERB_LAYER, x, y) > 0.0


@kernel()
def summarise_blocks(surface, blocks):
    """Fill ``blocks`` with the result of :func:`is_raised` inside each block, or MIXED."""
    for bi in range(BLOCKS):
        for bj in range(BLOCKS):
            raised = False
            low = False
            # Interpolation reaches into the cells around a block.
            for i in range(bi * BLOCK_CELLS - 1, (bi + 1) * BLOCK_CELLS + 1):
                for j in range(bj * BLOCK_CELLS - 1, (bj + 1) * BLOCK_CELLS + 1):
                    inside = 0 <= i < SURFACE_CELLS and 0 <= j < SURFACE_CELLS
                    if not inside or surface[i, j, KERB_LAYER] > 128:
                        raised = True
                    else:
                        low = True
            blocks[bi, bj] = MIXED if raised and low else (ALL_RAISED if raised else ALL_LOW)


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
def ground_height(surface, blocks, relief, x, y):
    """Height of the ground, kerb included, metres."""
    height = relief_height(relief, x, y)
    if is_raised(surface, blocks, x, y):
        height += KERB_HEIGHT
    return height


@kernel()
def _gap(relief, ox, oy, oz, dx, dy, dz, t):
    """Height of a ray above the relief at distance t, and its change per metre of ray."""
    u = (ox + t * dx - RELIEF_EDGE) * (1.0 / RELIEF_CELL)
    v = (oy + t * dy - RELIEF_EDGE) * (1.0 / RELIEF_CELL)
    u = min(max(u, 0.0), RELIEF_CELLS - 1.001)
    v = min(max(v, 0.0), RELIEF_CELLS - 1.001)
    i = int(u)
    j = int(v)
    u -= i
    v -= j
    a = relief[i, j]
    b = relief[i + 1, j] - a
    c = relief[i, j + 1] - a
    d = relief[i + 1, j + 1] - a - b - c
    slope = ((b + d * v) * dx + (c + d * u) * dy) * (1.0 / RELIEF_CELL)
    return oz + t * dz - a - b * u - (c + d * u) * v, dz - slope


@kernel()
def meet_relief(relief, heights, ox, oy, oz, dx, dy, dz, guess):
    """Distance to the relief; MISS if beyond GROUND_RANGE.

    ``guess`` is a distance near which to start, or negative. Rays start above the highest ground,
    so those that do not fall never meet it.
    """
    if dz >= 0.0:
        return MISS
    if dz < STEEP or guess >= 0.0:
        t = guess
        if guess < 0.0:
            t = ((heights[0] + heights[1]) * 0.5 - oz) / dz
        for _ in range(8):
            gap, rate = _gap(relief, ox, oy, oz, dx, dy, dz, t)
            if rate > -0.002:
                return MISS
            step = gap / rate
            t -= step
            if abs(step) < 1e-3:
                break
        return max(t, 0.0) if t < GROUND_RANGE else MISS
    # Flat rays: march, only where the ray is between the lowest and the highest ground.
    before = max((heights[1] - oz) / dz, 0.0)
    end = min((heights[0] - oz) / dz + 0.01, GROUND_RANGE)
    gap_before, _ = _gap(relief, ox, oy, oz, dx, dy, dz, before)
    if gap_before <= 0.0:
        return before
    while before < end:
        # Slopes are below 0.05, so the ground is at least this far away.
        t = min(before + max(gap_before / (0.05 - dz), 4.0), end)
        gap, _ = _gap(relief, ox, oy, oz, dx, dy, dz, t)
        if gap <= 0.0:
            after = t
            # Newton from the far end, kept between the two ends by halving.
            for _ in range(12):
                gap, rate = _gap(relief, ox, oy, oz, dx, dy, dz, t)
                if abs(gap) < 1e-4:
                    break
                if gap > 0.0:
                    before = t
                else:
                    after = t
                t -= gap / rate
                if not before < t < after:
                    t = 0.5 * (before + after)
            return t
        before = t
        gap_before = gap
    return MISS


@kernel(inline=True)
def meet_ground(world, ox, oy, oz, dx, dy, dz):
    """(distance, what): the road, a raised surface (both MET_GROUND) or the face of a kerb."""
    surface = world.surface
    blocks = world.blocks
    relief = world.relief
    heights = world.heights
    above = oz - KERB_HEIGHT
    high = meet_relief(relief, heights, ox, oy, above, dx, dy, dz, -1.0)
    if high >= MISS:
        return MISS, MET_NOTHING
    if is_raised(surface, blocks, ox + high * dx, oy + high * dy):
        return high, MET_GROUND
    guess = high - KERB_HEIGHT / dz if dz < STEEP else -1.0
    low = meet_relief(relief, heights, ox, oy, oz, dx, dy, dz, guess)
    # Between the two heights the ray passes over road; it may run into a kerb before it lands.
    end = min(low, GROUND_RANGE)
    fine = max((end - high) * 0.025, 0.1)
    before = high
    t = high
    while t < end:
        # A road all around lets the ray advance by half a block, else by a cell of the raster.
        clear = block_at(blocks, ox + t * dx, oy + t * dy) == ALL_LOW
        before = t
        t = min(t + (0.5 * BLOCK_CELLS * SURFACE_CELL if clear else fine), end)
        if is_raised(surface, blocks, ox + t * dx, oy + t * dy):
            for _ in range(8 if clear else 5):
                middle = 0.5 * (before + t)
                if is_raised(surface, blocks, ox + middle * dx, oy + middle * dy):
                    t = middle
                else:
                    before = middle
            return t, MET_KERB
    if low >= MISS:
        return MISS, MET_NOTHING
    return low, MET_GROUND
