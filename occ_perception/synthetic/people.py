"""Pedestrians and riders, composed of solids."""

from __future__ import annotations

import numpy as np

from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.solids import Colour, Figure, SolidList, muted_colour, varied

_SKINS: tuple[Colour, ...] = ((0.55, 0.36, 0.26), (0.4, 0.24, 0.16), (0.18, 0.1, 0.07))
_HAIRS: tuple[Colour, ...] = ((0.02, 0.02, 0.02), (0.1, 0.06, 0.03), (0.3, 0.24, 0.14))


def _cylinder(
    parts: SolidList,
    centre: tuple[float, float, float],
    half: tuple[float, float, float],
    colour: Colour,
    taper: float = 0.0,
    swing: float = 0.0,
) -> None:
    parts.add(
        columns.CYLINDER, centre, half, columns.CLOTH, colour, taper=(taper, taper), swing=swing
    )


def pedestrian(rng: np.random.Generator) -> Figure:
    """A person of 1.1 to 1.95 m, some with a bag or an umbrella."""
    parts = SolidList(columns.PEDESTRIAN, int(rng.integers(1 << 20)))
    tall = float(rng.uniform(1.55, 1.95) if rng.random() < 0.9 else rng.uniform(1.1, 1.4))
    skin = varied(rng, _SKINS[int(rng.integers(3))])
    hair = varied(rng, _HAIRS[int(rng.integers(3))])
    top = muted_colour(rng, 0.8, (0.04, 0.5))
    trousers = muted_colour(rng, 0.5, (0.02, 0.25))
    hip, shoulder = 0.49 * tall, 0.83 * tall
    broad = 0.12 * tall
    stride = 0.13 * tall
    for side in (-1, 1):
        y = side * 0.052 * tall
        leg = (0.05 * tall, 0.045 * tall, hip / 2 - 0.03)
        _cylinder(parts, (0, y, hip / 2 + 0.03), leg, trousers, -0.45, side * stride)
        parts.add(
            columns.BOX,
            (0.04, y, 0.04),
            (0.13, 0.045, 0.04),
            columns.PAINT,
            (0.03, 0.03, 0.03),
            swing=side * stride,
        )
        arm = (0.036 * tall, 0.033 * tall, 0.17 * tall)
        centre = (0.0, side * (broad + 0.03), 0.64 * tall)
        _cylinder(parts, centre, arm, top, -0.25, -side * 0.6 * stride)
    coat = 0.1 * tall if rng.random() < 0.4 else 0.0
    middle = (hip - coat + shoulder) / 2
    half = (0.065 * tall, 0.9 * broad, (shoulder - hip + coat) / 2)
    _cylinder(parts, (0, 0, middle), half, top, -0.12 if not coat else 0.12)
    parts.ball((0, 0, shoulder), (0.065 * tall, 0.95 * broad, 0.05 * tall), columns.CLOTH, top)
    parts.ball(
        (0.01, 0, 0.925 * tall), (0.055 * tall, 0.048 * tall, 0.072 * tall), columns.SKIN, skin
    )
    crown = (-0.012, 0, 0.945 * tall)
    parts.ball(crown, (0.058 * tall, 0.053 * tall, 0.058 * tall), columns.CLOTH, hair)
    extra = rng.random()
    if extra < 0.2:
        parts.box(
            (-0.28, -0.11),
            (-0.15, 0.15),
            (0.58 * tall, 0.8 * tall),
            columns.CLOTH,
            muted_colour(rng, 0.8),
        )
    elif extra < 0.26:
        parts.pole(0.2, 0.2, (0.7 * tall, tall + 0.25), 0.015)
        parts.ball((0.2, 0.2, tall + 0.2), (0.5, 0.5, 0.16), columns.CLOTH, muted_colour(rng, 0.8))
    return parts.figure()


def add_rider(parts: SolidList, rng: np.random.Generator, seat: float, helmet: bool) -> None:
    """Put a person on a two-wheeler's seat, ``seat`` metres above the ground."""
    skin = varied(rng, _SKINS[int(rng.integers(3))])
    top = muted_colour(rng, 0.8, (0.05, 0.5))
    trousers = muted_colour(rng, 0.5, (0.02, 0.25))
    for side in (-1, 1):
        y = side * 0.13
        parts.box(
            (-0.2, 0.28), (y - 0.07, y + 0.07), (seat - 0.05, seat + 0.12), columns.CLOTH, trousers
        )
        _cylinder(parts, (0.22, y, (seat + 0.25) / 2), (0.06, 0.06, (seat - 0.25) / 2), trousers)
        parts.box(
            (0.0, 0.45),
            (side * 0.24 - 0.05, side * 0.24 + 0.05),
            (seat + 0.2, seat + 0.3),
            columns.CLOTH,
            top,
        )
    _cylinder(parts, (-0.06, 0, seat + 0.33), (0.14, 0.21, 0.28), top, -0.1)
    parts.ball((-0.06, 0, seat + 0.58), (0.13, 0.21, 0.09), columns.CLOTH, top)
    parts.ball((0.0, 0, seat + 0.79), (0.1, 0.09, 0.13), columns.SKIN, skin)
    colour = muted_colour(rng, 0.9) if helmet else varied(rng, _HAIRS[int(rng.integers(3))])
    material = columns.PAINT if helmet else columns.CLOTH
    parts.ball((-0.02, 0, seat + 0.83), (0.125, 0.11, 0.11), material, colour)
