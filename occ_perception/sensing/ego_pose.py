"""The ego pose at the exposure of a camera: a buffer of poses with interpolation."""

from __future__ import annotations

from bisect import bisect_left
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from occ_perception.geometry import Float64, interpolate_transform
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump


class PoseUnavailable(LookupError):  # noqa: N818 - states a fact about a stamp
    """There is no pose for a stamp: it lies in a gap, or before all known poses.

    Attributes:
        too_early_to_tell: a pose may still arrive; waiting can help.
    """

    too_early_to_tell = False


class PoseNotYet(PoseUnavailable):
    """The stamp is newer than the known poses; a pose may still arrive."""

    too_early_to_tell = True


class EgoPoses(Protocol):
    """A source of ``world_T_ego`` over time: a :class:`PoseBuffer`, or a chain of frames in tf."""

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego`` at a stamp; raises :class:`PoseUnavailable`."""

    def settled(self, stamp_ns: int) -> bool:
        """Whether newer poses cannot change the result of :meth:`at` for this stamp."""


class PoseBuffer:
    """Poses of one frame in another over the last seconds.

    Between two poses translation is interpolated linearly and rotation by slerp. After the newest
    and before the oldest pose, the motion of the neighbouring ``max_extrapolation_ns`` is continued
    at constant velocity, for at most ``max_extrapolation_ns``.

    Args:
        max_extrapolation_ns: longest extrapolation outside the known span.
        max_gap_ns: longest gap between two poses that is interpolated across. The default accepts
            poses at nuScenes keyframes (0.4 to 0.6 s apart) and rejects a lost second.
        horizon_ns: poses older than the newest one by more than this are dropped.
        name: name of the poses in messages.
    """

    def __init__(
        self,
        max_extrapolation_ns: int = 50_000_000,
        max_gap_ns: int = 750_000_000,
        horizon_ns: int = 10_000_000_000,
        name: str = "ego pose",
    ) -> None:
        self.max_extrapolation_ns = max_extrapolation_ns
        self.max_gap_ns = max_gap_ns
        self.horizon_ns = horizon_ns
        self.name = name
        self.reset()

    def reset(self) -> None:
        """Drop all poses."""
        self._stamps: list[int] = []
        self._poses: list[Float64] = []

    @property
    def span_ns(self) -> tuple[int, int] | None:
        """Oldest and newest stamp; None while there is no pose."""
        return (self._stamps[0], self._stamps[-1]) if self._stamps else None

    def add(self, stamp_ns: int, world_T_ego: ArrayLike) -> None:
        """Add a pose (4, 4), in any order; a pose with an equal stamp is replaced.

        Raises:
            TimeJump: the stamp is more than 1 s older than the newest pose.
        """
        if self._stamps and stamp_ns < self._stamps[-1] - BACKWARD_JUMP_NS:
            raise TimeJump(self.name, self._stamps[-1], stamp_ns)
        pose = np.array(world_T_ego, dtype=np.float64)
        position = bisect_left(self._stamps, stamp_ns)
        if position < len(self._stamps) and self._stamps[position] == stamp_ns:
            self._poses[position] = pose
            return
        self._stamps.insert(position, stamp_ns)
        self._poses.insert(position, pose)
        forget = bisect_left(self._stamps, self._stamps[-1] - self.horizon_ns)
        del self._stamps[:forget], self._poses[:forget]

    def settled(self, stamp_ns: int) -> bool:
        """Whether newer poses cannot change the result of :meth:`at` for this stamp."""
        if not self._stamps:
            return False
        oldest, newest = self._stamps[0], self._stamps[-1]
        if stamp_ns >= oldest:
            return newest >= stamp_ns
        out_of_reach = stamp_ns < oldest - self.max_extrapolation_ns
        return out_of_reach or newest >= oldest + self.max_extrapolation_ns

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego``; if a pose has this stamp, exactly that pose.

        Raises:
            PoseNotYet: the stamp is newer than the newest pose by more than the extrapolation
                limit, or there are too few poses to extrapolate.
            PoseUnavailable: the stamp lies in a gap longer than ``max_gap_ns``, or before all
                poses.
        """
        if not self._stamps:
            raise PoseNotYet(f"{self.name}: none received yet")
        position = bisect_left(self._stamps, stamp_ns)
        if position < len(self._stamps) and self._stamps[position] == stamp_ns:
            return np.array(self._poses[position])
        if position == len(self._stamps):
            return self._after_newest(stamp_ns)
        if position == 0:
            return self._before_oldest(stamp_ns)
        gap = self._stamps[position] - self._stamps[position - 1]
        if gap > self.max_gap_ns:
            raise PoseUnavailable(
                f"{self.name}: stamp {stamp_ns / 1e9:.3f} s lies in a gap of {gap / 1e6:.0f} ms, "
                f"longer than the {self.max_gap_ns / 1e6:.0f} ms that may be bridged"
            )
        return self._between(position - 1, position, stamp_ns)

    def _after_newest(self, stamp_ns: int) -> Float64:
        newest = self._stamps[-1]
        ahead = stamp_ns - newest
        # The baseline is as long as the extrapolation: a baseline of a millisecond would amplify
        # the noise of its two poses.
        start = max(bisect_left(self._stamps, newest - self.max_extrapolation_ns + 1) - 1, 0)
        too_sparse = newest - self._stamps[start] > self.max_gap_ns
        if ahead > self.max_extrapolation_ns or len(self._stamps) < 2 or too_sparse:
            raise PoseNotYet(
                f"{self.name}: stamp {stamp_ns / 1e9:.3f} s is {ahead / 1e6:.1f} ms newer than the "
                f"newest pose; at most {self.max_extrapolation_ns / 1e6:.0f} ms are extrapolated, "
                f"from two poses or more (there are {len(self._stamps)})"
            )
        return self._between(start, len(self._stamps) - 1, stamp_ns)

    def _before_oldest(self, stamp_ns: int) -> Float64:
        oldest = self._stamps[0]
        behind = oldest - stamp_ns
        if behind > self.max_extrapolation_ns:
            raise PoseUnavailable(
                f"{self.name}: stamp {stamp_ns / 1e9:.3f} s is {behind / 1e6:.1f} ms older than "
                f"the oldest pose; at most {self.max_extrapolation_ns / 1e6:.0f} ms are "
                "extrapolated"
            )
        end = bisect_left(self._stamps, oldest + self.max_extrapolation_ns)
        if len(self._stamps) < 2 or end == len(self._stamps):
            if self._stamps[-1] == oldest:
                raise PoseNotYet(f"{self.name}: extrapolation needs two poses, there is one")
            end = len(self._stamps) - 1
        if self._stamps[end] - oldest > self.max_gap_ns:
            raise PoseUnavailable(
                f"{self.name}: stamp {stamp_ns / 1e9:.3f} s is older than the oldest pose, and the "
                f"next pose comes {(self._stamps[end] - oldest) / 1e6:.0f} ms after it"
            )
        return self._between(0, end, stamp_ns)

    def _between(self, first: int, second: int, stamp_ns: int) -> Float64:
        start, end = self._stamps[first], self._stamps[second]
        fraction = (stamp_ns - start) / (end - start)
        return interpolate_transform(self._poses[first], self._poses[second], fraction)
