"""The simulated lidar: beam pattern, and origins on a drive whose geometry is known."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.geometry import matrix_from_pose
from occ_perception.metrics import lidar_directions, lidar_origins
from occ_perception.metrics.rays import lidar_pitches


def yaw(x: float, y: float, angle: float, z: float = 0.0) -> np.ndarray:
    return matrix_from_pose((x, y, z), (0, 0, np.sin(angle / 2), np.cos(angle / 2)))


def drive(poses: list[np.ndarray], ego_T_lidar: np.ndarray):
    return np.stack(poses), np.stack([ego_T_lidar] * len(poses))


def test_directions_are_14040_distinct_unit_vectors_pitch_by_pitch():
    directions = lidar_directions()
    assert directions.shape == (39 * 360, 3) and directions.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1.0, atol=1e-7)
    assert len(np.unique(directions, axis=0)) == len(directions)
    rings = directions.reshape(39, 360, 3)
    np.testing.assert_allclose(rings[:, :, 2], np.sin(lidar_pitches())[:, None] * np.ones(360))
    np.testing.assert_allclose(
        np.rad2deg(np.arctan2(rings[20, :, 1], rings[20, :, 0])) % 360, np.arange(360), atol=1e-4
    )


def test_ten_lowest_rings_hit_the_ground_one_metre_apart():
    pitches = lidar_pitches()
    np.testing.assert_allclose(1 / np.tan(-pitches[:10]), np.arange(1, 11))
    steps = np.diff(pitches[9:])
    np.testing.assert_allclose(steps, steps[0])
    assert pitches[-2] < 0.21 <= pitches[-1]


def test_origins_are_the_lidar_positions_along_a_straight_drive():
    ego_T_lidar = yaw(0.9, 0.0, -np.pi / 2, z=1.8)
    poses, extrinsics = drive([yaw(100 + 5.0 * i, 7.0, 0.0) for i in range(5)], ego_T_lidar)
    origins = lidar_origins(poses, extrinsics, 2)
    expected = [[0.9 + 5.0 * (i - 2), 0.0, 1.8] for i in range(5)]
    np.testing.assert_allclose(origins, expected, atol=1e-6)
    np.testing.assert_array_equal(origins[2], ego_T_lidar[:3, 3])


def test_origins_39_m_away_are_dropped_and_at_most_eight_are_kept():
    poses, extrinsics = drive([yaw(10.0 * i, 0.0, 0.0) for i in range(12)], np.eye(4))
    origins = lidar_origins(poses, extrinsics, 6)
    np.testing.assert_allclose(origins[:, 0], [-30, -20, -10, 0, 10, 20, 30])
    poses, extrinsics = drive([yaw(0.5 * i, 0.0, 0.0) for i in range(20)], np.eye(4))
    origins = lidar_origins(poses, extrinsics, 0)
    rows = [0, 3, 5, 8, 11, 14, 16, 19]  # 19/7 i, rounded
    np.testing.assert_allclose(origins[:, 0], [0.5 * row for row in rows], atol=1e-6)


def test_height_does_not_exclude_an_origin():
    climb = [yaw(0.0, 0.0, 0.0), yaw(10.0, 0.0, 0.0, z=60.0)]
    poses, extrinsics = drive(climb, np.eye(4))
    np.testing.assert_allclose(lidar_origins(poses, extrinsics, 0), [[0, 0, 0], [10, 0, 60]])


def test_origins_do_not_depend_on_the_map_frame():
    rng = np.random.default_rng(2)
    path = [yaw(3.0 * i, 0.2 * i**2, 0.1 * i) for i in range(9)]
    poses, extrinsics = drive(path, yaw(0.9, 0.1, -1.5, z=1.8))
    quaternion = rng.normal(size=4)
    moved = matrix_from_pose((5, -3, 2), quaternion / np.linalg.norm(quaternion)) @ poses
    for index in range(9):
        np.testing.assert_allclose(
            lidar_origins(moved, extrinsics, index),
            lidar_origins(poses, extrinsics, index),
            atol=1e-5,
        )


def test_wrong_scenes_are_refused():
    poses, extrinsics = drive([np.eye(4)] * 3, np.eye(4))
    with pytest.raises(ValueError, match="keyframe 3"):
        lidar_origins(poses, extrinsics, 3)
    with pytest.raises(ValueError, match="one shape"):
        lidar_origins(poses, extrinsics[:2], 0)
