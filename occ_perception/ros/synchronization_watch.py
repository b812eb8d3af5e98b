"""Watches how images become frame sets: the diagnostics status, and what the log states."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.ros.diagnostics import OK, WARN, Status
from occ_perception.ros.parameters import NodeParameters
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters
from occ_perception.sensing.input_plan import InputPlan

_SILENT_S = 1.0
"""A camera without an image for so long is not late but silent, which its own status states."""


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
        self._last_frame_set_at: float | None = None
        self._last_missing: tuple[str, ...] = ()
        self._incomplete_reported = 0
        self._tolerance_logged_ns = 0

    def reset(self) -> None:
        """Forget the images, after a jump back in time."""
        self._newest.clear()

    def saw_image(self, camera: str, stamp_ns: int) -> None:
        """Note an image."""
        self._newest[camera] = (stamp_ns, time.monotonic())

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
        reference = self._plan.reference_camera
        if camera not in self._newest or reference not in self._newest:
            return ""
        stamp_ns, at = self._newest[camera]
        behind_ms = (self._newest[reference][0] - stamp_ns) / 1e6
        if time.monotonic() - at > _SILENT_S or abs(behind_ms) <= self._deadline_ms:
            return ""
        order = "behind" if behind_ms > 0 else "ahead of"
        return (
            f"; the newest stamp of {camera} is {abs(behind_ms) / 1e3:.3f} s {order} that of "
            f"{reference}: its images come too late (sync.deadline_ms is {self._deadline_ms:g}) "
            "or its clock is wrong"
        )

    def _why_none(self, stale_after_s: float) -> str:
        reference = self._plan.reference_camera
        if reference not in self._newest:
            return f"no image of the reference camera {reference} yet"
        silent_s = time.monotonic() - self._newest[reference][1]
        if silent_s > stale_after_s:
            return f"no image of the reference camera {reference} for {silent_s:.1f} s"
        return (
            f"stamps of one frame set must lie within {self._policy.tolerance_ns / 1e6:g} ms "
            "(sync.tolerance_ms)"
        )
