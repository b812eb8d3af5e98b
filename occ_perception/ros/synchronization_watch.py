"""Watches how images become frame sets: the diagnostics status, and what the log states."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Protocol

from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.ros.diagnostics import OK, WARN, Status
from occ_perception.ros.parameters import NodeParameters
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters
from occ_perception.sensing.input_plan import InputPlan

_SILENT_S = 1.0
"""A camera without an image for so long is not late but silent, which its own status states."""

_KEPT_IMAGES = 64
"""Arrivals kept per camera: as many as come within seconds."""

_JUDGED_IMAGES = 8
"""Newest images of a camera whose delay is looked at."""

_RECENT_IMAGES = 4
"""A pause before the newest of them explains why there is no frame set yet."""

_DEADLINE_STEP_MS = 50
_LATEST_MS = 1000
"""Images that seem to come later than this have a wrong clock."""


class FrameSetPolicy(Protocol):
    """Groups images into frame sets. Stamps in nanoseconds, ``now_ns`` in ROS time."""

    @property
    def counters(self) -> FrameSetCounters:
        """Counts of images and frame sets."""

    @property
    def tolerance_ns(self) -> int:
        """Largest spread of a frame set at present."""

    @property
    def observed_tolerance_ns(self) -> int | None:
        """The tolerance, if it was observed."""

    @property
    def masked(self) -> tuple[str, ...]:
        """Silent cameras that frame sets do without."""

    @property
    def reference_camera(self) -> str:
        """The camera that frame sets have their stamp from at present."""

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """Take an image; raises TimeJump if stamps went back by more than a second."""

    def tick(self, now_ns: int) -> None:
        """Close the frame sets whose deadline has passed."""

    def reset(self) -> None:
        """Drop all images."""


class SynchronizationWatch:
    """Keeps what the diagnostics report about the synchronization.

    Args:
        plan: cameras and tolerance.
        values: policy and deadline.
        policy: what is watched.
        logger: logger of the node.
    """

    def __init__(
        self,
        plan: InputPlan,
        values: NodeParameters,
        policy: FrameSetPolicy,
        logger: RcutilsLogger,
    ) -> None:
        self._plan = plan
        self._policy_name = values.sync_policy
        self._deadline_ms = values.sync_deadline_ms
        self._policy = policy
        self._logger = logger
        self._newest: dict[str, tuple[int, float]] = {}
        """Camera -> stamp of its newest image, and monotonic time of its arrival."""
        self._arrivals: dict[str, deque[tuple[int, int]]] = {}
        """Camera -> stamps of its images, and when they arrived in ROS time."""
        self._last_frame_set_at: float | None = None
        self._last_missing: tuple[str, ...] = ()
        self._incomplete_reported = 0
        self._tolerance_logged_ns = 0

    def reset(self) -> None:
        """Forget the images, after a jump back in time."""
        self._newest.clear()
        self._arrivals.clear()

    def saw_image(self, camera: str, stamp_ns: int, now_ns: int) -> None:
        """Note an image that arrived at ``now_ns``, ROS time."""
        self._newest[camera] = (stamp_ns, time.monotonic())
        arrivals = self._arrivals.setdefault(camera, deque(maxlen=_KEPT_IMAGES))
        arrivals.append((stamp_ns, now_ns))

    def saw_frame_set(self, frame_set: FrameSet) -> None:
        """Note a frame set; logs the observed tolerance when it is new."""
        self._last_frame_set_at = time.monotonic()
        if frame_set.missing:
            self._last_missing = frame_set.missing
        observed, logged = self._policy.observed_tolerance_ns, self._tolerance_logged_ns
        if observed is not None and abs(observed - logged) > logged // 4:
            self._tolerance_logged_ns = observed
            self._logger.info(
                f"stamps of one frame set may be {observed / 1e6:.1f} ms apart, as observed from "
                "the cameras' periods and phases; sync.tolerance_ms sets another limit"
            )

    def status(
        self, has_rig: bool, stale_after_s: float, more_values: Mapping[str, object]
    ) -> Status:
        """The diagnostics status of the synchronization."""
        counters = self._policy.counters
        incomplete = counters.incomplete - self._incomplete_reported
        self._incomplete_reported = counters.incomplete
        silent_s = (
            None if self._last_frame_set_at is None else time.monotonic() - self._last_frame_set_at
        )
        level, text = OK, "frame sets are complete"
        if incomplete:
            level = WARN
            text = (
                f"{incomplete} frame sets without {', '.join(self._last_missing)} since last "
                f"report{''.join(map(self._why_missing, self._last_missing))}"
            )
        elif silent_s is None or silent_s > stale_after_s:
            level = WARN
            since = "yet" if silent_s is None else f"for {silent_s:.1f} s"
            text = f"no frame set {since}; {self._why_none(stale_after_s)}"
        elif not has_rig:
            level, text = WARN, "frame sets wait until all calibrations are known"
        elif self._policy.masked:
            level, text = WARN, self._without_masked()
        values = {
            "policy": self._policy_name,
            "tolerance_ms": self._policy.tolerance_ns / 1e6,
            "tolerance_from": self._tolerance_from(),
            **vars(counters),
            **more_values,
            "last_missing": ", ".join(self._last_missing),
            "masked": ", ".join(self._policy.masked),
            "reference_camera": self._policy.reference_camera,
        }
        return Status("synchronization", level, text, values)

    def _without_masked(self) -> str:
        text = f"frame sets do without {', '.join(self._policy.masked)} until images come again"
        reference = self._policy.reference_camera
        if reference != self._plan.reference_camera:
            text += f"; the grid has the time of {reference}"
        return text

    def _tolerance_from(self) -> str:
        if self._plan.tolerance_ns is not None:
            return "given"
        return "default" if self._policy.observed_tolerance_ns is None else "observed"

    def _why_missing(self, camera: str) -> str:
        """What is wrong with a camera whose images come but are in no frame set."""
        reference = self._policy.reference_camera
        if camera not in self._newest or reference not in self._newest or camera == reference:
            return ""
        if time.monotonic() - self._newest[camera][1] > _SILENT_S:
            return ""
        waited_ms = self._longest_wait_ms(camera, reference)
        is_late = waited_ms <= _LATEST_MS
        if is_late and waited_ms > self._deadline_ms:
            enough_ms = (1.25 * waited_ms // _DEADLINE_STEP_MS + 1) * _DEADLINE_STEP_MS
            return (
                f"; images of {camera} come {waited_ms:.0f} ms after those of {reference} with the "
                f"same stamp: sync.deadline_ms: {enough_ms:g} would wait for them (it is "
                f"{self._deadline_ms:g}), unless its clock is behind"
            )
        behind_ms = self._clock_behind_ms(camera, reference)
        if not is_late and abs(behind_ms) > self._policy.tolerance_ns / 1e6:
            order = "behind" if behind_ms > 0 else "ahead of"
            return (
                f"; the stamps of {camera} are {abs(behind_ms) / 1e3:.3f} s {order} those of "
                f"{reference}: its clock is wrong; synchronise it (PTP, NTP), or use stamp_source: "
                "receive"
            )
        return ""

    def _longest_wait_ms(self, camera: str, reference: str) -> float:
        """How long after the reference images of their frame sets a camera's images came.

        Infinite if none of them has the stamp of a reference image that came before.
        """
        waits_ns: list[int] = []
        for stamp_ns, at_ns in list(self._arrivals[camera])[-_JUDGED_IMAGES:]:
            earlier = [(abs(r - stamp_ns), t) for r, t in self._arrivals[reference] if t <= at_ns]
            apart_ns, reference_at_ns = min(earlier, default=(stamp_ns, at_ns))
            if apart_ns <= self._policy.tolerance_ns:
                waits_ns.append(at_ns - reference_at_ns)
        return max(waits_ns, default=math.inf) / 1e6

    def _clock_behind_ms(self, camera: str, reference: str) -> float:
        """How far a camera's stamps are behind those of images that arrive at the same time."""
        stamp_ns, at_ns = self._arrivals[camera][-1]
        reference_ns, reference_at_ns = self._arrivals[reference][-1]
        return ((reference_ns - stamp_ns) - (reference_at_ns - at_ns)) / 1e6

    def _why_none(self, stale_after_s: float) -> str:
        reference = self._policy.reference_camera
        if reference not in self._newest:
            return f"no image of the reference camera {reference} yet"
        silent_s = time.monotonic() - self._newest[reference][1]
        if silent_s > stale_after_s:
            return f"no image of the reference camera {reference} for {silent_s:.1f} s"
        silent = [
            camera
            for camera, (_, at) in self._newest.items()
            if time.monotonic() - at > stale_after_s
        ]
        if silent:
            return f"no image of {', '.join(silent)} for more than {stale_after_s:g} s"
        if self._has_just_come_back(reference, stale_after_s):
            return f"images of the reference camera {reference} have just begun to come again"
        return (
            f"stamps of one frame set must lie within {self._policy.tolerance_ns / 1e6:g} ms "
            "(sync.tolerance_ms)"
        )

    def _has_just_come_back(self, camera: str, stale_after_s: float) -> bool:
        """Whether there is a pause between the newest images of a camera."""
        times_ns = [at_ns for _, at_ns in self._arrivals[camera]][-_RECENT_IMAGES:]
        pauses = (later - earlier for earlier, later in pairwise(times_ns))
        return any(pause_ns > 1e9 * stale_after_s for pause_ns in pauses)
