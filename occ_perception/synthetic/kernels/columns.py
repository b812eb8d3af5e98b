"""What the columns of the world's arrays mean, and the ids of shapes, materials and surfaces.

Kernels freeze these numbers into machine code. This module itself needs no numba.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Columns of `shapes` (n, 14) float64: centre and half extents in metres, radius of an upright
# cylinder around it, yaw as cosine and sine, how much the section shrinks from bottom to top
# (0 = upright, 1 = to a point), linear colour. What a ray looks at first comes first.
X, Y, Z, HX, HY, HZ, REACH, COS, SIN, TAPER_X, TAPER_Y, RED, GREEN, BLUE = range(14)
NUM_SHAPE_COLUMNS = 14

# Columns of `tags` (n, 5) int32.
KIND, CLASS, INSTANCE, MATERIAL, SEED = range(5)
NUM_TAG_COLUMNS = 5

# KIND of a solid. All stand upright; a cylinder's axis is vertical.
BOX, ELLIPSOID, CYLINDER = range(3)

# Class ids of Occ3D-nuScenes.
(
    OTHERS,
    BARRIER,
    BICYCLE,
    BUS,
    CAR,
    CONSTRUCTION_VEHICLE,
    MOTORCYCLE,
    PEDESTRIAN,
    TRAFFIC_CONE,
    TRAILER,
    TRUCK,
    DRIVEABLE,
    OTHER_FLAT,
    SIDEWALK,
    TERRAIN,
    MANMADE,
    VEGETATION,
    FREE,
) = range(18)

# MATERIAL of a solid.
(
    PAINT,
    FACADE,
    ROOF,
    CAR_BODY,
    CABIN,
    BUS_BODY,
    CARGO,
    GLASS,
    TYRE,
    LEAVES,
    HEDGE,
    BARK,
    STRIPES,
    CONE,
    SIGN,
    RAILING,
    METAL,
    CLOTH,
    SKIN,
    LAMP,
    BRICKWORK,
    SOIL,
    SPOKES,
) = range(23)

# Surface codes of the ground. Codes below FIRST_RAISED lie at road level, the others a kerb higher.
(
    ASPHALT,
    CAR_PARK,
    FIRST_RAISED,
    COBBLES,
    SQUARE,
    GRASS,
    LAWN,
    PAVED,
    FOOTPATH,
) = range(9)
SLABS = FIRST_RAISED
SURFACE_CLASS = np.array(
    [DRIVEABLE, DRIVEABLE, SIDEWALK, OTHER_FLAT, OTHER_FLAT, TERRAIN, TERRAIN, SIDEWALK, SIDEWALK],
    dtype=np.uint8,
)
OUTSIDE = GRASS
"""Surface beyond the edge of the town."""

KERB_HEIGHT = 0.15

# Layers of `surface` (n, n, 4) uint8.
KERB_LAYER, MARK_LAYER, CODE_LAYER, COLOUR_LAYER = range(4)
SURFACE_CELL = 0.1
SURFACE_CELLS = 3000
HALF_TOWN = 150.0
DISTANCE_SCALE = 300.0
"""Signed distances (m) are stored as 128 + DISTANCE_SCALE * d, clipped to a byte: +-0.42 m."""

BLOCK_CELLS = 16
BLOCKS = -(-SURFACE_CELLS // BLOCK_CELLS)
ALL_LOW, ALL_RAISED, MIXED = range(3)
"""Summary of a block of surface cells: spares most rays the look at the large raster."""

RELIEF_CELL = 4.0
RELIEF_CELLS = 221
RELIEF_EDGE = -440.0

# The uniform grid of solids that rays walk through.
CELL = 3.0
CELLS = 100
"""Cells per side; the grid is centred on the scene."""

# Result of a ray that hits no solid.
MET_GROUND, MET_KERB, MET_NOTHING = -1, -2, -3


class World(NamedTuple):
    """Everything a ray can hit at one time.

    Attributes:
        surface: (SURFACE_CELLS, SURFACE_CELLS, 4) uint8, first index along x.
        blocks: (BLOCKS, BLOCKS) uint8 ALL_LOW, ALL_RAISED or MIXED.
        relief: (RELIEF_CELLS, RELIEF_CELLS) float64 road height, metres, bilinear in between.
        heights: (2,) lowest and highest value of the relief.
        shapes: (n, 14) float64, see above.
        tags: (n, 5) int32, see above.
        starts: (CELLS * CELLS + 1,) int32 position of each cell's first entry in ``items``.
        items: int32 indices of solids, cell by cell.
        low, high: (CELLS * CELLS,) float64 height range of each cell's solids, metres.
        corner: (2,) float64 lower corner of the cell grid in world x, y.
    """

    surface: NDArray[np.uint8]
    blocks: NDArray[np.uint8]
    relief: NDArray[np.float64]
    heights: NDArray[np.float64]
    shapes: NDArray[np.float64]
    tags: NDArray[np.int32]
    starts: NDArray[np.int32]
    items: NDArray[np.int32]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    corner: NDArray[np.float64]
