"""The scene of the renderer as arrays for its kernels: voxels, floor, vehicle, sun and sky.

Spaces: ``ego`` is base_link in metres. ``voxel`` has the grid's axes, one unit per voxel, and the
lower corner of the grid at (1, 1, 1), because volumes have a margin of one empty voxel.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from occ_perception.geometry import Float64, VoxelGrid, invert_transform

UInt8 = NDArray[np.uint8]
Float32 = NDArray[np.float32]

NOTHING = 255
"""Content of voxels that are not drawn."""

_SUN = (-0.42, 0.46, 0.78)
_HORIZON, _ZENITH = (236, 240, 245), (150, 178, 208)
# Colours reflect at least this share of light, because black shows no shape.
_LEAST_REFLECTION = 0.03
# Half-size of the neighbourhood that darkens a surface, metres.
_SURROUNDINGS = 1.0
_MARKER_COLOURS = ((250, 250, 252), (62, 70, 82))
_GRID_OF_WHOLE_MARKER = 40.0


class Stage(NamedTuple):
    """Everything that rays can hit, and the light; arrays are C-contiguous.

    Attributes:
        voxels: (X + 2, Y + 2, Z + 2) uint8 in C order, flat; colour index, NOTHING if free.
        shape: shape of the volume with its margin.
        density: (X + 2, Y + 2, Z + 2) float32, filled share of a voxel's neighbourhood, 0 to 1.
        colours: (256, 3) float32 linear light.
        voxel_T_ego: (3, 4) float64.
        ego_R_voxel: (3, 3) float64 directions of the voxel axes.
        floor: height of the floor in ego, and the radius around which it fades, metres.
        planes: (P, 4) float64 outward normal and offset of the marker's faces, in ego.
        bodies: (B + 1,) int32 first plane of each convex body of the marker.
        body_colours: (B, 3) float32 linear light.
        sun: (3,) float64 direction to the sun in ego.
        sky: (2, 3) float32 linear light at the horizon and overhead.
    """

    voxels: NDArray[np.uint8]
    shape: tuple[int, int, int]
    density: NDArray[np.float32]
    colours: NDArray[np.float32]
    voxel_T_ego: NDArray[np.float64]
    ego_R_voxel: NDArray[np.float64]
    floor: tuple[float, float]
    planes: NDArray[np.float64]
    bodies: NDArray[np.int32]
    body_colours: NDArray[np.float32]
    sun: NDArray[np.float64]
    sky: NDArray[np.float32]


def build_stage(
    labels_XYZ: UInt8,
    colours: UInt8,
    drawn: NDArray[np.bool_],
    grid: VoxelGrid,
    ego_T_grid: Float64,
    with_vehicle: bool = True,
) -> Stage:
    """The stage of a volume; arguments as in :func:`~.volume.render_volume`."""
    voxels = np.full([count + 2 for count in grid.dims], NOTHING, np.uint8)
    voxels[1:-1, 1:-1, 1:-1] = np.where(drawn[labels_XYZ], labels_XYZ, NOTHING)
    size = np.asarray(grid.voxel_size)
    window = [2 * max(1, round(_SURROUNDINGS / edge)) + 1 for edge in size]
    occupied = (voxels != NOTHING).astype(np.float32)
    density = uniform_filter(occupied, window, mode="constant")

    voxel_T_ego = invert_transform(ego_T_grid)[:3]
    voxel_T_ego[:, 3] -= grid.lower
    voxel_T_ego /= size[:, None]
    voxel_T_ego[:, 3] += 1.0
    extent = float(max(np.subtract(grid.upper, grid.lower)[:2]))
    floor = float((ego_T_grid[:3, :3] @ np.asarray(grid.lower) + ego_T_grid[:3, 3])[2])
    planes, bodies = _marker(min(1.0, extent / _GRID_OF_WHOLE_MARKER))
    if not with_vehicle:
        planes, bodies = planes[:0], bodies[:1]
    light = linear_light(colours)
    dark = np.maximum(0.0, _LEAST_REFLECTION - light @ np.array((0.21, 0.72, 0.07)))
    return Stage(
        voxels.ravel(),
        voxels.shape,
        density,
        light + dark.astype(np.float32)[:, None],
        np.ascontiguousarray(voxel_T_ego),
        np.array(ego_T_grid[:3, :3], dtype=np.float64),
        (floor, extent),
        planes,
        bodies,
        linear_light(np.array(_MARKER_COLOURS)),
        np.array(_SUN) / np.linalg.norm(_SUN),
        linear_light(np.array([_HORIZON, _ZENITH])),
    )


def _marker(scale: float) -> tuple[Float64, NDArray[np.int32]]:
    """The vehicle as two convex bodies in ego: their faces, and the first face of each body.

    A face is the plane ``normal @ point = offset``; inside a body the left side is smaller.
    """
    body = [
        *((1, 0, 0, 3.75), (-1, 0, 0, 0.95), (0, 1, 0, 0.93), (0, -1, 0, 0.93)),
        *((0, 0, 1, 0.98), (0, 0, -1, -0.25), (0.35, 0, 1, 1.98)),
        *((0.5, 0.8, 0, 2.35), (0.5, -0.8, 0, 2.35), (-0.5, 0.8, 0, 1.07), (-0.5, -0.8, 0, 1.07)),
    ]
    cabin = [
        *((1, 0, 1.05, 3.35), (-1, 0, 0.5, 1.2), (0, 1, 0.4, 1.22), (0, -1, 0.4, 1.22)),
        *((0, 0, 1, 1.52), (0, 0, -1, -0.9)),
    ]
    planes = np.array(body + cabin, dtype=np.float64)
    planes /= np.linalg.norm(planes[:, :3], axis=1, keepdims=True)
    planes[:, 3] *= scale
    return planes, np.array([0, len(body), len(planes)], np.int32)


def linear_light(rgb: NDArray[np.integer[Any]]) -> Float32:
    """Display values (..., 3) 0 to 255 as linear light 0 to 1 (sRGB, IEC 61966-2-1)."""
    value = np.asarray(rgb, dtype=np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)
