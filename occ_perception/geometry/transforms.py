"""Rigid transforms as 4x4 float64 matrices.

Naming: ``a_T_b`` maps homogeneous column vectors from frame b to frame a, so
``a_T_c = a_T_b @ b_T_c``. Quaternions are in ROS order (x, y, z, w); metres and radians.

SciPy is imported inside the functions that convert rotations, because networks are benchmarked on
machines without it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64 = NDArray[np.float64]

# A quaternion further from unit norm than this is not a rotation. Quaternions stored as float32 are
# off by 1e-7, hand-typed ones by about 1e-3.
_UNIT_NORM_TOLERANCE = 1e-2

# Hand-typed rotation matrices have three or four digits.
_ORTHONORMAL_TOLERANCE = 5e-3


def matrix_from_pose(translation: ArrayLike, quaternion_xyzw: ArrayLike) -> Float64:
    """Build ``a_T_b`` (4, 4) from the pose of frame b in frame a.

    Args:
        translation: (3,) origin of b in a, metres.
        quaternion_xyzw: (4,) orientation of b in a, ROS order.

    Raises:
        ValueError: a value is not finite, or the quaternion is not of unit length within 1 %.
    """
    from scipy.spatial.transform import Rotation

    t = np.asarray(translation, dtype=np.float64).reshape(3)
    q = np.asarray(quaternion_xyzw, dtype=np.float64).reshape(4)
    if not (np.isfinite(t).all() and np.isfinite(q).all()):
        raise ValueError(f"pose is not finite: translation {t.tolist()}, quaternion {q.tolist()}")
    norm = float(np.linalg.norm(q))
    if abs(norm - 1.0) > _UNIT_NORM_TOLERANCE:
        raise ValueError(
            f"quaternion (x, y, z, w) = {q.tolist()} has length {norm:.4g}, expected 1; "
            "an unset orientation is (0, 0, 0, 1), not zeros"
        )
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat(q).as_matrix()
    matrix[:3, 3] = t
    return matrix


def require_rigid(a_T_b: ArrayLike, name: str) -> None:
    """Refuse a matrix that is not a rigid transform (4, 4).

    Raises:
        ValueError: wrong shape, not finite, or not a rotation with a translation in the last
            column; the text contains ``name``.
    """
    matrix = np.asarray(a_T_b, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(
            f"{name} must be a finite (4, 4) matrix, got shape {matrix.shape}: {matrix.tolist()}"
        )
    rotation = matrix[:3, :3]
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        fault = f"its last row is {matrix[3].tolist()}, expected [0, 0, 0, 1]; is it transposed?"
    elif np.abs(rotation @ rotation.T - np.eye(3)).max() > _ORTHONORMAL_TOLERANCE:
        fault = f"its rows are not orthonormal: {rotation.tolist()}"
    elif np.linalg.det(rotation) < 0:
        fault = f"it mirrors (determinant -1): {rotation.tolist()}"
    else:
        return
    raise ValueError(f"{name} is not a rigid transform: {fault}")


def pose_from_matrix(a_T_b: ArrayLike) -> tuple[Float64, Float64]:
    """Translation (3,) and quaternion (x, y, z, w) of a 4x4 rigid transform, w >= 0."""
    from scipy.spatial.transform import Rotation

    matrix = np.asarray(a_T_b, dtype=np.float64)
    quaternion = Rotation.from_matrix(matrix[:3, :3]).as_quat()
    if quaternion[3] < 0:
        quaternion = -quaternion
    return matrix[:3, 3].copy(), quaternion


def invert_transform(a_T_b: ArrayLike) -> Float64:
    """``b_T_a`` for rigid ``a_T_b`` (..., 4, 4), using the transpose of the rotation."""
    matrix = np.asarray(a_T_b, dtype=np.float64)
    inverse = np.zeros_like(matrix)
    rotation_t = np.swapaxes(matrix[..., :3, :3], -1, -2)
    inverse[..., :3, :3] = rotation_t
    inverse[..., :3, 3] = -np.einsum("...ij,...j->...i", rotation_t, matrix[..., :3, 3])
    inverse[..., 3, 3] = 1.0
    return inverse


def transform_points(a_T_b: ArrayLike, points_b: ArrayLike) -> Float64:
    """Map points (..., 3) from frame b to frame a."""
    matrix = np.asarray(a_T_b, dtype=np.float64)
    points = np.asarray(points_b, dtype=np.float64)
    moved: Float64 = points @ matrix[:3, :3].T + matrix[:3, 3]
    return moved


def interpolate_transform(a_T_b0: ArrayLike, a_T_b1: ArrayLike, fraction: float) -> Float64:
    """Pose between two poses: linear in translation, slerp in rotation.

    Args:
        a_T_b0: (4, 4) pose at fraction 0.
        a_T_b1: (4, 4) pose at fraction 1.
        fraction: position between the poses; outside [0, 1] extrapolates at constant velocity.
    """
    from scipy.spatial.transform import Rotation

    first = np.asarray(a_T_b0, dtype=np.float64)
    second = np.asarray(a_T_b1, dtype=np.float64)
    start = Rotation.from_matrix(first[:3, :3])
    # Slerp is a rotation at constant rate about the fixed axis of the relative rotation.
    turn = (start.inv() * Rotation.from_matrix(second[:3, :3])).as_rotvec()
    result = np.eye(4)
    result[:3, :3] = (start * Rotation.from_rotvec(fraction * turn)).as_matrix()
    result[:3, 3] = first[:3, 3] + fraction * (second[:3, 3] - first[:3, 3])
    return result


def relative_motion(world_T_previous: ArrayLike, world_T_current: ArrayLike) -> Float64:
    """``previous_T_current`` (4, 4): maps points of the current ego frame to the previous one."""
    return invert_transform(world_T_previous) @ np.asarray(world_T_current, dtype=np.float64)
