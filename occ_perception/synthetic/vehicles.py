"""Vehicles, composed of solids. Lengths, widths and heights vary around those of real vehicles."""

from __future__ import annotations

import numpy as np

from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.people import add_rider
from occ_perception.synthetic.solids import (
    DARK,
    GREY,
    LIGHT,
    Colour,
    Figure,
    SolidList,
    muted_colour,
    varied,
)

_CAR_COLOURS: tuple[Colour, ...] = (
    (0.62, 0.62, 0.6),
    (0.35, 0.36, 0.37),
    (0.03, 0.03, 0.035),
    (0.12, 0.13, 0.14),
    (0.05, 0.09, 0.22),
    (0.32, 0.04, 0.04),
    (0.3, 0.27, 0.2),
    (0.08, 0.16, 0.12),
)
_MACHINE_COLOURS: tuple[Colour, ...] = ((0.5, 0.33, 0.03), (0.5, 0.2, 0.03), (0.4, 0.38, 0.3))


def _pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return varied(rng, colours[int(rng.integers(len(colours)))])


def car(rng: np.random.Generator) -> Figure:
    """A saloon, an estate, a small off-roader or a van."""
    parts = SolidList(columns.CAR, int(rng.integers(1 << 20)))
    kind = rng.choice(["saloon", "estate", "tall", "van"], p=[0.4, 0.25, 0.2, 0.15])
    length = {"saloon": 4.6, "estate": 4.3, "tall": 4.5, "van": 5.0}[kind] * rng.uniform(0.93, 1.07)
    width = rng.uniform(1.74, 1.92)
    height = {"saloon": 1.44, "estate": 1.5, "tall": 1.7, "van": 2.0}[kind] * rng.uniform(
        0.97, 1.04
    )
    waist = height * (0.6 if kind != "van" else 0.5)
    colour = _pick(rng, _CAR_COLOURS) if rng.random() < 0.8 else muted_colour(rng, 0.7)
    front, back = length / 2, -length / 2
    parts.box(
        (back, front), (-width / 2, width / 2), (0.2, waist), columns.CAR_BODY, colour, (0.05, 0.06)
    )
    cabin = {
        "saloon": (back + 0.16 * length, front - 0.25 * length, 0.42),
        "estate": (back + 0.03 * length, front - 0.26 * length, 0.3),
        "tall": (back + 0.03 * length, front - 0.26 * length, 0.22),
        "van": (back + 0.01 * length, front - 0.12 * length, 0.14),
    }[kind]
    half = width / 2 - 0.06
    parts.box(
        cabin[:2], (-half, half), (waist - 0.02, height), columns.CABIN, colour, (cabin[2], 0.22)
    )
    axle = 0.31 * length
    parts.wheels((-axle, axle), width / 2 - 0.1, 0.33, 0.24)
    mirror = cabin[1] - 0.35
    for side in (-1, 1):
        inner = side * (half - 0.02)
        outer = side * (width / 2 + 0.12)
        parts.box(
            (mirror, mirror + 0.12),
            (min(inner, outer), max(inner, outer)),
            (waist, waist + 0.15),
            columns.PAINT,
            colour,
        )
    return parts.figure()


def truck(rng: np.random.Generator) -> Figure:
    """A lorry with a box, a tipper or a tank."""
    parts = SolidList(columns.TRUCK, int(rng.integers(1 << 20)))
    length, width, height = rng.uniform(6.5, 10.0), rng.uniform(2.2, 2.5), rng.uniform(2.6, 3.6)
    colour = muted_colour(rng, 0.8, (0.2, 0.6))
    cargo = muted_colour(rng, 0.4, (0.25, 0.65))
    front, back, half = length / 2, -length / 2, width / 2
    cab = front - rng.uniform(1.6, 2.1)
    top = min(height, rng.uniform(2.3, 2.9))
    parts.box((cab, front), (-half, half), (0.45, 1.35), columns.CAR_BODY, colour)
    parts.box((cab, front - 0.03), (-half, half), (1.33, top), columns.CABIN, colour, (0.12, 0.08))
    parts.box((back, cab), (-half + 0.3, half - 0.3), (0.5, 0.95), columns.METAL, DARK)
    kind = rng.choice(["box", "tipper", "tank"], p=[0.6, 0.25, 0.15])
    load = (back, cab - 0.25)
    if kind == "box":
        parts.box(load, (-half, half), (0.95, height), columns.CARGO, cargo)
    elif kind == "tipper":
        parts.box(load, (-half, half), (0.95, 1.9), columns.CARGO, cargo, (-0.04, -0.06))
        parts.ball(((back + cab) / 2, 0, 1.8), (length * 0.3, half * 0.85, 0.5), columns.SOIL, GREY)
    else:
        middle = (load[0] + load[1]) / 2
        reach = (load[1] - load[0]) / 2
        parts.ball((middle, 0, 1.75), (reach * 1.15, half, 0.85), columns.PAINT, LIGHT)
    parts.wheels((cab + 0.7, back + 1.0, back + 2.1), half - 0.14, 0.48, 0.32)
    return parts.figure()


