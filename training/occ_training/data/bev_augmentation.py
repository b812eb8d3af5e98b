"""Rotation and mirroring of the grid during training, applied to labels.

The networks lift features to ``bda @ p`` for a point p of the grid's frame (BEVDet, arXiv
2112.11790); labels and velocities are transformed the same way. Legend: X, Y, Z voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64, VoxelGrid
from occ_perception.labels import UNKNOWN_CLASS
from occ_training.data.label_files import FrameLabels


@dataclass(frozen=True, kw_only=True)
class BevAugmentation:
    """Ranges that each frame's augmentation is drawn from.

    Attributes:
        rotation_deg: (lowest, highest) rotation to the left, degrees.
        scale: (lowest, highest) factor; labels are not scaled, so it is 1 in every recipe.
        flip_x, flip_y: probability of mirroring x, and y.
    """

    rotation_deg: tuple[float, float] = (0.0, 0.0)
    scale: tuple[float, float] = (1.0, 1.0)
    flip_x: float = 0.5
    flip_y: float = 0.5

    def draw(self, rng: np.random.Generator) -> Float64:
        """(3, 3) matrix ``mirror @ scale @ turn``, drawn in the order rotation, scale, x, y."""
        angle = np.deg2rad(rng.uniform(*self.rotation_deg))
        scale = rng.uniform(*self.scale)
        mirror_x = rng.uniform() < self.flip_x
        mirror_y = rng.uniform() < self.flip_y
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
        mirror = np.diag([-1.0 if mirror_x else 1.0, -1.0 if mirror_y else 1.0, 1.0])
        return mirror @ (scale * turn)


def augment_labels(labels: FrameLabels, bda_33: Float64, grid: VoxelGrid) -> FrameLabels:
    """Labels in the augmented grid.

    A voxel takes the values of the original voxel at its centre; outside of the grid it is 255,
    unseen, without flow. A mirrored grid is an exact permutation of its voxels.

    Args:
        labels: of the original grid.
        bda_33: (3, 3) rotation and mirroring about z; x and y can mix, z does not change.
        grid: voxels; its centre need not be the origin.
    """
    if np.array_equal(bda_33, np.eye(3)):
        return labels
    i_XY, j_XY, inside_XY = _source_voxels(bda_33, grid)

    def move(volume: Any, outside: float) -> Any:
        if volume is None:
            return None
        moved = volume[i_XY, j_XY]
        moved[~inside_XY] = outside
        return moved

    flow = move(labels.flow_XYZ2, 0.0)
    if flow is not None:
        flow = (flow @ np.asarray(bda_33[:2, :2].T, dtype=np.float32)).astype(np.float32)
    return FrameLabels(
        semantics_XYZ=move(labels.semantics_XYZ, UNKNOWN_CLASS),
        camera_mask_XYZ=move(labels.camera_mask_XYZ, False),
        lidar_mask_XYZ=move(labels.lidar_mask_XYZ, False),
        flow_XYZ2=flow,
    )


def _source_voxels(
    bda_33: Float64, grid: VoxelGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Column (i, j) of the original grid at each augmented column's centre; whether it exists."""
    X, Y, _ = grid.dims
    columns = np.stack(np.meshgrid(np.arange(X), np.arange(Y), indexing="ij"), axis=-1)
    centers_XY2 = np.asarray(grid.lower[:2]) + (columns + 0.5) * np.asarray(grid.voxel_size[:2])
    source_XY2 = centers_XY2 @ np.linalg.inv(bda_33[:2, :2]).T
    voxels_XY2 = (source_XY2 - np.asarray(grid.lower[:2])) / np.asarray(grid.voxel_size[:2])
    # Centres of mirrored voxels are again centres, up to rounding, so floor is safe.
    index_XY2 = np.floor(voxels_XY2).astype(np.int64)
    inside_XY = np.all((index_XY2 >= 0) & (index_XY2 < (X, Y)), axis=-1)
    index_XY2[~inside_XY] = 0
    return index_XY2[..., 0], index_XY2[..., 1], inside_XY
