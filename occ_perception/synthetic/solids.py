"""Solids: rows of the arrays that kernels read, and figures composed of them."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.synthetic.kernels import columns

Colour = tuple[float, float, float]

GREY: Colour = (0.25, 0.25, 0.26)
DARK: Colour = (0.03, 0.03, 0.035)
LIGHT: Colour = (0.6, 0.6, 0.58)


@dataclass(eq=False)
class SolidList:
    """A list of solids, in the axes of the figure they will belong to.

    Every solid gets the list's class unless it has its own.
    """

    class_id: int
    seed: int = 0
    shapes: list[tuple[float, ...]] = field(default_factory=list)
    tags: list[tuple[int, ...]] = field(default_factory=list)
    swings: list[float] = field(default_factory=list)

    def add(
        self,
        kind: int,
        centre: tuple[float, float, float],
        half: tuple[float, float, float],
        material: int,
        colour: Colour,
        yaw: float = 0.0,
        taper: tuple[float, float] = (0.0, 0.0),
        class_id: int | None = None,
        swing: float = 0.0,
    ) -> None:
        """Add one solid: centre and half extents in metres, linear colour, yaw in radians.

        ``taper`` is the share of the width lost from bottom to top. ``swing`` is the amplitude (m)
        of a walker's limbs.
        """
        wide_x = half[0] * max(1.0, 1.0 - taper[0])
        wide_y = half[1] * max(1.0, 1.0 - taper[1])
        reach = math.hypot(wide_x, wide_y) if kind == columns.BOX else max(wide_x, wide_y)
        row = (*centre, *half, reach, math.cos(yaw), math.sin(yaw), *taper, *colour)
        self.shapes.append(row)
        owner = self.class_id if class_id is None else class_id
        self.tags.append((kind, owner, 0, material, self.seed + len(self.tags)))
        self.swings.append(swing)

    def box(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        z: tuple[float, float],
        material: int,
        colour: Colour,
        taper: tuple[float, float] = (0.0, 0.0),
        class_id: int | None = None,
    ) -> None:
        """Add a box from its (low, high) extents along each axis."""
        lows, highs = np.array([x, y, z]).T
        centre, half = (lows + highs) / 2, (highs - lows) / 2
        self.add(columns.BOX, tuple(centre), tuple(half), material, colour, 0.0, taper, class_id)

    def pole(
        self,
        x: float,
        y: float,
        z: tuple[float, float],
        radius: float,
        material: int = columns.METAL,
        colour: Colour = GREY,
        taper: float = 0.0,
    ) -> None:
        """Add an upright cylinder, or a cone if tapered."""
        half = (radius, radius, (z[1] - z[0]) / 2)
        centre = (x, y, (z[0] + z[1]) / 2)
        self.add(columns.CYLINDER, centre, half, material, colour, taper=(taper, taper))

    def ball(
        self,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        material: int,
        colour: Colour,
    ) -> None:
        """Add an ellipsoid."""
        self.add(columns.ELLIPSOID, centre, radii, material, colour)

    def wheels(self, xs: tuple[float, ...], y: float, radius: float, width: float) -> None:
        """Add a wheel at each x on both sides, standing on z = 0."""
        for x in xs:
            for side in (-y, y):
                self.ball((x, side, radius), (radius, width / 2, radius), columns.TYRE, DARK)

    def figure(self) -> Figure:
        """The finished figure."""
        shapes = np.array(self.shapes, dtype=np.float64).reshape(-1, columns.NUM_SHAPE_COLUMNS)
        tags = np.array(self.tags, dtype=np.int32).reshape(-1, columns.NUM_TAG_COLUMNS)
        return Figure(self.class_id, shapes, tags, np.array(self.swings))


@dataclass(frozen=True, eq=False)
class Figure:
    """An object composed of solids, in its own axes: x forward, z up, standing on z = 0.

    Attributes:
        class_id: Occ3D class of the object.
        shapes, tags: (n, ·) rows as in ``kernels/columns.py``.
        swings: (n,) amplitude (m) with which a part swings along x while walking.
    """

    class_id: int
    shapes: Float64
    tags: NDArray[np.int32]
    swings: Float64

    def bounds(self) -> tuple[Float64, Float64]:
        """Lower and upper corner (3,) of the figure's box."""
        half = footprint_half(self.shapes)
        centre = self.shapes[:, :3]
        return np.min(centre - half, axis=0), np.max(centre + half, axis=0)

    def placed(
        self, x: float, y: float, z: float, yaw: float, instance: int = 0
    ) -> tuple[Float64, NDArray[np.int32]]:
        """Rows of the figure standing at a world position."""
        pose = np.array([[x, y, z, yaw]])
        shapes = place_shapes(self.shapes, pose.repeat(len(self.shapes), axis=0))
        tags = self.tags.copy()
        tags[:, columns.INSTANCE] = instance
        return shapes, tags


def footprint_half(shapes: Float64) -> Float64:
    """(n, 3) half extents of the solids' axis-aligned boxes, including yaw and flaring tops."""
    c = np.abs(shapes[:, columns.COS])
    s = np.abs(shapes[:, columns.SIN])
    half = shapes[:, columns.HX : columns.HZ + 1].copy()
    x = half[:, 0] * np.maximum(1.0, 1.0 - shapes[:, columns.TAPER_X])
    y = half[:, 1] * np.maximum(1.0, 1.0 - shapes[:, columns.TAPER_Y])
    half[:, 0] = c * x + s * y
    half[:, 1] = s * x + c * y
    return np.asarray(half)


def place_shapes(shapes: Float64, poses: Float64) -> Float64:
    """Move each solid (n, ·) from its owner's axes to the world by poses (n, 4) x, y, z, yaw."""
    c = np.cos(poses[:, 3])
    s = np.sin(poses[:, 3])
    placed = shapes.copy()
    x, y = shapes[:, columns.X], shapes[:, columns.Y]
    placed[:, columns.X] = poses[:, 0] + c * x - s * y
    placed[:, columns.Y] = poses[:, 1] + s * x + c * y
    placed[:, columns.Z] += poses[:, 2]
    own_c, own_s = shapes[:, columns.COS], shapes[:, columns.SIN]
    placed[:, columns.COS] = c * own_c - s * own_s
    placed[:, columns.SIN] = s * own_c + c * own_s
    return np.asarray(placed)


def muted_colour(
    rng: np.random.Generator, saturation: float = 0.35, value: tuple[float, float] = (0.08, 0.55)
) -> Colour:
    """A random linear colour of any hue, mostly muted, as common in streets."""
    hue = float(rng.random())
    strength = saturation * float(rng.random()) ** 1.5
    return colorsys.hsv_to_rgb(hue, strength, float(rng.uniform(*value)))


def varied(rng: np.random.Generator, colour: Colour, spread: float = 0.15) -> Colour:
    """The same colour, brighter or darker and slightly tinted."""
    draws = rng.uniform(-spread, spread, 4)
    level = 1 + float(draws[0])
    r, g, b = (
        min(max(c * level * (1 + float(t) / 3), 0.01), 0.9)
        for c, t in zip(colour, draws[1:], strict=True)
    )
    return r, g, b
