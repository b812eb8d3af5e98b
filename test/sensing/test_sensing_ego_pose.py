"""Stamps that a pose buffer refuses, and its error messages."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.sensing.ego_pose import PoseBuffer, PoseNotYet, PoseUnavailable
from occ_perception.sensing.time_jumps import TimeJump

MS = 1_000_000


def pose(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def buffer_at(*stamps_ms: float, **limits) -> PoseBuffer:
    """Poses of a vehicle that drives 1 m per 100 ms."""
    buffer = PoseBuffer(**limits)
    for stamp in stamps_ms:
        buffer.add(round(stamp * MS), pose(stamp / 100))
    return buffer


def test_empty_buffer_may_still_be_filled():
    with pytest.raises(PoseNotYet, match="none received yet") as error:
        PoseBuffer().at(0)
    assert error.value.too_early_to_tell
    assert not PoseBuffer().settled(0)


def test_a_stamp_far_ahead_is_not_yet_available_by_a_stated_amount():
    buffer = buffer_at(0, 100)
    assert buffer.at(150 * MS)[0, 3] == pytest.approx(1.5)
    with pytest.raises(PoseNotYet, match=r"150.100 s|0.150 s is 50.1 ms newer"):
        buffer.at(round(150.1 * MS))
    assert buffer.settled(100 * MS) and not buffer.settled(100 * MS + 1)


def test_a_single_pose_is_not_extrapolated():
    for stamp in (-10, 10):
        with pytest.raises(PoseNotYet):
            buffer_at(0).at(stamp * MS)
    assert buffer_at(0).at(0)[0, 3] == 0


def test_before_the_first_pose_there_is_none_and_none_will_come():
    buffer = buffer_at(1000, 1100)
    assert buffer.at(950 * MS)[0, 3] == pytest.approx(9.5)
    with pytest.raises(PoseUnavailable, match=r"51.0 ms older than the oldest") as error:
        buffer.at(949 * MS)
    assert not error.value.too_early_to_tell


def test_a_gap_is_bridged_up_to_the_limit():
    assert buffer_at(0, 600).at(300 * MS)[0, 3] == pytest.approx(3)
    with pytest.raises(PoseUnavailable, match="gap of 800 ms, longer than the 750 ms") as error:
        buffer_at(0, 800).at(400 * MS)
    assert not error.value.too_early_to_tell
    assert buffer_at(0, 800).at(800 * MS)[0, 3] == 8


def test_motion_is_not_extrapolated_from_poses_a_gap_apart():
    with pytest.raises(PoseNotYet):
        buffer_at(0, 800).at(810 * MS)
    with pytest.raises(PoseUnavailable, match="800 ms after it"):
        buffer_at(0, 800).at(-10 * MS)


def test_old_poses_are_dropped():
    buffer = buffer_at(*range(0, 30_000, 500), horizon_ns=10_000 * MS)
    assert buffer.span_ns == (19_500 * MS, 29_500 * MS)


def test_an_equal_stamp_replaces():
    buffer = buffer_at(0, 100)
    buffer.add(100 * MS, pose(7))
    assert buffer.at(100 * MS)[0, 3] == 7
    assert buffer.span_ns == (0, 100 * MS)


def test_returned_poses_do_not_share_memory():
    buffer = buffer_at(0, 100)
    buffer.at(0)[0, 3] = 99
    assert buffer.at(0)[0, 3] == 0


def test_time_going_back_is_reported_without_taking_the_pose():
    buffer = buffer_at(5000, 5100)
    buffer.add(4200 * MS, pose(42))
    with pytest.raises(TimeJump) as jump:
        buffer.add(4000 * MS, pose(0))
    assert (jump.value.from_ns, jump.value.to_ns) == (5100 * MS, 4000 * MS)
    assert buffer.span_ns == (4200 * MS, 5100 * MS)
    buffer.reset()
    buffer.add(4000 * MS, pose(0))
    assert buffer.span_ns == (4000 * MS, 4000 * MS)
