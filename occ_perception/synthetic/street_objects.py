"""Static objects of a street: buildings, trees, poles, furniture, work zones."""

from __future__ import annotations

import numpy as np

from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.solids import (
    GREY,
    LIGHT,
    Colour,
    Figure,
    SolidList,
    muted_colour,
    varied,
)

FOUNDATION = 0.6
"""Depth of buildings and walls below their footing (m), so that no gap shows on a slope."""

_FACADES: tuple[Colour, ...] = (
    (0.42, 0.38, 0.32),
    (0.3, 0.3, 0.3),
    (0.3, 0.15, 0.1),
    (0.5, 0.48, 0.44),
    (0.22, 0.2, 0.19),
    (0.38, 0.3, 0.2),
    (0.2, 0.24, 0.28),
)
_LEAF_COLOURS: tuple[Colour, ...] = (
    (0.08, 0.16, 0.035),
    (0.12, 0.2, 0.05),
    (0.05, 0.12, 0.04),
    (0.16, 0.18, 0.06),
)
_AUTUMN: tuple[Colour, ...] = ((0.3, 0.16, 0.03), (0.28, 0.22, 0.05), (0.25, 0.09, 0.03))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return varied(rng, colours[int(rng.integers(len(colours)))])


def building(rng: np.random.Generator, width: float, depth: float) -> Figure:
    """A building; x runs along its front, which faces +y."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    height = float(np.clip(rng.lognormal(2.3, 0.55), 3.2, 40.0))
    colour = _pick(rng, _FACADES) if rng.random() < 0.8 else muted_colour(rng, 0.3, (0.15, 0.5))
    half, back = width / 2, depth / 2
    parts.box((-half, half), (-back, back), (-FOUNDATION, height), columns.FACADE, colour)
    roof = varied(rng, GREY, 0.3)
    if height < 11 and rng.random() < 0.45:
        tile = varied(rng, (0.22, 0.1, 0.07), 0.4)
        rise = min(0.35 * min(width, depth), 3.5)
        ridge = (0.25, 0.97) if width > depth else (0.97, 0.25)
        parts.box(
            (-half - 0.3, half + 0.3),
            (-back - 0.3, back + 0.3),
            (height, height + rise),
            columns.ROOF,
            tile,
            ridge,
        )
    else:
        parts.box(
            (-half - 0.12, half + 0.12),
            (-back - 0.12, back + 0.12),
            (height, height + 0.4),
            columns.PAINT,
            varied(rng, colour),
        )
        for _ in range(int(rng.integers(0, 4))):
            x, y = rng.uniform(-half + 2, half - 2), rng.uniform(-back + 2, back - 2)
            parts.box(
                (x - 1.2, x + 1.2),
                (y - 1, y + 1),
                (height + 0.4, height + 0.4 + rng.uniform(0.8, 2.5)),
                columns.PAINT,
                roof,
            )
    if rng.random() < 0.35:
        start = rng.uniform(-half + 1, 0)
        stop = start + rng.uniform(2, max(2.1, half))
        cloth = muted_colour(rng, 0.6, (0.15, 0.5))
        parts.box((start, min(stop, half)), (back, back + 1.2), (2.5, 2.75), columns.CLOTH, cloth)
    if rng.random() < 0.3 and height > 6:
        for level in np.arange(3.3, height - 2.5, 3.2):
            parts.box(
                (-half * 0.5, half * 0.5),
                (back, back + 1.0),
                (level, level + 1.0),
                columns.METAL,
                varied(rng, LIGHT),
            )
    return parts.figure()


def tree(rng: np.random.Generator, street: bool) -> Figure:
    """A tree: tapered trunk, three to five crowns with holes."""
    parts = SolidList(columns.VEGETATION, int(rng.integers(1 << 20)))
    height = float(rng.uniform(4.5, 8.5) if street else rng.uniform(3.5, 11.0))
    clear = float(rng.uniform(2.1, 2.8) if street else rng.uniform(1.0, 2.4))
    spread = height * rng.uniform(0.24, 0.36)
    colours = _AUTUMN if rng.random() < 0.18 else _LEAF_COLOURS
    colour = _pick(rng, colours)
    radius = 0.05 + 0.02 * height
    top = clear + 0.5 * (height - clear)
    parts.pole(0, 0, (-0.2, top), radius, columns.BARK, varied(rng, (0.12, 0.09, 0.07)), 0.45)
    if rng.random() < 0.2:
        for level in range(4):
            z = clear + (height - clear) * level / 4
            size = spread * (1 - 0.22 * level)
            parts.add(
                columns.CYLINDER,
                (0, 0, z + 0.2 * height),
                (size, size, 0.2 * height),
                columns.LEAVES,
                varied(rng, colour),
                taper=(0.85, 0.85),
            )
        return parts.figure()
    count = int(rng.integers(3, 6))
    highest = clear
    for n in range(count):
        angle = 2 * np.pi * (n + rng.random()) / count
        out = spread * rng.uniform(0.25, 0.5)
        size = spread * rng.uniform(0.55, 0.8)
        z = clear + size * 0.7 + rng.uniform(0.0, 0.5) * (height - clear - 1.2 * size)
        highest = max(highest, float(z))
        centre = (out * np.cos(angle), out * np.sin(angle), float(z))
        parts.ball(
            centre,
            (size, size, size * rng.uniform(0.75, 0.95)),
            columns.LEAVES,
            varied(rng, colour),
        )
    size = spread * 0.7
    top = min(height - 0.8 * size, highest + 0.7 * size)
    parts.ball((0, 0, top), (size, size, size * 0.8), columns.LEAVES, colour)
    return parts.figure()


def bush(rng: np.random.Generator) -> Figure:
    """A low bush."""
    parts = SolidList(columns.VEGETATION, int(rng.integers(1 << 20)))
    size = float(rng.uniform(0.5, 1.1))
    colour = _pick(rng, _LEAF_COLOURS)
    parts.ball((0, 0, 0.6 * size), (size, size, 0.75 * size), columns.HEDGE, colour)
    parts.ball(
        (0.7 * size, 0.3 * size, 0.4 * size),
        (0.7 * size, 0.7 * size, 0.5 * size),
        columns.HEDGE,
        varied(rng, colour),
    )
    return parts.figure()


def border(rng: np.random.Generator, length: float) -> Figure:
    """A border between plot and footway: a hedge, a wall or a see-through railing along x."""
    kind = rng.choice(["hedge", "wall", "railing"], p=[0.5, 0.25, 0.25])
    class_id = columns.VEGETATION if kind == "hedge" else columns.MANMADE
    parts = SolidList(class_id, int(rng.integers(1 << 20)))
    half = length / 2
    if kind == "hedge":
        height, thick = rng.uniform(0.7, 1.8), rng.uniform(0.3, 0.5)
        parts.box(
            (-half, half),
            (-thick, thick),
            (-0.3, height),
            columns.HEDGE,
            _pick(rng, _LEAF_COLOURS),
            (0.02, 0.12),
        )
    elif kind == "wall":
        parts.box(
            (-half, half),
            (-0.15, 0.15),
            (-FOUNDATION, rng.uniform(0.6, 1.9)),
            columns.BRICKWORK,
            _pick(rng, _FACADES),
        )
    else:
        parts.box(
            (-half, half),
            (-0.02, 0.02),
            (0.0, rng.uniform(0.9, 1.5)),
            columns.RAILING,
            varied(rng, (0.05, 0.05, 0.05), 0.5),
        )
    return parts.figure()


def lamp_post(rng: np.random.Generator) -> Figure:
    """A street lamp with its arm towards +y."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    height, arm = float(rng.uniform(6, 9)), float(rng.uniform(0.8, 2.0))
    colour = varied(rng, (0.16, 0.17, 0.17), 0.5)
    parts.pole(0, 0, (-0.3, height), 0.09, columns.METAL, colour, 0.4)
    parts.box((-0.04, 0.04), (-0.05, arm), (height - 0.08, height), columns.METAL, colour)
    parts.box(
        (-0.13, 0.13), (arm - 0.3, arm + 0.3), (height - 0.14, height - 0.02), columns.LAMP, LIGHT
    )
    return parts.figure()


