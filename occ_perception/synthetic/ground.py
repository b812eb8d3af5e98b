"""The ground of a town: gentle relief, kerbs, surfaces and markings as a raster."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from occ_perception.geometry import Float64
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.streets import Road, StreetPlan


@dataclass(frozen=True, eq=False)
class Ground:
    """Raster and relief in world coordinates; ``kernels/columns.py`` describes their content."""

    surface: NDArray[np.uint8]
    blocks: NDArray[np.uint8]
    relief: Float64

    def road_height(self, x: ArrayLike, y: ArrayLike) -> Float64:
        """Height of the road level (kerbs ignored) at positions of any shape, metres."""
        u = (np.asarray(x, dtype=np.float64) - columns.RELIEF_EDGE) / columns.RELIEF_CELL
        v = (np.asarray(y, dtype=np.float64) - columns.RELIEF_EDGE) / columns.RELIEF_CELL
        u = np.clip(u, 0.0, columns.RELIEF_CELLS - 1.001)
        v = np.clip(v, 0.0, columns.RELIEF_CELLS - 1.001)
        i = u.astype(np.int64)
        j = v.astype(np.int64)
        fu, fv = u - i, v - j
        z = self.relief
        below = z[i, j] + (z[i + 1, j] - z[i, j]) * fu
        above = z[i, j + 1] + (z[i + 1, j + 1] - z[i, j + 1]) * fu
        return np.asarray(below + (above - below) * fv)

    def surface_code(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.int64]:
        """Surface code at positions of any shape; the grass outside beyond the raster."""
        i = np.floor((np.asarray(x) + columns.HALF_TOWN) / columns.SURFACE_CELL).astype(np.int64)
        j = np.floor((np.asarray(y) + columns.HALF_TOWN) / columns.SURFACE_CELL).astype(np.int64)
        inside = (i >= 0) & (j >= 0) & (i < columns.SURFACE_CELLS) & (j < columns.SURFACE_CELLS)
        i, j = np.where(inside, i, 0), np.where(inside, j, 0)
        cell = self.surface[i, j]
        packed = cell[..., columns.CODE_LAYER].astype(np.int64)
        code = np.where(cell[..., columns.KERB_LAYER] > 128, packed & 15, packed >> 4)
        return np.where(inside, code, columns.OUTSIDE)

    def height(self, x: ArrayLike, y: ArrayLike) -> Float64:
        """Height of the ground, kerb included, metres."""
        raised = self.surface_code(x, y) >= columns.FIRST_RAISED
        return self.road_height(x, y) + columns.KERB_HEIGHT * raised


def lay_ground(seed: int, plan: StreetPlan) -> Ground:
    """Rasterise a street plan and generate the relief of town ``seed``."""
    from occ_perception.synthetic.kernels.paint import paint_ground
    from occ_perception.synthetic.kernels.terrain import summarise_blocks

    surface = np.empty((columns.SURFACE_CELLS, columns.SURFACE_CELLS, 4), dtype=np.uint8)
    arrays = []
    cells = np.arange(columns.SURFACE_CELLS, dtype=np.float64)
    along = (cells + 0.5) * columns.SURFACE_CELL - columns.HALF_TOWN
    for family in plan.roads:
        centres = np.stack([road.centre(along) for road in family])
        cosines = np.stack([1 / np.sqrt(1 + road.slope(along) ** 2) for road in family])
        arrays += [np.array([_profile(road) for road in family]), centres, cosines]
    paint_ground(
        surface,
        0,
        columns.SURFACE_CELLS,
        *arrays,
        plan.zebras,
        plan.block_codes,
        plan.middles(0),
        plan.middles(1),
        1 if plan.right_hand else -1,
    )
    blocks = np.empty((columns.BLOCKS, columns.BLOCKS), dtype=np.uint8)
    summarise_blocks(surface, blocks)
    return Ground(surface, blocks, _draw_relief(seed))


def _profile(road: Road) -> list[float]:
    return [
        road.half,
        road.median,
        road.median_code,
        road.lanes,
        road.lane_width,
        road.parking,
        road.verge,
        road.verge_code,
        road.walk,
        road.yellow,
    ]


def _draw_relief(seed: int) -> Float64:
    rng = random_for("relief", seed)
    axis = columns.RELIEF_EDGE + columns.RELIEF_CELL * np.arange(columns.RELIEF_CELLS)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    relief = np.zeros_like(x)
    for _ in range(3):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        wavenumber = 2 * np.pi / rng.uniform(90, 180)
        along = np.cos(angle) * x + np.sin(angle) * y
        relief += rng.uniform(0.05, 0.2) * np.sin(wavenumber * along + phase)
    return np.asarray(relief)
