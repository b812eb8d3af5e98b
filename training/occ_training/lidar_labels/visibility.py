"""The voxels of a frame's grid that the cameras see."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import Float64, VoxelGrid

Mask = NDArray[np.bool_]

_RAY_SPACING = np.radians(0.2)
"""A voxel of 0.4 m in the grid's far corner, 56 m away, is 0.4 degrees wide."""


def camera_mask(
    occupied: Mask, rig: CameraRig, ego_T_cam: Mapping[str, Float64], grid: VoxelGrid
) -> Mask:
    """(X, Y, Z) the voxels that camera rays cross, up to and including the first occupied one.

    This is the definition of Occ3D (arXiv 2304.14365, section 3.3). It includes lens distortion.

    Args:
        occupied: (X, Y, Z) bool.
        rig: cameras with the distortion of their images.
        ego_T_cam: camera -> (4, 4) pose at its exposure in the frame's ego axes.
        grid: voxel layout in those axes.
    """
    from occ_training.lidar_labels.kernels import cast_into_grid

    seen = np.zeros(grid.dims, bool)
    size, lower = np.array(grid.voxel_size), np.array(grid.lower)
    reach = float(np.linalg.norm(np.array(grid.upper) - lower)) + 10.0
    for camera in rig.cameras:
        if camera.name not in ego_T_cam:
            continue
        pose = ego_T_cam[camera.name]
        directions = _ray_directions(camera) @ pose[:3, :3].T
        origin = (pose[:3, 3] - lower) / size
        cast_into_grid(
            np.ascontiguousarray(occupied),
            seen,
            np.ascontiguousarray(origin),
            np.ascontiguousarray(directions / size),
            reach,
        )
    return seen


def _ray_directions(camera: CameraCalibration) -> Float64:
    """(n, 3) unit directions of pixels about 0.2 degrees apart, in the optical frame."""
    stride = max(1, int(min(camera.K[0, 0], camera.K[1, 1]) * _RAY_SPACING))
    columns = np.arange(0, camera.width, stride, dtype=np.float64)
    rows = np.arange(0, camera.height, stride, dtype=np.float64)
    pixels = np.stack(np.meshgrid(columns, rows), axis=-1).reshape(-1, 1, 2)
    if camera.is_rectified:
        flat = (pixels[:, 0] - camera.K[:2, 2]) / camera.K[[0, 1], [0, 1]]
    else:
        coefficients = np.array(camera.distortion)
        model = cv2.fisheye if camera.distortion_model == "equidistant" else cv2
        flat = model.undistortPoints(pixels, camera.K, coefficients)[:, 0]
    rays = np.column_stack([flat, np.ones(len(flat))])
    directions: Float64 = rays / np.linalg.norm(rays, axis=1, keepdims=True)
    return directions
