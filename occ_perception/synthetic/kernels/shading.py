"""Sky, light and ground: what surfaces look like. Images only, never labels.

Colours are linear RGB triples. ``w`` is the array of :meth:`Weather.values`. ``grain`` is the size
of a pixel at the surface in metres: detail finer than that fades to its mean.
"""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

from occ_perception.synthetic.kernels.columns import (
    BOX,
    CAR_PARK,
    COBBLES,
    COLOUR_LAYER,
    CYLINDER,
    FOOTPATH,
    GRASS,
    HALF_TOWN,
    HX,
    HY,
    HZ,
    KERB_LAYER,
    LAWN,
    MARK_LAYER,
    PAVED,
    SLABS,
    SQUARE,
    SURFACE_CELL,
    SURFACE_CELLS,
    TAPER_X,
    TAPER_Y,
)
from occ_perception.synthetic.kernels.compiled import kernel
from occ_perception.synthetic.kernels.noise import hashed, noise2
from occ_perception.synthetic.kernels.terrain import signed_distance, surface_code

# Entries of the weather array.
SUN_X, SUN_Y, SUN_Z, OVERCAST, HAZE, WET, DUSK, CLOUDS, WARM = range(9)


@kernel(fast=True)
def fade(grain, size):
    """1 where detail of this size is well resolved, 0 where it is below a pixel."""
    return min(max(1.6 - 2.0 * grain / size, 0.0), 1.0)


@kernel(fast=True)
def mix(a, b, f):
    """Linear interpolation from a to b."""
    return a + (b - a) * f


@kernel(fast=True)
def fraction(x):
    """Part of x above its floor."""
    return x - math.floor(x)


@kernel(fast=True)
def sky_colour(dx, dy, dz, w):
    """Radiance of the sky in a direction: gradient, clouds, glow of the sun."""
    up = max(dz, 0.0)
    grey = w[OVERCAST]
    lift = math.exp(-3.5 * up)
    r = mix(mix(0.16, 0.62, lift), mix(0.62, 0.78, lift), grey)
    g = mix(mix(0.32, 0.74, lift), mix(0.65, 0.79, lift), grey)
    b = mix(mix(0.72, 0.90, lift), mix(0.70, 0.82, lift), grey)
    if up > 0.015:
        reach = 1.2 / (up + 0.12)
        seed = int(w[CLOUDS])
        cloud = 0.6 * noise2(dx * reach, dy * reach, seed)
        cloud += 0.28 * noise2(dx * reach * 2.3, dy * reach * 2.3, seed + 1)
        cloud += 0.12 * noise2(dx * reach * 5.1, dy * reach * 5.1, seed + 2)
        cover = min(max((cloud - 0.56 + 0.3 * grey) * 4.5, 0.0), 1.0) * min(up * 9.0, 1.0)
        shade = 0.95 - 0.5 * grey * cloud
        r = mix(r, shade, 0.75 * cover)
        g = mix(g, shade * 1.01, 0.75 * cover)
        b = mix(b, shade * 1.03, 0.75 * cover)
    toward = dx * w[SUN_X] + dy * w[SUN_Y] + dz * w[SUN_Z]
    if toward > 0.0 and grey < 1.0:
        toward2 = toward * toward
        toward4 = toward2 * toward2
        toward8 = toward4 * toward4
        toward32 = toward8 * toward8 * toward8 * toward8
        glow = (1.0 - grey) * (0.25 * toward8 + 0.9 * toward32 * toward32)
        r += glow
        g += glow * (0.92 - 0.3 * w[WARM])
        b += glow * (0.75 - 0.45 * w[WARM])
    dusk = w[DUSK]
    if dusk > 0.0:
        low = math.exp(-5.0 * up)
        r *= mix(1.0, 0.16 + 0.3 * low, dusk)
        g *= mix(1.0, 0.15 + 0.14 * low, dusk)
        b *= mix(1.0, 0.26 + 0.08 * low, dusk)
    return r, g, b


@kernel(fast=True)
def sun_light(w):
    """Colour and strength of the direct sun."""
    strength = 2.9 * (1.0 - w[OVERCAST]) * (1.0 - 0.93 * w[DUSK])
    return strength, strength * (0.95 - 0.25 * w[WARM]), strength * (0.86 - 0.42 * w[WARM])


@kernel(fast=True)
def ambient_light(nz, w):
    """Light from the sky and the lit ground on a surface with this upward normal."""
    grey = w[OVERCAST]
    dim = 1.0 - 0.8 * w[DUSK]
    up = 0.5 + 0.5 * nz
    ground = 0.16 * (1.0 - up) * (1.0 + 1.2 * (1.0 - grey))
    r = dim * (up * mix(0.48, 0.98, grey) + ground * 1.05)
    g = dim * (up * mix(0.56, 0.99, grey) + ground)
    b = dim * (up * mix(0.74, 1.02, grey) + ground * 0.9)
    return r, g, b


