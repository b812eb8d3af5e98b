"""SE(3), pinhole cameras and voxel grids in numpy float64, without ROS."""

from occ_perception.geometry.cameras import ImageAffine, project_points, scale_intrinsics
from occ_perception.geometry.transforms import (
    Float64,
    interpolate_transform,
    invert_transform,
    matrix_from_pose,
    pose_from_matrix,
    relative_motion,
    require_rigid,
    transform_points,
)
from occ_perception.geometry.voxels import VoxelGrid

__all__ = [
    "Float64",
    "ImageAffine",
    "VoxelGrid",
    "interpolate_transform",
    "invert_transform",
    "matrix_from_pose",
    "pose_from_matrix",
    "project_points",
    "relative_motion",
    "require_rigid",
    "scale_intrinsics",
    "transform_points",
]
