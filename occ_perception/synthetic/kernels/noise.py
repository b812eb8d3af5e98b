"""Integer hashing and value noise: the randomness of textures, a function of position only."""

# mypy: allow-untyped-defs
from __future__ import annotations

import math

from occ_perception.synthetic.kernels.compiled import kernel


@kernel()
def hashed(x, y, z, seed):
    """Number in [0, 1) from three integers and a seed."""
    h = (x * 73856093) ^ (y * 19349663) ^ (z * 83492791) ^ (seed * 40503 + 977)
    h = h & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x2C1B3C6D) & 0xFFFFFFFF
    h = ((h ^ (h >> 12)) * 0x297A2D39) & 0xFFFFFFFF
    h = h ^ (h >> 15)
    return h * (1.0 / 4294967296.0)


@kernel()
def noise2(x, y, seed):
    """Smooth noise in [0, 1] with features one unit wide, in the plane."""
    fx = math.floor(x)
    fy = math.floor(y)
    i = int(fx)
    j = int(fy)
    u = x - fx
    v = y - fy
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    a = hashed(i, j, 0, seed)
    b = hashed(i + 1, j, 0, seed)
    c = hashed(i, j + 1, 0, seed)
    d = hashed(i + 1, j + 1, 0, seed)
    return (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v


@kernel()
def noise3(x, y, z, seed):
    """Smooth noise in [0, 1] with features one unit wide, in space."""
    fx = math.floor(x)
    fy = math.floor(y)
    fz = math.floor(z)
    i = int(fx)
    j = int(fy)
    k = int(fz)
    u = x - fx
    v = y - fy
    w = z - fz
    u = u * u * (3.0 - 2.0 * u)
    v = v * v * (3.0 - 2.0 * v)
    w = w * w * (3.0 - 2.0 * w)
    a = hashed(i, j, k, seed)
    b = hashed(i + 1, j, k, seed)
    c = hashed(i, j + 1, k, seed)
    d = hashed(i + 1, j + 1, k, seed)
    lower = (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v
    a = hashed(i, j, k + 1, seed)
    b = hashed(i + 1, j, k + 1, seed)
    c = hashed(i, j + 1, k + 1, seed)
    d = hashed(i + 1, j + 1, k + 1, seed)
    upper = (a + (b - a) * u) * (1.0 - v) + (c + (d - c) * u) * v
    return lower + (upper - lower) * w