@kernel(fast=True)
def _asphalt(x, y, grain, lot):
    coarse = noise2(x * 0.35, y * 0.35, 11)
    value = 0.115 + 0.05 * (coarse - 0.5)
    patch = noise2(x * 0.09 + 7.0, y * 0.13, 12)
    if patch > 0.66:
        value *= 0.72
    fine = fade(grain, 0.08)
    if fine > 0.0:
        value *= 1.0 + 0.45 * fine * (
            hashed(int(x * 25.0 + 9000.0), int(y * 25.0 + 9000.0), 0, 3) - 0.5
        )
    middle = fade(grain, 0.4)
    if middle > 0.0:
        value *= 1.0 + 0.25 * middle * (noise2(x * 3.1, y * 3.1, 13) - 0.5)
    crack = fade(grain, 0.1)
    if crack > 0.0 and coarse > 0.45 and abs(noise2(x * 0.45, y * 0.45, 14) - 0.5) < 0.006:
        value *= 1.0 - 0.45 * crack
    if lot:
        value *= 1.12
    return value, value * 1.0, value * 1.02


@kernel(fast=True)
def _slabs(x, y, grain, size, seed):
    i = math.floor(x / size)
    j = math.floor(y / size)
    value = 0.29 + 0.08 * (hashed(int(i), int(j), 1, seed) - 0.5)
    joint = min(min(x / size - i, 1.0 - x / size + i), min(y / size - j, 1.0 - y / size + j)) * size
    if joint < 0.02:
        value *= 1.0 - 0.45 * fade(grain, 0.05)
    value *= 1.0 + 0.22 * (noise2(x * 0.5, y * 0.5, seed + 1) - 0.5)
    fine = fade(grain, 0.15)
    if fine > 0.0:
        value *= 1.0 + 0.2 * fine * (noise2(x * 9.0, y * 9.0, seed + 2) - 0.5)
    return value * 1.02, value, value * 0.95


@kernel(fast=True)
def bricks(u, v, grain, length, height, r, g, b, seed):
    """Brick courses of a base colour over (u, v), metres."""
    row = math.floor(v / height)
    shift = 0.5 * (row - 2.0 * math.floor(row * 0.5))
    position = u / length + shift
    column = math.floor(position)
    tone = 1.0 + 0.5 * (hashed(int(row), int(column), 2, seed) - 0.5) * fade(grain, length)
    joint = min(v / height - row, 1.0 - v / height + row) * height
    side = min(position - column, 1.0 - position + column) * length
    if min(joint, side) < 0.012 and fade(grain, 0.04) > 0.0:
        tone *= 1.35
    return r * tone, g * tone, b * tone


@kernel(fast=True)
def _grass(x, y, grain, lawn):
    patch = noise2(x * 0.22, y * 0.22, 21)
    fine = noise2(x * 1.9, y * 1.9, 22)
    soil = min(max((patch * 0.75 + fine * 0.25 - (0.62 if lawn else 0.5)) * 5.0, 0.0), 1.0)
    r = mix(0.10, 0.23, soil)
    g = mix(0.16, 0.18, soil)
    b = mix(0.045, 0.11, soil)
    tone = 0.85 + 0.3 * fine
    near = fade(grain, 0.06)
    if near > 0.0:
        tone *= 1.0 + 0.6 * near * (noise2(x * 14.0, y * 14.0, 23) - 0.5)
    return r * tone, g * tone, b * tone


