"""Interpolated poses against motions known in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from occ_perception.sensing.ego_pose import PoseBuffer, PoseNotYet, PoseUnavailable

MS = 1_000_000
START = 1_533_151_603_512 * MS


def steady_motion(stamp_ns: int) -> np.ndarray:
    """Constant velocity and constant turn rate about a fixed axis."""
    t = (stamp_ns - START) / 1e9
    pose = np.eye(4)
    pose[:3, 3] = np.array([600.0, 1647.0, 0.0]) + t * np.array([8.0, -1.5, 0.2])
    turn = Rotation.from_rotvec(t * np.array([0.02, -0.01, 0.4]))
    pose[:3, :3] = (Rotation.from_euler("z", 1.1) * turn).as_matrix()
    return pose


offsets = st.lists(st.integers(0, 2_000), min_size=5, max_size=40, unique=True)


@given(offsets_ms=offsets, permille=st.integers(0, 1000))
@settings(max_examples=200, deadline=None)
def test_steady_motion_is_reproduced_between_and_just_beyond_the_poses(offsets_ms, permille):
    buffer = PoseBuffer(max_gap_ns=2_000 * MS)
    for offset in sorted(offsets_ms):
        buffer.add(START + offset * MS, steady_motion(START + offset * MS))
    first, last = buffer.span_ns
    stamp = first - 50 * MS + (last - first + 100 * MS) * permille // 1000
    np.testing.assert_allclose(buffer.at(stamp), steady_motion(stamp), atol=1e-9)


@given(offsets_ms=offsets, seed=st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_order_of_arrival_does_not_matter_and_exact_stamps_give_exact_poses(offsets_ms, seed):
    within_a_second = [offset // 3 for offset in offsets_ms]
    shuffled = np.random.default_rng(seed).permutation(within_a_second)
    buffer = PoseBuffer()
    for offset in shuffled:
        stamp = START + int(offset) * MS
        buffer.add(stamp, steady_motion(stamp))
    for offset in within_a_second:
        stamp = START + offset * MS
        np.testing.assert_array_equal(buffer.at(stamp), steady_motion(stamp))


@given(offsets_ms=offsets, stamp_ms=st.integers(-3_000, 5_000))
@settings(max_examples=200, deadline=None)
def test_what_is_settled_does_not_change_with_newer_poses(offsets_ms, stamp_ms):
    def pose_or_error(buffer):
        try:
            return buffer.at(START + stamp_ms * MS).tolist()
        except PoseUnavailable as error:
            return type(error)

    buffer, settled = PoseBuffer(), None
    for offset in sorted(offsets_ms):
        buffer.add(START + offset * MS, steady_motion(START + offset * MS))
        if settled is not None and settled is not PoseNotYet:
            assert pose_or_error(buffer) == settled
        elif buffer.settled(START + stamp_ms * MS):
            settled = pose_or_error(buffer)
            assert settled is not PoseNotYet


@pytest.mark.parametrize("noise_m", [0.001])
def test_extrapolation_does_not_multiply_noise_of_close_poses(noise_m):
    """Odometry of one converter has poses 1 ms apart; the baseline must be longer than that."""
    buffer = PoseBuffer()
    rng = np.random.default_rng(0)
    for offset in [*range(0, 400, 20), 399, 400]:
        pose = steady_motion(START + offset * MS)
        pose[:3, 3] += rng.normal(0, noise_m, 3)
        buffer.add(START + offset * MS, pose)
    stamp = START + 450 * MS
    error = buffer.at(stamp)[:3, 3] - steady_motion(stamp)[:3, 3]
    assert np.abs(error).max() < 10 * noise_m
