"""The height of the ground in every column of a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64
from occ_perception.labels import GROUND_CLASSES


def class_mask(class_names: tuple[str, ...], names: frozenset[str]) -> NDArray[np.bool_]:
    """(256,) whether a class id has one of the names."""
    mask = np.zeros(256, np.bool_)
    mask[: len(class_names)] = [name in names for name in class_names]
    return mask


def ground_voxels(prediction: OccupancyPrediction) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels of classes that one stands on."""
    found: NDArray[np.bool_] = class_mask(prediction.class_names, GROUND_CLASSES)[prediction.labels]
    return found


def ground_heights(ground_XYZ: NDArray[np.bool_], lower_z: float, size_z: float) -> Float64:
    """(X, Y) height of the ground along the grid's z axis, metres: the top of its lowest voxel.

    The lowest, because what is predicted above it is a slope's next step or a mistake. A column
    without ground, under a vehicle or a wall, has the height of the nearest column with ground. A
    grid without any ground has it at 0, the plane that the vehicle stands on.

    Args:
        ground_XYZ: voxels of the ground.
        lower_z, size_z: lower end of the grid and edge of its voxels, metres.
    """
    has_ground = ground_XYZ.any(axis=2)
    if not has_ground.any():
        return np.zeros(has_ground.shape)
    heights = lower_z + (ground_XYZ.argmax(axis=2) + 1) * size_z
    nearest = ndimage.distance_transform_edt(
        ~has_ground, return_distances=False, return_indices=True
    )
    filled: Float64 = heights[tuple(nearest)]
    return filled


def heights_above_ground(prediction: OccupancyPrediction) -> Float64:
    """(X, Y, Z) height of every voxel's centre above the local ground, metres.

    Up is the grid's z axis, so the grid must not be tilted by much.
    """
    grid = prediction.grid
    lower, size = grid.lower[2], grid.voxel_size[2]
    ground = ground_heights(ground_voxels(prediction), lower, size)
    centres = lower + (np.arange(grid.dims[2]) + 0.5) * size
    above: Float64 = centres - ground[:, :, None]
    return above