def sign(rng: np.random.Generator) -> Figure:
    """A traffic sign that faces +x."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    height = float(rng.uniform(2.2, 3.0))
    colour = ((0.6, 0.6, 0.6), (0.05, 0.12, 0.4), (0.5, 0.42, 0.05))[int(rng.integers(3))]
    parts.pole(0, 0, (-0.3, height), 0.035)
    parts.box(
        (0.03, 0.06), (-0.32, 0.32), (height - 0.65, height), columns.SIGN, varied(rng, colour)
    )
    return parts.figure()


def traffic_light(rng: np.random.Generator, arm: float) -> Figure:
    """A traffic light whose heads face +x; its mast arm extends along +y."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    colour = varied(rng, (0.1, 0.1, 0.1), 0.5)
    parts.pole(0, 0, (-0.3, 5.6), 0.09, columns.METAL, colour)
    parts.box((-0.17, 0.17), (-0.17, 0.17), (2.4, 3.3), columns.LAMP, (0.02, 0.02, 0.02))
    if arm > 0:
        parts.box((-0.05, 0.05), (0, arm), (5.4, 5.55), columns.METAL, colour)
        parts.box((-0.17, 0.17), (arm - 0.34, arm), (4.8, 5.75), columns.LAMP, (0.02, 0.02, 0.02))
    return parts.figure()


def bollard(rng: np.random.Generator) -> Figure:
    """A bollard."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    parts.pole(0, 0, (-0.2, 0.95), 0.09, columns.METAL, varied(rng, GREY, 0.5))
    return parts.figure()


def bench(rng: np.random.Generator) -> Figure:
    """A bench that faces +y."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    wood = varied(rng, (0.2, 0.12, 0.06))
    parts.box((-0.9, 0.9), (-0.25, 0.25), (0.38, 0.46), columns.BARK, wood)
    parts.box((-0.9, 0.9), (-0.3, -0.22), (0.5, 0.9), columns.BARK, wood)
    for x in (-0.7, 0.7):
        parts.box((x - 0.04, x + 0.04), (-0.25, 0.25), (-0.1, 0.4), columns.METAL, GREY)
    return parts.figure()