def trailer(rng: np.random.Generator) -> Figure:
    """A parked semi-trailer or a small drawbar trailer; class trailer in both cases."""
    parts = SolidList(columns.TRAILER, int(rng.integers(1 << 20)))
    colour = muted_colour(rng, 0.5, (0.2, 0.65))
    if rng.random() < 0.6:
        length, half, height = rng.uniform(8.0, 12.0), 1.25, rng.uniform(3.2, 3.8)
        floor, back = 1.15, -length / 2
        parts.box((back, length / 2), (-half, half), (floor, height), columns.CARGO, colour)
        parts.box((back, length / 2), (-0.5, 0.5), (0.85, floor), columns.METAL, DARK)
        parts.wheels((back + 1.0, back + 2.2, back + 3.4), half - 0.14, 0.48, 0.32)
        for side in (-0.7, 0.7):
            parts.box(
                (length / 2 - 2.6, length / 2 - 2.4),
                (side - 0.1, side + 0.1),
                (0, floor),
                columns.METAL,
                GREY,
            )
    else:
        length, half = rng.uniform(2.6, 4.5), rng.uniform(0.75, 1.0)
        top = rng.uniform(1.2, 2.3)
        parts.box((-length / 2, length / 2), (-half, half), (0.5, top), columns.CARGO, colour)
        parts.box((length / 2, length / 2 + 1.0), (-0.06, 0.06), (0.42, 0.55), columns.METAL, GREY)
        parts.wheels((0.0,), half + 0.08, 0.33, 0.2)
    return parts.figure()


def bus(rng: np.random.Generator) -> Figure:
    """A city bus."""
    parts = SolidList(columns.BUS, int(rng.integers(1 << 20)))
    length, half, height = rng.uniform(9.5, 12.0), 1.27, rng.uniform(2.9, 3.2)
    colour = muted_colour(rng, 0.9, (0.25, 0.65))
    parts.box(
        (-length / 2, length / 2),
        (-half, half),
        (0.32, height),
        columns.BUS_BODY,
        colour,
        (0.01, 0.03),
    )
    parts.box(
        (-length * 0.3, length * 0.2), (-0.8, 0.8), (height, height + 0.25), columns.PAINT, LIGHT
    )
    parts.wheels((-0.28 * length, 0.33 * length), half - 0.13, 0.48, 0.32)
    return parts.figure()


def excavator(rng: np.random.Generator) -> Figure:
    """An excavator with an arm of upright boxes."""
    parts = SolidList(columns.CONSTRUCTION_VEHICLE, int(rng.integers(1 << 20)))
    colour = _pick(rng, _MACHINE_COLOURS)
    for side in (-1.0, 1.0):
        parts.box(
            (-1.7, 1.7), (side - 0.28, side + 0.28), (0.0, 0.8), columns.TYRE, DARK, (0.2, 0.0)
        )
    parts.pole(0, 0, (0.7, 1.05), 0.8)
    parts.box((-1.9, 1.0), (-1.15, 1.15), (1.0, 1.85), columns.PAINT, colour, (0.04, 0.02))
    parts.box((-2.1, -1.2), (-1.1, 1.1), (1.2, 2.1), columns.PAINT, varied(rng, GREY), (0.1, 0.05))
    parts.box((-0.4, 1.0), (0.15, 1.1), (1.85, 2.9), columns.CABIN, colour, (0.15, 0.1))
    reach, lift = rng.uniform(3.6, 4.8), rng.uniform(3.2, 4.4)
    knee = 0.5
    for n in range(20):
        f = n / 19
        rise = 1.6 + (lift - 1.6) * f / knee
        fall = lift - (lift - 0.9) * (f - knee) / (1 - knee)
        z = float(rise if f < knee else fall)
        x = 0.9 + f * reach
        thick = 0.36 - 0.12 * f
        parts.box((x - 0.2, x + 0.2), (-0.5, -0.12), (z - thick, z + thick), columns.PAINT, colour)
    tip = 0.9 + reach
    parts.box((tip - 0.3, tip + 0.6), (-0.85, 0.25), (0.15, 1.0), columns.METAL, GREY, (-0.2, 0.0))
    return parts.figure()


