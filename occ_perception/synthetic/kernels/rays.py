"""Intersects rays with the world: solids in a cell grid, then the ground.

Rays are given by origin (ox, oy, oz) and unit direction (dx, dy, dz) in world coordinates;
distances are along the ray, metres. Compiled without fastmath: masks and lidar come from here.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

from occ_perception.synthetic.kernels.columns import (
    BOX,
    CELL,
    CELLS,
    COS,
    CYLINDER,
    HX,
    HY,
    HZ,
    KIND,
    LEAVES,
    MATERIAL,
    MET_NOTHING,
    RAILING,
    REACH,
    SEED,
    SIN,
    SPOKES,
    TAPER_X,
    TAPER_Y,
    X,
    Y,
    Z,
)
from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.noise import noise3
from occ_perception.synthetic.kernels.terrain import MISS, meet_ground


@kernel(inline=True)
def _clip(value, rate, near, far):
    """Clip [near, far] by ``value + rate * t >= 0``."""
    if rate > 0.0:
        near = max(near, -value / rate)
    elif rate < 0.0:
        far = min(far, -value / rate)
    elif value < 0.0:
        far = -MISS
    return near, far


@kernel(inline=True)
def meet_solid(shapes, kind, n, ox, oy, oz, dx, dy, dz):
    """(near, far) distances at which a ray is inside solid n; near > far where it misses."""
    px = ox - shapes[n, X]
    py = oy - shapes[n, Y]
    z = oz - shapes[n, Z]
    c = shapes[n, COS]
    s = shapes[n, SIN]
    x = c * px + s * py
    y = c * py - s * px
    u = c * dx + s * dy
    v = c * dy - s * dx
    hx = shapes[n, HX]
    hy = shapes[n, HY]
    hz = shapes[n, HZ]
    near = -MISS
    far = MISS
    if kind == BOX:
        near, far = _clip(hz - z, -dz, near, far)
        near, far = _clip(hz + z, dz, near, far)
        if near > far:
            return near, far
        k = shapes[n, TAPER_X] * hx / (2.0 * hz)
        reach = hx - k * (z + hz)
        near, far = _clip(reach - x, -u - k * dz, near, far)
        near, far = _clip(reach + x, u - k * dz, near, far)
        if near > far:
            return near, far
        k = shapes[n, TAPER_Y] * hy / (2.0 * hz)
        reach = hy - k * (z + hz)
        near, far = _clip(reach - y, -v - k * dz, near, far)
        near, far = _clip(reach + y, v - k * dz, near, far)
        return near, far
    x /= hx
    u /= hx
    y /= hy
    v /= hy
    if kind == CYLINDER:
        near, far = _clip(hz - z, -dz, near, far)
        near, far = _clip(hz + z, dz, near, far)
        k = shapes[n, TAPER_X] / (2.0 * hz)
        radius = 1.0 - k * (z + hz)
        a = u * u + v * v - k * k * dz * dz
        b = x * u + y * v + radius * k * dz
        c0 = x * x + y * y - radius * radius
        if a < 1e-12:
            if c0 > 0.0:
                far = -MISS
            return near, far
    else:
        z /= hz
        w = dz / hz
        a = u * u + v * v + w * w
        b = x * u + y * v + z * w
        c0 = x * x + y * y + z * z - 1.0
    inside = b * b - a * c0
    if inside < 0.0:
        return MISS, -MISS
    root = math.sqrt(inside)
    near = max(near, (-b - root) / a)
    far = min(far, (-b + root) / a)
    return near, far


@kernel()
def to_local(shapes, n, x, y, z):
    """World position in the axes of solid n, relative to its centre."""
    px = x - shapes[n, X]
    py = y - shapes[n, Y]
    c = shapes[n, COS]
    s = shapes[n, SIN]
    return c * px + s * py, c * py - s * px, z - shapes[n, Z]


@kernel()
def is_hole(shapes, tags, n, x, y, z):
    """Whether a see-through solid (crown, railing, wheel) has a hole at this world position."""
    lx, ly, lz = to_local(shapes, n, x, y, z)
    if tags[n, MATERIAL] == LEAVES:
        seed = tags[n, SEED]
        coarse = noise3(lx * 1.9, ly * 1.9, lz * 1.9, seed)
        return 0.4 * coarse + 0.6 * noise3(lx * 8.0, ly * 8.0, lz * 8.0, seed + 1) < 0.43
    if tags[n, MATERIAL] == SPOKES:
        hub = math.sqrt(lx * lx + lz * lz) / shapes[n, HZ]
        if hub > 0.86 or hub < 0.12:
            return False
        spoke = math.atan2(lz, lx) * 2.5
        return abs(spoke - math.floor(spoke) - 0.5) < 0.46
    if abs(lz) > shapes[n, HZ] - 0.06:
        return False
    along = lx / 0.14
    return along - math.floor(along) > 0.25


@kernel(inline=True)
def first_surface(shapes, tags, n, ox, oy, oz, dx, dy, dz, near, far):
    """Distance at which the ray stops at solid n, holes considered; MISS if it passes."""
    material = tags[n, MATERIAL]
    if material not in (LEAVES, RAILING, SPOKES):
        return near
    if not is_hole(shapes, tags, n, ox + near * dx, oy + near * dy, oz + near * dz):
        return near
    if not is_hole(shapes, tags, n, ox + far * dx, oy + far * dy, oz + far * dz):
        return far
    return MISS


@kernel()
def meet_solids(world, ox, oy, oz, dx, dy, dz, limit, any_hit):
    """(distance, index) of the nearest solid before ``limit``, or of any one; index -3 if none."""
    shapes = world.shapes
    tags = world.tags
    starts = world.starts
    items = world.items
    best = limit
    found = MET_NOTHING
    flat = math.sqrt(dx * dx + dy * dy) + 1e-12
    gx = (ox - world.corner[0]) * (1.0 / CELL)
    gy = (oy - world.corner[1]) * (1.0 / CELL)
    if gx < 0.0 or gy < 0.0 or gx >= CELLS or gy >= CELLS:
        return best, found
    i = int(gx)
    j = int(gy)
    step_i = 1 if dx > 0.0 else -1
    step_j = 1 if dy > 0.0 else -1
    delta_i = CELL / abs(dx) if dx != 0.0 else MISS
    delta_j = CELL / abs(dy) if dy != 0.0 else MISS
    next_i = ((i + 1 - gx) if dx > 0.0 else (gx - i)) * delta_i
    next_j = ((j + 1 - gy) if dy > 0.0 else (gy - j)) * delta_j
    if dx == 0.0:
        next_i = MISS
    if dy == 0.0:
        next_j = MISS
    t = 0.0
    while t < best:
        leave = min(next_i, next_j)
        cell = i * CELLS + j
        start = starts[cell]
        stop = starts[cell + 1]
        if start < stop:
            z0 = oz + t * dz
            z1 = oz + min(leave, best) * dz
            if z0 > z1:
                z0, z1 = z1, z0
            if z0 <= world.high[cell] and z1 >= world.low[cell]:
                for position in range(start, stop):
                    n = items[position]
                    centre = shapes[n, Z]
                    half = shapes[n, HZ]
                    if z0 > centre + half or z1 < centre - half:
                        continue
                    aside = (shapes[n, X] - ox) * dy - (shapes[n, Y] - oy) * dx
                    if abs(aside) > shapes[n, REACH] * flat:
                        continue
                    near, far = meet_solid(shapes, tags[n, KIND], n, ox, oy, oz, dx, dy, dz)
                    if near > far or near >= best or far <= 0.0 or near <= 0.0:
                        continue
                    hit = first_surface(shapes, tags, n, ox, oy, oz, dx, dy, dz, near, far)
                    if hit < best:
                        best = hit
                        found = n
                        if any_hit:
                            return best, found
        t = leave
        if next_i < next_j:
            i += step_i
            next_i += delta_i
            if i < 0 or i >= CELLS:
                break
        else:
            j += step_j
            next_j += delta_j
            if j < 0 or j >= CELLS:
                break
    return best, found


@kernel(inline=True)
def trace(world, ox, oy, oz, dx, dy, dz, limit):
    """(distance, what) of the first hit: a solid's index, MET_GROUND, MET_KERB or nothing."""
    distance, met = meet_ground(world, ox, oy, oz, dx, dy, dz)
    if distance >= limit:
        distance = limit
        met = MET_NOTHING
    nearer, solid = meet_solids(world, ox, oy, oz, dx, dy, dz, distance, False)
    if solid >= 0:
        return nearer, solid
    return distance, met


