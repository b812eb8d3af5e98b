"""The history warp against a loop in plain Python, and its conventions one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from occ_perception.ops.backend import (
    linear_corners,
    moved_voxels,
    sample_rows,
    voxel_frame,
    voxel_motion,
)

LOWER, STEP = (-4.0, -3.0, -1.0), (0.5, 0.4, 0.8)


def sample_voxels(features, voxels):
    """Features (B, C, Y, X[, Z]) at places (B, Y, X[, Z], 2 or 3)."""
    corners = linear_corners(voxels.flatten(1, -2), tuple(features.shape[2:]))
    return sample_rows(features.flatten(2).mT, corners).mT.view(features.shape)


def motion_matrix(yaw=0.0, pitch=0.0, shift=(0.0, 0.0, 0.0)):
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    matrix = np.eye(4)
    matrix[:3, :3] = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array(
        [[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]]
    )
    matrix[:3, 3] = shift
    return matrix


def interpolate(volume, q):
    """Linear interpolation of a numpy array at q (one coordinate per axis), zero outside."""
    total = 0.0
    for corner in np.ndindex(*[2] * len(q)):
        index = [math.floor(a) + bit for a, bit in zip(q, corner, strict=True)]
        share = np.prod([1 - abs(a - i) for a, i in zip(q, index, strict=True)])
        if all(0 <= i < n for i, n in zip(index, volume.shape, strict=True)):
            total += share * volume[tuple(index)]
    return total


MOTIONS = [motion_matrix(0.1, 0.02, (1.3, -0.4, 0.1)), motion_matrix(-1.2, 0.0, (0.0, 2.0, 0.0))]


@pytest.mark.parametrize("motion", MOTIONS)
def test_volume_equals_the_loop(motion):
    X, Y, Z = dims = (7, 5, 4)
    volume = torch.randn(1, 1, Y, X, Z)
    M = voxel_motion(torch.from_numpy(motion)[None], voxel_frame(LOWER, STEP, flat=False))
    got = sample_voxels(volume, moved_voxels(M, dims, flat=False))
    for x, y, z in np.ndindex(*dims):
        metres = np.array([*(np.array(LOWER) + np.array([x, y, z]) * STEP), 1.0])
        qx, qy, qz = ((motion @ metres)[:3] - LOWER) / STEP
        expected = interpolate(volume[0, 0].numpy(), (qy, qx, qz))
        assert got[0, 0, y, x, z].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("motion", MOTIONS)
def test_map_equals_the_loop_with_its_plane_one_metre_up(motion):
    X, Y, _ = dims = (7, 5, 1)
    features = torch.randn(1, 1, Y, X)
    M = voxel_motion(torch.from_numpy(motion)[None], voxel_frame(LOWER, STEP, flat=True))
    got = sample_voxels(features, moved_voxels(M, dims, flat=True))
    for x, y in np.ndindex(X, Y):
        metres = np.array([LOWER[0] + x * STEP[0], LOWER[1] + y * STEP[1], 1.0, 1.0])
        qx, qy = ((motion @ metres)[:2] - LOWER[:2]) / STEP[:2]
        expected = interpolate(features[0, 0].numpy(), (qy, qx))
        assert got[0, 0, y, x].item() == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("flat", [True, False])
def test_standing_still_changes_nothing(flat):
    dims = (6, 4, 1 if flat else 3)
    shape = (2, 3, 4, 6) if flat else (2, 3, 4, 6, 3)
    features = torch.randn(shape)
    still = torch.eye(4, dtype=torch.float64).expand(2, 4, 4)
    voxels = moved_voxels(voxel_motion(still, voxel_frame(LOWER, STEP, flat)), dims, flat)
    torch.testing.assert_close(sample_voxels(features, voxels), features, atol=1e-5, rtol=1e-5)


def test_driving_one_voxel_forward_shifts_the_past_one_voxel_back():
    past = torch.arange(6.0).expand(1, 1, 4, 6).contiguous()
    forward = torch.from_numpy(motion_matrix(shift=(STEP[0], 0, 0)))[None]
    M = voxel_motion(forward, voxel_frame(LOWER, STEP, flat=True))
    voxels = moved_voxels(M, (6, 4, 1), flat=True)
    expected = torch.tensor([1.0, 2, 3, 4, 5, 0]).expand(1, 1, 4, 6)
    torch.testing.assert_close(sample_voxels(past, voxels), expected, atol=1e-5, rtol=0)


def test_pitch_moves_a_map_because_its_plane_lies_above_the_axis():
    pitch = torch.from_numpy(motion_matrix(pitch=0.1))[None]
    M = voxel_motion(pitch, voxel_frame(LOWER, STEP, flat=True))
    voxels = moved_voxels(M, (3, 3, 1), flat=True)
    x0 = LOWER[0] * math.cos(0.1) + 1.0 * math.sin(0.1)
    assert voxels[0, 0, 0, 1].item() == pytest.approx((x0 - LOWER[0]) / STEP[0], abs=1e-5)