def clutter(rng: np.random.Generator) -> Figure:
    """Bins, handcarts, stacked boxes, pallets: the class others."""
    parts = SolidList(columns.OTHERS, int(rng.integers(1 << 20)))
    colour = muted_colour(rng, 0.8, (0.05, 0.4))
    kind = rng.choice(["bin", "wheelie", "boxes", "cart"])
    if kind == "bin":
        parts.pole(0, 0, (-0.1, rng.uniform(0.8, 1.1)), 0.28, columns.METAL, colour, -0.1)
    elif kind == "wheelie":
        parts.box((-0.35, 0.35), (-0.3, 0.3), (0.05, 1.05), columns.PAINT, colour, (-0.12, -0.12))
        parts.box((-0.38, 0.38), (-0.33, 0.36), (1.05, 1.12), columns.PAINT, varied(rng, colour))
    elif kind == "boxes":
        for n, size in enumerate(rng.uniform(0.25, 0.4, 3)):
            parts.box(
                (n * 0.5 - 0.7, n * 0.5 - 0.7 + 1.2 * size),
                (-size, size),
                (-0.05, 1.6 * size),
                columns.PAINT,
                varied(rng, (0.3, 0.2, 0.11)),
            )
    else:
        parts.box((-0.6, 0.6), (-0.4, 0.4), (0.45, 0.95), columns.PAINT, colour, (-0.1, -0.1))
        parts.wheels((-0.4, 0.4), 0.42, 0.25, 0.08)
    return parts.figure()


def bus_stop(rng: np.random.Generator) -> Figure:
    """A shelter that opens towards +y."""
    parts = SolidList(columns.MANMADE, int(rng.integers(1 << 20)))
    colour = varied(rng, GREY, 0.4)
    parts.box((-2.0, 2.0), (-0.75, 0.75), (2.35, 2.5), columns.METAL, colour)
    parts.box((-2.0, 2.0), (-0.72, -0.66), (0.2, 2.3), columns.GLASS, (0.2, 0.24, 0.25))
    for x in (-1.95, 1.95):
        parts.box(
            (x - 0.03, x + 0.03), (-0.7, 0.1), (0.2, 2.3), columns.SIGN, muted_colour(rng, 0.8)
        )
        parts.pole(x, 0.65, (-0.2, 2.4), 0.05, columns.METAL, colour)
    parts.box((-1.4, 1.0), (-0.6, -0.25), (0.42, 0.5), columns.METAL, colour)
    return parts.figure()


def barrier(rng: np.random.Generator) -> Figure:
    """One two-metre element of a road barrier along x."""
    parts = SolidList(columns.BARRIER, int(rng.integers(1 << 20)))
    stripe = ((0.5, 0.05, 0.04), (0.5, 0.2, 0.03), (0.45, 0.43, 0.4))[int(rng.integers(3))]
    if rng.random() < 0.5:
        parts.box((-0.98, 0.98), (-0.3, 0.3), (0, 0.35), columns.STRIPES, stripe, (0, 0.3))
        parts.box((-0.98, 0.98), (-0.2, 0.2), (0.35, 0.9), columns.STRIPES, stripe, (0, 0.25))
    else:
        for x in (-0.85, 0.85):
            parts.box((x - 0.05, x + 0.05), (-0.3, 0.3), (0, 0.08), columns.METAL, GREY)
            parts.box((x - 0.04, x + 0.04), (-0.05, 0.05), (0, 1.05), columns.METAL, GREY)
        parts.box((-0.98, 0.98), (-0.06, 0.06), (0.68, 1.05), columns.STRIPES, stripe)
        parts.box((-0.98, 0.98), (-0.06, 0.06), (0.22, 0.45), columns.STRIPES, stripe)
    return parts.figure()


def cone(rng: np.random.Generator) -> Figure:
    """A traffic cone."""
    parts = SolidList(columns.TRAFFIC_CONE, int(rng.integers(1 << 20)))
    tall = float(rng.uniform(0.6, 0.95))
    colour = varied(rng, (0.55, 0.14, 0.03))
    parts.box((-0.2, 0.2), (-0.2, 0.2), (0, 0.05), columns.PAINT, (0.04, 0.04, 0.04))
    parts.pole(0, 0, (0.04, tall), 0.16, columns.CONE, colour, 0.8)
    return parts.figure()


def soil_heap(rng: np.random.Generator) -> Figure:
    """A heap of soil or gravel."""
    parts = SolidList(columns.OTHERS, int(rng.integers(1 << 20)))
    x, y = rng.uniform(0.9, 1.6, 2)
    colour = varied(rng, (0.2, 0.15, 0.1), 0.3)
    parts.ball((0, 0, 0), (x, y, rng.uniform(0.6, 1.1)), columns.SOIL, colour)
    return parts.figure()