@kernel()
def footprint(shapes, n):
    """Half extents along world x and y of solid n's bounding box; flaring tops considered."""
    c = abs(shapes[n, COS])
    s = abs(shapes[n, SIN])
    x = shapes[n, HX] * max(1.0, 1.0 - shapes[n, TAPER_X])
    y = shapes[n, HY] * max(1.0, 1.0 - shapes[n, TAPER_Y])
    return c * x + s * y, s * x + c * y


@kernel()
def fill_cells(shapes, corner, counts_only, starts, items, low, high):
    """Assign solids to grid cells by footprint; first pass counts, second pass fills.

    ``starts`` holds counts (first pass) or running positions (second pass).
    """
    for n in range(shapes.shape[0]):
        reach_x, reach_y = footprint(shapes, n)
        i0 = math.floor((shapes[n, X] - reach_x - corner[0]) / CELL)
        i1 = math.floor((shapes[n, X] + reach_x - corner[0]) / CELL)
        j0 = math.floor((shapes[n, Y] - reach_y - corner[1]) / CELL)
        j1 = math.floor((shapes[n, Y] + reach_y - corner[1]) / CELL)
        for i in range(max(i0, 0), min(i1, CELLS - 1) + 1):
            for j in range(max(j0, 0), min(j1, CELLS - 1) + 1):
                cell = i * CELLS + j
                if not counts_only:
                    items[starts[cell]] = n
                    low[cell] = min(low[cell], shapes[n, Z] - shapes[n, HZ])
                    high[cell] = max(high[cell], shapes[n, Z] + shapes[n, HZ])
                starts[cell] += 1
