"""The simulated lidar of RayIoU: origins and directions of its rays.

Source: SparseOcc (arXiv 2312.17118), section on RayIoU. Rays are cast from several past and future
lidar poses of the same scene, so that regions hidden in the current frame count too.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from occ_perception.geometry import invert_transform

AZIMUTHS = 360
MAX_ORIGINS = 8
ORIGIN_RANGE_M = 39.0

# From 1 m height the ten lowest pitches hit the ground at 1 m, 2 m .. 10 m. Above them the pitch
# grows evenly. The last one exceeds the limit, because the reference code tests before it adds.
_GROUND_RINGS = 10
_PITCH_LIMIT = 0.21


def lidar_pitches() -> NDArray[np.float64]:
    """(39,) pitch angles in radians, upwards positive, ascending from -45 to +12.5 degrees."""
    pitches = [math.atan(ring + 1) - math.pi / 2 for ring in range(_GROUND_RINGS)]
    step = pitches[-1] - pitches[-2]
    while pitches[-1] < _PITCH_LIMIT:
        pitches.append(pitches[-1] + step)
    return np.array(pitches)


def lidar_directions() -> NDArray[np.float32]:
    """(14040, 3) unit directions in the ego frame: 39 pitches, each with 360 azimuths of 1 degree.

    Pitch is the slow index. Azimuth 0 is +x, 90 degrees +y.
    """
    pitch = lidar_pitches()[:, None]
    azimuth = np.deg2rad(np.arange(AZIMUTHS, dtype=np.float64))[None, :]
    directions = np.stack(
        np.broadcast_arrays(
            np.cos(pitch) * np.cos(azimuth), np.cos(pitch) * np.sin(azimuth), np.sin(pitch)
        ),
        axis=-1,
    )
    return directions.reshape(-1, 3).astype(np.float32)


def lidar_origins(
    world_T_ego: ArrayLike, ego_T_lidar: ArrayLike, index: int
) -> NDArray[np.float64]:
    """Ray origins of one keyframe: positions of the scene's lidar, in this keyframe's ego frame.

    Args:
        world_T_ego: (n, 4, 4) ego poses of all keyframes of the scene, in order, at lidar time.
        ego_T_lidar: (n, 4, 4) lidar extrinsics of the same keyframes.
        index: the keyframe to evaluate, 0..n-1.

    Returns:
        (T, 3) metres, 1 <= T <= 8: all positions less than 39 m ahead, behind or beside the
        vehicle (height does not matter), in the scene's order; of more than eight, eight evenly
        spread ones.

    Raises:
        ValueError: shapes differ or the index is out of range.
    """
    poses = np.asarray(world_T_ego, dtype=np.float64)
    extrinsics = np.asarray(ego_T_lidar, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or extrinsics.shape != poses.shape:
        raise ValueError(
            "expected ego poses and lidar extrinsics of one shape (keyframes, 4, 4), "
            f"got {poses.shape} and {extrinsics.shape}"
        )
    if not 0 <= index < len(poses):
        raise ValueError(f"keyframe {index} is not in a scene of {len(poses)} keyframes")
    world_T_lidar = poses @ extrinsics
    lidar_T_lidars = invert_transform(world_T_lidar[index]) @ world_T_lidar
    # The reference code stores these positions as float32, and the frame's own as exactly zero.
    positions = lidar_T_lidars[:, :3, 3].astype(np.float32).astype(np.float64)
    positions[index] = 0.0
    ego_T_this_lidar = extrinsics[index]
    origins: NDArray[np.float64] = positions @ ego_T_this_lidar[:3, :3].T + ego_T_this_lidar[:3, 3]
    near = np.all(np.abs(origins[:, :2]) < ORIGIN_RANGE_M, axis=1)
    origins = origins[near]
    if len(origins) > MAX_ORIGINS:
        spread = np.round(np.linspace(0, len(origins) - 1, MAX_ORIGINS)).astype(np.int64)
        origins = origins[spread]
    return origins
