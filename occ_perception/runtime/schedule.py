"""When a frame enters the temporal history, and what ends a history.

Checkpoints were trained on frames about half a second apart and count frames, not seconds. A camera
frame set may come at any rate, so the schedule picks the frame set nearest to each due time. It
keeps nothing itself: what it must remember is a :class:`History` value that the stream owns.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

import numpy as np

from occ_perception.errors import OptionError
from occ_perception.geometry import Float64, relative_motion

# Frame set intervals looked at to predict the next one. A few, so that one lost frame set does not
# look like a slower camera.
_REMEMBERED_INTERVALS = 5


@dataclass(frozen=True, eq=False)
class FrameInfo:
    """When and where a frame was taken, and what it must share with its history.

    Attributes:
        stamp_ns: stamp of the reference camera.
        world_T_ego: (4, 4) ego pose at that stamp.
        sequence: id of the recording.
        rig_fingerprint: equal for equal calibrations.
    """

    stamp_ns: int
    world_T_ego: Float64
    sequence: str = ""
    rig_fingerprint: str = ""


@dataclass(frozen=True)
class HistoryLimits:
    """What a history survives.

    Attributes:
        max_gap_s: longest time since the last frame that entered the history; None is three
            spacings but at least 1.5 s, so that one lost keyframe is survived and two are not.
        max_speed_mps: fastest plausible ego motion, m/s.
        max_turn_rate_dps: fastest plausible turn, degrees per second.
        jump_slack_m, jump_slack_deg: corrections of a localisation that are always accepted.
    """

    max_gap_s: float | None = None
    max_speed_mps: float = 70.0
    max_turn_rate_dps: float = 120.0
    jump_slack_m: float = 1.0
    jump_slack_deg: float = 5.0


@dataclass(frozen=True, eq=False)
class History:
    """What is remembered between frames.

    Attributes:
        latest: the last frame that was seen.
        committed: the last frame that entered the history.
        length: how many frames entered it since it began.
        intervals_ns: the last few intervals between frames, newest last.
    """

    latest: FrameInfo
    committed: FrameInfo
    length: int
    intervals_ns: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Decision:
    """What to do with one frame.

    Attributes:
        start: the frame has no history: the network must not read its state.
        commit: the frame should enter the history.
        break_reason: why the history was dropped, "" where it was not (or there was none).
        history: what to remember once the frame has been taken.
    """

    start: bool
    commit: bool
    break_reason: str
    history: History


class HistorySchedule:
    """Decides, frame by frame, about commits and breaks.

    Args:
        spacing_s: wanted time between committed frames; 0 commits every frame.
        limits: what a history survives.
    """

    def __init__(self, spacing_s: float, limits: HistoryLimits | None = None) -> None:
        limits = limits or HistoryLimits()
        if not (math.isfinite(spacing_s) and spacing_s >= 0):
            raise OptionError(f"history spacing must be >= 0 s, got {spacing_s}")
        max_gap_s = max(3 * spacing_s, 1.5) if limits.max_gap_s is None else limits.max_gap_s
        if max_gap_s <= spacing_s:
            raise OptionError(
                f"history limit max_gap_s={max_gap_s} must exceed the spacing of {spacing_s} s; "
                "otherwise every frame would start a new history"
            )
        self.spacing_s = spacing_s
        self.max_gap_s = max_gap_s
        self.limits = limits

    def decide(self, history: History | None, now: FrameInfo) -> Decision:
        """What to do with the frame taken at ``now`` after ``history`` (None = nothing yet)."""
        if history is None:
            return Decision(True, True, "", History(now, now, 1))
        reason = self._break_reason(history, now)
        if reason:
            fresh = History(now, now, 1, history.intervals_ns)
            return Decision(True, True, reason, fresh)
        interval = now.stamp_ns - history.latest.stamp_ns
        intervals = history.intervals_ns
        if interval > 0:
            intervals = (*intervals, interval)[-_REMEMBERED_INTERVALS:]
        if self._is_due(now.stamp_ns - history.committed.stamp_ns, intervals):
            return Decision(False, True, "", History(now, now, history.length + 1, intervals))
        waiting = History(now, history.committed, history.length, intervals)
        return Decision(False, False, "", waiting)

    def _is_due(self, elapsed_ns: int, intervals_ns: tuple[int, ...]) -> bool:
        """Whether this frame is nearer to the due time than the next one will be."""
        if elapsed_ns == 0:  # the same frame set again
            return False
        expected_ns = statistics.median_low(intervals_ns)
        return elapsed_ns + expected_ns / 2 >= self.spacing_s * 1e9

    def _break_reason(self, history: History, now: FrameInfo) -> str:
        latest, limits = history.latest, self.limits
        if now.sequence != latest.sequence:
            return f"sequence changed from {latest.sequence!r} to {now.sequence!r}"
        if now.rig_fingerprint != latest.rig_fingerprint:
            return "camera calibration changed"
        interval_s = (now.stamp_ns - latest.stamp_ns) * 1e-9
        if interval_s < 0:
            return f"time went back by {-interval_s:.3f} s"
        gap_s = (now.stamp_ns - history.committed.stamp_ns) * 1e-9
        if gap_s > self.max_gap_s:
            return f"no frame entered the history for {gap_s:.3f} s, limit {self.max_gap_s:g} s"
        motion = relative_motion(latest.world_T_ego, now.world_T_ego)
        distance_m = float(np.linalg.norm(motion[:3, 3]))
        if distance_m > limits.max_speed_mps * interval_s + limits.jump_slack_m:
            return (
                f"ego pose jumped by {distance_m:.2f} m in {interval_s:.3f} s, "
                f"limit {limits.max_speed_mps:g} m/s"
            )
        turn_deg = _rotation_angle_deg(motion)
        if turn_deg > limits.max_turn_rate_dps * interval_s + limits.jump_slack_deg:
            return (
                f"ego pose turned by {turn_deg:.1f} deg in {interval_s:.3f} s, "
                f"limit {limits.max_turn_rate_dps:g} deg/s"
            )
        return ""


def _rotation_angle_deg(motion: Float64) -> float:
    """Angle of the rotation part of a (4, 4) transform, degrees."""
    cosine = (float(np.trace(motion[:3, :3])) - 1.0) / 2.0
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine))))
