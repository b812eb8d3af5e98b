"""When frames enter the history and what breaks it, against what cameras and localisers do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from occ_perception.errors import OptionError
from occ_perception.runtime.schedule import FrameInfo, History, HistoryLimits, HistorySchedule


def pose(x_m: float = 0.0, yaw_deg: float = 0.0) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("z", yaw_deg, degrees=True).as_matrix()
    matrix[0, 3] = x_m
    return matrix


def moment(t_ms: float, x_m: float = 0.0, yaw_deg: float = 0.0, **others: str) -> FrameInfo:
    return FrameInfo(round(t_ms * 1e6), pose(x_m, yaw_deg), **others)


def commits(times_ms: list[float], spacing_s: float = 0.5) -> list[float]:
    """Times of the frames that enter the history when frame sets arrive at ``times_ms``."""
    schedule = HistorySchedule(spacing_s)
    history: History | None = None
    taken = []
    for t_ms in times_ms:
        decision = schedule.decide(history, moment(t_ms))
        assert not decision.break_reason
        if decision.commit:
            taken.append(t_ms)
        history = decision.history
        assert history.length == len(taken)
    return taken


def break_after(first: FrameInfo, then: FrameInfo, limits: HistoryLimits | None = None) -> str:
    schedule = HistorySchedule(0.5, limits)
    history = schedule.decide(None, first).history
    decision = schedule.decide(history, then)
    assert decision.start == bool(decision.break_reason)
    if decision.start:
        assert decision.commit and decision.history.length == 1
    return decision.break_reason


@pytest.mark.parametrize(("rate_hz", "every"), [(12, 6), (10, 5), (20, 10), (30, 15), (2, 1)])
def test_a_regular_frame_set_commits_every_nth_frame(rate_hz: int, every: int) -> None:
    times = [1000 * i / rate_hz for i in range(6 * every + 1)]
    assert commits(times) == times[::every]


def test_frame_sets_slower_than_the_spacing_are_all_committed() -> None:
    times = [1000.0 * i for i in range(6)]
    assert commits(times) == times


def test_zero_spacing_commits_every_frame_but_no_frame_twice() -> None:
    times = [0.0, 83.0, 83.0, 167.0]
    assert commits(times, spacing_s=0.0) == [0.0, 83.0, 167.0]


@given(st.lists(st.floats(399, 600), min_size=1, max_size=40))
def test_real_keyframes_are_all_committed(gaps_ms: list[float]) -> None:
    times = [0.0, *np.cumsum(gaps_ms)]
    assert commits(times) == times


@given(st.integers(0, 59), st.floats(0, 80))
def test_one_lost_frame_set_costs_at_most_that_frame_set(lost: int, offset_ms: float) -> None:
    """At 12 Hz, whichever frame set is lost, commits stay within half a frame set of half a second,
    or one frame set later where the due frame set itself is the lost one."""
    period = 1000 / 12
    times = [offset_ms + i * period for i in range(60) if i != lost]
    taken = commits(times)
    gaps = np.diff(taken)
    assert (gaps > 500 - period / 2 - 1e-3).all()
    assert (gaps < 500 + period + 1e-3).all()
    assert np.sum(np.abs(gaps - 500) > period / 2) <= 1


@settings(max_examples=200)
@given(st.lists(st.floats(20, 140), min_size=30, max_size=120))
def test_irregular_frame_sets_keep_the_mean_spacing_near_half_a_second(
    gaps_ms: list[float],
) -> None:
    times = [0.0, *np.cumsum(gaps_ms)]
    gaps = np.diff(commits(times))
    # A commit is early by at most half an expected interval, late by at most one real one.
    assert (gaps >= 500 - 70 - 1e-3).all()
    assert (gaps <= 500 + 140 + 1e-3).all()


def test_one_lost_keyframe_is_survived_and_two_are_not() -> None:
    assert break_after(moment(0), moment(1100)) == ""
    assert "1.600 s, limit 1.5 s" in break_after(moment(0), moment(1600))


def test_history_does_not_age_while_frame_sets_come_in() -> None:
    commits([i * 1000 / 12 for i in range(200)])  # 16 s; asserts that nothing breaks


def test_time_going_back_breaks_with_the_amount() -> None:
    assert break_after(moment(5000), moment(4917)) == "time went back by 0.083 s"
    assert break_after(moment(60_000), moment(0)) == "time went back by 60.000 s"


def test_the_same_stamp_again_neither_breaks_nor_commits() -> None:
    schedule = HistorySchedule(0.5)
    history = schedule.decide(None, moment(0)).history
    decision = schedule.decide(history, moment(0))
    assert (decision.start, decision.commit, decision.break_reason) == (False, False, "")


def test_sequence_and_calibration_changes_break_and_are_named() -> None:
    first = moment(0, sequence="scene-0103", rig_fingerprint="a")
    other_scene = moment(500, sequence="scene-0553", rig_fingerprint="a")
    other_rig = moment(500, sequence="scene-0103", rig_fingerprint="b")
    assert "'scene-0103' to 'scene-0553'" in break_after(first, other_scene)
    assert break_after(first, other_rig) == "camera calibration changed"


def test_pose_jumps_break_with_numbers() -> None:
    assert "jumped by 85.00 m in 0.083 s, limit 70 m/s" in break_after(moment(0), moment(83, 85))
    assert "turned by 170.0 deg in 0.100 s, limit 120 deg/s" in break_after(
        moment(0), moment(100, 0, 170)
    )


@given(
    speed_mps=st.floats(0, 60),
    turn_dps=st.floats(-90, 90),
    dt_ms=st.floats(1, 1400),
    correction_m=st.floats(0, 0.9),
)
def test_believable_driving_never_breaks(
    speed_mps: float, turn_dps: float, dt_ms: float, correction_m: float
) -> None:
    seconds = dt_ms / 1000
    then = moment(dt_ms, speed_mps * seconds + correction_m, turn_dps * seconds)
    assert break_after(moment(0), then) == ""


@given(shift_m=st.floats(-1e5, 1e5), yaw=st.floats(-180, 180), t0_ms=st.integers(0, 10**12))
def test_decisions_do_not_depend_on_the_world_frame_or_the_epoch(
    shift_m: float, yaw: float, t0_ms: int
) -> None:
    drive = [(i * 1000 / 12, i * 0.7, i * 0.3) for i in range(30)] + [(2600.0, 400.0, 0.0)]
    world = pose(shift_m, yaw)

    def decisions(t0: int, frame: np.ndarray) -> list[tuple[bool, bool, str]]:
        schedule, history, out = HistorySchedule(0.5), None, []
        for t_ms, x_m, yaw_deg in drive:
            now = FrameInfo(t0 * 10**6 + round(t_ms * 1e6), frame @ pose(x_m, yaw_deg))
            decision = schedule.decide(history, now)
            history = decision.history
            # Distances are printed to the centimetre, which far from the origin rounds.
            out.append((decision.start, decision.commit, decision.break_reason[:20]))
        return out

    here, there = decisions(0, np.eye(4)), decisions(t0_ms, world)
    assert here == there
    assert here[-1][2].startswith("ego pose jumped")


def test_a_break_forgets_everything_but_the_frame_set_rate() -> None:
    """After a scene change at 12 Hz the next commit is due half a second later, not at once."""
    schedule = HistorySchedule(0.5)
    history = None
    for i in range(8):
        history = schedule.decide(history, moment(i * 83.3, sequence="a")).history
    taken = []
    for i in range(8, 21):
        decision = schedule.decide(history, moment(i * 83.3, sequence="b"))
        history = decision.history
        if decision.commit:
            taken.append(i)
    assert taken == [8, 14, 20]


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(OptionError, match="spacing must be >= 0"):
        HistorySchedule(-0.5)
    with pytest.raises(OptionError, match="must exceed the spacing"):
        HistorySchedule(0.5, HistoryLimits(max_gap_s=0.4))


def test_limits_are_the_callers() -> None:
    strict = HistoryLimits(max_gap_s=0.6, max_speed_mps=10, jump_slack_m=0)
    assert "limit 0.6 s" in break_after(moment(0), moment(700), strict)
    assert "limit 10 m/s" in break_after(moment(0), moment(500, 6), strict)
    assert break_after(moment(0), moment(500, 4.9), strict) == ""