@kernel(fast=True)
def ground_colour(surface, x, y, grain, is_kerb_face, height):
    """(r, g, b, shine) of the ground at a position; ``height`` above the road on a kerb's face."""
    if is_kerb_face:
        value = 0.34 + 0.08 * (noise2(x * 2.0, y * 2.0, 31) - 0.5) - 0.5 * max(0.05 - height, 0.0)
        return value, value, value * 0.97, 0.0
    kerb = signed_distance(surface, KERB_LAYER, x, y)
    raised = kerb > 0.0
    # Edges between surfaces that the raster knows only to a cell are made ragged.
    shift_x, shift_y = 0.0, 0.0
    if raised and grain < 0.08:
        shift_x = 0.11 * (noise2(x * 5.0, y * 5.0, 33) - 0.5)
        shift_y = 0.11 * (noise2(x * 5.0, y * 5.0, 34) - 0.5)
    code = surface_code(surface, x + shift_x, y + shift_y, raised)
    if raised:
        if kerb < 0.16 and code != GRASS:
            value = 0.4 + 0.08 * (noise2(x * 3.0, y * 3.0, 32) - 0.5)
            return value, value, value * 0.97, 0.0
        if code == SLABS:
            r, g, b = _slabs(x, y, grain, 0.6, 41)
        elif code == PAVED:
            r, g, b = _slabs(x * 0.8 + y * 0.6, y * 0.8 - x * 0.6, grain, 1.1, 42)
            r *= 0.8
            g *= 0.8
            b *= 0.82
        elif code == COBBLES:
            tone = 1.0 + 0.3 * (noise2(x * 0.4, y * 0.4, 43) - 0.5)
            r, g, b = bricks(x, y, grain, 0.22, 0.11, 0.26 * tone, 0.15 * tone, 0.12 * tone, 44)
        elif code == SQUARE:
            tone = 1.0 + 0.25 * (noise2(x * 0.3, y * 0.3, 45) - 0.5)
            r, g, b = bricks(
                x * 0.7 + y * 0.7,
                y * 0.7 - x * 0.7,
                grain,
                0.4,
                0.2,
                0.31 * tone,
                0.23 * tone,
                0.18 * tone,
                46,
            )
        elif code == FOOTPATH:
            value = 1.0 + 0.3 * (noise2(x * 1.1, y * 1.1, 47) - 0.5)
            value *= 1.0 + 0.3 * fade(grain, 0.1) * (noise2(x * 12.0, y * 12.0, 48) - 0.5)
            r, g, b = 0.36 * value, 0.31 * value, 0.23 * value
        else:
            r, g, b = _grass(x, y, grain, code == LAWN)
        return r, g, b, 0.0
    r, g, b = _asphalt(x, y, grain, code == CAR_PARK)
    if kerb > -0.3:
        dirt = (kerb + 0.3) * 0.8
        r *= 1.0 - dirt
        g *= 1.0 - dirt
        b *= 1.0 - dirt
    mark = signed_distance(surface, MARK_LAYER, x, y)
    width = max(grain * 0.7, 0.008)
    if mark > -width:
        cover = min(max(0.5 + 0.5 * mark / width, 0.0), 1.0)
        worn = noise2(x * 4.0, y * 4.0, 51) * 0.6 + noise2(x * 0.5, y * 0.5, 52) * 0.4
        cover *= min(max(1.6 - 1.5 * worn, 0.35), 0.95)
        i = min(max(int((x + HALF_TOWN) / SURFACE_CELL), 0), SURFACE_CELLS - 1)
        j = min(max(int((y + HALF_TOWN) / SURFACE_CELL), 0), SURFACE_CELLS - 1)
        yellow = surface[i, j, COLOUR_LAYER] > 0
        r = mix(r, 0.62, cover)
        g = mix(g, 0.45 if yellow else 0.62, cover)
        b = mix(b, 0.08 if yellow else 0.6, cover)
    return r, g, b, 1.0


@kernel(fast=True)
def solid_normal(shapes, kind, n, x, y, z):
    """Outward unit normal, in the solid's own axes, at a surface point in those axes."""
    hx = shapes[n, HX]
    hy = shapes[n, HY]
    hz = shapes[n, HZ]
    if kind == BOX:
        kx = shapes[n, TAPER_X] * hx / (2.0 * hz)
        ky = shapes[n, TAPER_Y] * hy / (2.0 * hz)
        gap_x = hx - kx * (z + hz) - abs(x)
        gap_y = hy - ky * (z + hz) - abs(y)
        gap_z = hz - abs(z)
        if gap_z < gap_x and gap_z < gap_y:
            return 0.0, 0.0, math.copysign(1.0, z)
        if gap_x < gap_y:
            scale = 1.0 / math.sqrt(1.0 + kx * kx)
            return math.copysign(scale, x), 0.0, kx * scale
        scale = 1.0 / math.sqrt(1.0 + ky * ky)
        return 0.0, math.copysign(scale, y), ky * scale
    if kind == CYLINDER:
        k = shapes[n, TAPER_X] / (2.0 * hz)
        radius = max(1.0 - k * (z + hz), 1e-3)
        across = math.sqrt((x / hx) ** 2 + (y / hy) ** 2)
        if hz - abs(z) < (radius - across) * min(hx, hy):
            return 0.0, 0.0, math.copysign(1.0, z)
        nx = x / (hx * hx)
        ny = y / (hy * hy)
        nz = k * radius
    else:
        nx = x / (hx * hx)
        ny = y / (hy * hy)
        nz = z / (hz * hz)
    scale = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    return nx * scale, ny * scale, nz * scale