def roller(rng: np.random.Generator) -> Figure:
    """A road roller or loader."""
    parts = SolidList(columns.CONSTRUCTION_VEHICLE, int(rng.integers(1 << 20)))
    colour = _pick(rng, _MACHINE_COLOURS)
    parts.ball((1.35, 0, 0.65), (0.65, 1.0, 0.65), columns.METAL, GREY)
    parts.wheels((-1.3,), 0.75, 0.7, 0.5)
    parts.box((-2.2, 0.4), (-0.85, 0.85), (0.6, 1.5), columns.PAINT, colour, (0.05, 0.05))
    parts.box((-0.9, 0.4), (-0.75, 0.75), (1.5, 2.8), columns.CABIN, colour, (0.1, 0.08))
    parts.box((0.4, 1.9), (-1.08, 1.08), (0.75, 1.0), columns.PAINT, colour)
    return parts.figure()


def motorcycle(rng: np.random.Generator, rider: bool) -> Figure:
    """A motorcycle or scooter; a rider has the same class."""
    parts = SolidList(columns.MOTORCYCLE, int(rng.integers(1 << 20)))
    colour = muted_colour(rng, 0.9)
    for x in (-0.68, 0.68):
        parts.ball((x, 0, 0.31), (0.31, 0.09, 0.31), columns.TYRE, DARK)
    parts.ball((0.12, 0, 0.78), (0.42, 0.17, 0.2), columns.PAINT, colour)
    parts.box((-0.85, -0.1), (-0.14, 0.14), (0.68, 0.84), columns.PAINT, DARK)
    parts.box((-0.45, 0.4), (-0.18, 0.18), (0.25, 0.66), columns.METAL, GREY)
    parts.box((0.5, 0.62), (-0.06, 0.06), (0.4, 1.02), columns.METAL, GREY)
    parts.box((0.4, 0.5), (-0.36, 0.36), (0.98, 1.04), columns.METAL, DARK)
    if rider:
        add_rider(parts, rng, seat=0.82, helmet=True)
    return parts.figure()


def bicycle(rng: np.random.Generator, rider: bool) -> Figure:
    """A bicycle; a rider has the same class."""
    parts = SolidList(columns.BICYCLE, int(rng.integers(1 << 20)))
    colour = muted_colour(rng, 0.9)
    for x in (-0.52, 0.52):
        parts.ball((x, 0, 0.34), (0.34, 0.035, 0.34), columns.SPOKES, DARK)
    parts.box((-0.2, 0.38), (-0.025, 0.025), (0.72, 0.78), columns.PAINT, colour)
    parts.box((-0.2, -0.14), (-0.025, 0.025), (0.32, 0.92), columns.PAINT, colour)
    parts.box((-0.5, 0.0), (-0.025, 0.025), (0.3, 0.36), columns.PAINT, colour)
    parts.box((0.36, 0.44), (-0.025, 0.025), (0.36, 1.0), columns.PAINT, colour)
    parts.box((-0.32, -0.05), (-0.08, 0.08), (0.92, 0.98), columns.PAINT, DARK)
    parts.box((0.34, 0.42), (-0.28, 0.28), (0.99, 1.03), columns.METAL, DARK)
    if rider:
        add_rider(parts, rng, seat=0.95, helmet=bool(rng.random() < 0.5))
    return parts.figure()
