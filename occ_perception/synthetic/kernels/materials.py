"""Materials of solids: house fronts, vehicles, foliage, stripes, all functions of position.

Positions are in the solid's own axes, so that textures move with it. Conventions as in ``shading``.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

from occ_perception.synthetic.kernels.columns import (
    BARK,
    BLUE,
    BRICKWORK,
    BUS_BODY,
    CABIN,
    CAR_BODY,
    CARGO,
    CLOTH,
    CONE,
    FACADE,
    GLASS,
    GREEN,
    HEDGE,
    HX,
    HY,
    HZ,
    LAMP,
    LEAVES,
    MATERIAL,
    RED,
    ROOF,
    SEED,
    SIGN,
    SOIL,
    STRIPES,
    TYRE,
)
from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.noise import hashed, noise2, noise3
from occ_perception.synthetic.kernels.shading import bricks, fade, fraction, mix


@kernel(fast=True)
def _facade(x, y, z, nx, nz, hx, hy, hz, seed, r, g, b, grain, dusk):
    """(r, g, b, shine) of a house front: storeys, windows, a shop below."""
    if abs(nz) > 0.5:
        value = 0.2 + 0.08 * (noise2(x, y, seed) - 0.5)
        return value, value, value, 0.0
    along_x = abs(nx) < 0.5
    u = (x + hx) if along_x else (y + hy)
    width = 2.0 * (hx if along_x else hy)
    height = z + hz - 0.6
    storey = 2.9 + 1.0 * hashed(seed, 1, 0, 61)
    pitch = 1.5 + 2.3 * hashed(seed, 2, 0, 61)
    count = max(math.floor(width / pitch), 1.0)
    pitch = width / count
    style = int(hashed(seed, 3, 0, 61) * 4.0)
    shop = hashed(seed, 4, 0, 61) < 0.45
    level = math.floor(height / storey)
    v = height - level * storey
    column = math.floor(u / pitch)
    p = u - column * pitch
    top = 2.0 * hz - 0.6
    if style == 1:
        r, g, b = bricks(u, height, grain, 0.25, 0.085, r, g, b, seed)
    else:
        stain = noise2(u * 0.4, height * 0.25, seed)
        tone = 1.0 + 0.16 * (stain - 0.5)
        r *= tone
        g *= tone
        b *= tone
    if style == 3 and v > storey - 0.35:
        r *= 0.78
        g *= 0.78
        b *= 0.78
    if height < 0.5:
        r *= 0.7
        g *= 0.7
        b *= 0.7
    if top - height < 0.35 or height < 0.0:
        return r, g, b, 0.0
    share = 0.45 + 0.3 * hashed(seed, 5, 0, 61)
    sill = 0.9
    lintel = storey - 0.45
    margin = 0.5 * pitch * (1.0 - share)
    if style == 2:
        margin = 0.06
        sill = 0.35
        lintel = storey - 0.12
    ground_floor = level == 0.0
    if ground_floor and shop:
        margin = 0.18
        sill = 0.4
        lintel = storey - 0.75
        if v > lintel + 0.05 and v < storey - 0.12:
            hue = hashed(seed, 6, int(column // 3.0), 61)
            return 0.1 + 0.35 * hue, 0.12 + 0.25 * abs(hue - 0.5), 0.42 - 0.36 * hue, 0.0
    door = ground_floor and not shop and column == math.floor(count * hashed(seed, 7, 0, 61))
    if door:
        sill = 0.0
        margin = max(margin, 0.5 * (pitch - 1.1))
        lintel = 2.15
    if lintel > top - 0.3 - level * storey:
        return r, g, b, 0.0
    frame = min(min(p - margin, pitch - margin - p), min(v - sill, lintel - v))
    if frame < 0.0:
        if v < sill and v > sill - 0.1 and p > margin and p < pitch - margin:
            return 0.5, 0.5, 0.48, 0.0
        return r, g, b, 0.0
    draw = hashed(int(column), int(level), 8, seed)
    if frame < 0.06:
        frame_tone = 0.5 if hashed(seed, 9, 0, 61) < 0.6 else 0.06
        return frame_tone, frame_tone, frame_tone, 0.0
    if door:
        return 0.08 + 0.2 * draw, 0.07 + 0.08 * draw, 0.06, 0.1
    if not (ground_floor and shop) and abs(p - 0.5 * pitch) < 0.03:
        return 0.3, 0.3, 0.3, 0.0
    inside = 0.02 + 0.05 * draw
    if draw > 0.72 and not (ground_floor and shop):
        inside = 0.3 * draw
    if dusk > 0.0 and hashed(int(column), int(level), 10, seed) < 0.45:
        return mix(inside, 1.5, dusk), mix(inside, 1.05, dusk), mix(inside, 0.55, dusk), -1.0
    return inside, inside, inside * 1.08, 0.75


@kernel(fast=True)
def _car_body(x, y, z, nx, ny, hx, hy, hz, r, g, b, grain, dusk):
    """(r, g, b, shine) of the lower body: lights, sills, door gaps, wheel arches."""
    if abs(nx) > 0.7:
        lamp = abs(y) > 0.58 * hy and z > -0.12 * hz and z < 0.52 * hz
        if lamp:
            if nx > 0:
                glow = 0.75 + 0.8 * dusk
                return glow, glow, glow * 0.92, -1.0 if dusk > 0.3 else 0.4
            return 0.42, 0.02, 0.02, -1.0 if dusk > 0.3 else 0.3
        plate = abs(y) < 0.26 and z > -0.45 * hz and z < -0.05 * hz
        if plate:
            return 0.55, 0.55, 0.5, 0.0
        if nx > 0 and abs(y) < 0.52 * hy and z < 0.45 * hz and z > -0.55 * hz:
            return 0.025, 0.025, 0.03, 0.1
        if z < -0.6 * hz:
            return 0.03, 0.03, 0.03, 0.0
        return r, g, b, 0.3
    if abs(ny) > 0.7:
        arch_x = abs(x) - 0.62 * hx
        arch_z = z + hz - 0.13
        if arch_x * arch_x + arch_z * arch_z < 0.15:
            return 0.012, 0.012, 0.012, 0.0
        if z < -0.72 * hz:
            return 0.03, 0.03, 0.03, 0.0
        if abs(abs(x + 0.04 * hx) - 0.27 * hx) < 0.018 or abs(x + 0.04 * hx) < 0.018:
            tone = 1.0 - 0.65 * fade(grain, 0.04)
            return r * tone, g * tone, b * tone, 0.2
        if z > 0.35 * hz and z < 0.5 * hz and abs(fraction((x / hx + 1.0) * 1.9) - 0.8) < 0.06:
            return r * 0.4, g * 0.4, b * 0.4, 0.2
        return r, g, b, 0.3
    return r, g, b, 0.4


@kernel(fast=True)
def _cabin(x, y, z, nx, ny, nz, hx, hy, hz, r, g, b):
    """(r, g, b, shine) of the upper body: glass between pillars, roof."""
    if nz > 0.8:
        return r, g, b, 0.4
    edge = 0.17 * hz
    if z > hz - edge or z < -hz + 0.12 * hz:
        return r, g, b, 0.3
    if abs(nx) > abs(ny):
        reach = hy * (1.0 - 0.11 * (z / hz + 1.0))
        if abs(y) > reach - 0.07:
            return r, g, b, 0.3
    else:
        share = x / hx
        if abs(share - 0.02) < 0.035 or abs(share) > 0.86 - 0.18 * (z / hz + 1.0):
            return r, g, b, 0.3
    return 0.018, 0.02, 0.022, 1.0


@kernel(fast=True)
def _bus_body(x, y, z, nx, ny, nz, hx, hy, hz, r, g, b, dusk):
    """(r, g, b, shine) of a bus: window band, doors, stripe, destination board."""
    if abs(nz) > 0.7:
        return 0.45, 0.45, 0.45, 0.0
    band = z > -0.12 * hz and z < 0.68 * hz
    lower = -0.45 * hz if abs(nx) > 0.7 and nx > 0 else -0.12 * hz
    if abs(nx) > 0.7:
        if z > 0.7 * hz and z < 0.9 * hz and abs(y) < 0.7 * hy:
            return 0.55, 0.3, 0.03, -0.4
        if z > lower and z < 0.66 * hz and abs(y) < 0.9 * hy:
            return 0.018, 0.02, 0.022, 1.0
        if z < -0.55 * hz and abs(y) > 0.66 * hy and z > -0.8 * hz:
            if nx > 0:
                return 0.8, 0.8, 0.75, -1.0 if dusk > 0.3 else 0.3
            return 0.4, 0.02, 0.02, -1.0 if dusk > 0.3 else 0.3
        return r, g, b, 0.25
    door = ny < 0 and (abs(x - 0.8 * hx) < 0.6 or abs(x + 0.05 * hx) < 0.6)
    arch_x = min(abs(x - 0.66 * hx), abs(x + 0.56 * hx))
    arch_z = z + hz - 0.16
    if arch_x * arch_x + arch_z * arch_z < 0.3:
        return 0.012, 0.012, 0.012, 0.0
    if door and z > -0.9 * hz and z < 0.68 * hz:
        if abs(fraction((x - 0.8 * hx) / 0.6) - 0.5) > 0.46:
            return 0.05, 0.05, 0.05, 0.1
        return 0.02, 0.022, 0.024, 1.0
    if band:
        if abs(fraction(x / 1.45) - 0.5) > 0.465:
            return 0.04, 0.04, 0.04, 0.2
        return 0.018, 0.02, 0.022, 1.0
    if z > -0.42 * hz and z < -0.3 * hz:
        return 0.5, 0.5, 0.5, 0.2
    return r, g, b, 0.25


@kernel(fast=True)
def solid_colour(shapes, tags, n, x, y, z, nx, ny, nz, grain, dusk):
    """(r, g, b, shine) of solid n at a surface point in its own axes.

    Shine is the strength of the sky's mirror image; negative means the surface gives light itself.
    """
    r = shapes[n, RED]
    g = shapes[n, GREEN]
    b = shapes[n, BLUE]
    hx = shapes[n, HX]
    hy = shapes[n, HY]
    hz = shapes[n, HZ]
    seed = int(tags[n, SEED])
    material = tags[n, MATERIAL]
    if material == FACADE:
        return _facade(x, y, z, nx, nz, hx, hy, hz, seed, r, g, b, grain, dusk)
    if material in (LEAVES, HEDGE):
        tone = 0.45 + 1.1 * noise3(x * 4.0, y * 4.0, z * 4.0, seed + 2)
        tone *= 1.0 + 0.7 * fade(grain, 0.12) * (
            noise3(x * 11.0, y * 11.0, z * 11.0, seed + 3) - 0.5
        )
        tone *= 0.75 + 0.25 * z / hz
        return r * tone, g * tone, b * tone, 0.0
    if material == CAR_BODY:
        return _car_body(x, y, z, nx, ny, hx, hy, hz, r, g, b, grain, dusk)
    if material == CABIN:
        return _cabin(x, y, z, nx, ny, nz, hx, hy, hz, r, g, b)
    if material == BUS_BODY:
        return _bus_body(x, y, z, nx, ny, nz, hx, hy, hz, r, g, b, dusk)
    if material == CARGO:
        rib = fraction((x if abs(ny) > 0.5 else y) / 0.5)
        tone = 0.82 if rib < 0.12 and abs(nz) < 0.5 else 1.0
        tone *= 0.9 + 0.2 * noise3(x * 0.8, y * 0.8, z * 0.8, seed)
        if abs(abs(z) - hz) < 0.08:
            tone *= 0.6
        if nx < -0.5 and abs(y) < 0.02:
            tone *= 0.4
        return r * tone, g * tone, b * tone, 0.1
    if material == GLASS:
        return r * 0.4, g * 0.4, b * 0.4, 1.0
    if material == TYRE:
        if hz < 0.6 and hx == hz:
            reach = math.sqrt(x * x + z * z) / hz
            if reach < 0.6 and hy > 0.05:
                spoke = 0.55 + 0.45 * math.cos(5.0 * math.atan2(z, x))
                return 0.3 * spoke + 0.05, 0.3 * spoke + 0.05, 0.31 * spoke + 0.05, 0.1
        return r, g, b, 0.0
    if material == BARK:
        frame_set = noise3(x * 14.0, y * 14.0, z * 2.2, seed)
        tone = 0.6 + 0.8 * frame_set
        return r * tone, g * tone, b * tone, 0.0
    if material == STRIPES:
        stripe = fraction((x + z) / 0.44)
        if stripe < 0.5:
            return r, g, b, 0.05
        return 0.62, 0.62, 0.6, 0.05
    if material == CONE:
        up = (z + hz) / (2.0 * hz)
        if (up > 0.38 and up < 0.58) or (up > 0.72 and up < 0.86):
            return 0.65, 0.65, 0.63, 0.05
        return r, g, b, 0.05
    if material == SIGN:
        edge = min(hy - abs(y), hz - abs(z))
        if abs(nx) > 0.5 and edge < 0.05:
            return 0.5, 0.06, 0.05, 0.1
        if abs(nx) > 0.5 and abs(z) < 0.12 and abs(y) < 0.2:
            return 0.65 - r, 0.65 - g, 0.65 - b, 0.1
        return r, g, b, 0.1
    if material == LAMP:
        if hz > 0.3 and nx > 0.5:
            slot = math.floor((z + hz) / (2.0 * hz) * 3.0)
            middle = -hz + (slot + 0.5) * 2.0 * hz / 3.0
            if (z - middle) ** 2 + y * y < 0.013:
                if slot == 2.0 and hashed(seed, 1, 0, 71) < 0.5:
                    return 1.1, 0.05, 0.03, -1.0
                if slot == 0.0 and hashed(seed, 1, 0, 71) >= 0.5:
                    return 0.05, 0.9, 0.35, -1.0
                return 0.06, 0.05, 0.04, 0.1
        if hz < 0.1 and dusk > 0.2:
            return 2.2 * dusk, 1.7 * dusk, 1.0 * dusk, -1.0
        return r, g, b, 0.1
    if material == BRICKWORK:
        r, g, b = bricks(x if abs(ny) > 0.5 else y, z, grain, 0.25, 0.085, r, g, b, seed)
        return r, g, b, 0.0
    if material == ROOF:
        row = fraction((z + hz) / 0.22)
        tone = (0.75 if row < 0.2 else 1.0) * (0.85 + 0.3 * noise3(x * 2.0, y * 2.0, z * 2.0, seed))
        return r * tone, g * tone, b * tone, 0.0
    if material == SOIL:
        tone = 0.6 + 0.8 * noise3(x * 7.0, y * 7.0, z * 7.0, seed)
        return r * tone, g * tone, b * tone, 0.0
    if material == CLOTH:
        tone = 0.8 + 0.4 * noise3(x * 9.0, y * 9.0, z * 5.0, seed)
        return r * tone, g * tone, b * tone, 0.0
    tone = 0.94 + 0.12 * noise3(x * 2.0, y * 2.0, z * 2.0, seed)
    return r * tone, g * tone, b * tone, 0.12
