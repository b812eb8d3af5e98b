"""What becomes of the pictures until the worker takes them: rings, and a mailbox of one slot."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.frames import CameraRig
from occ_perception.ros.camera_inputs import Picture
from occ_perception.ros.diagnostics import OK, WARN, Status
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.synchronizer import ring_policy
from occ_perception.sensing.assembly import FrameError, LastPictures
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.rings import Ring

_LOG_EVERY_S = 5.0

Item = TypeVar("Item")


@dataclass(frozen=True, eq=False)
class Job:
    """A ring for the worker.

    Attributes:
        ring: the pictures, of every camera.
        rig: their calibration.
        closed_at: monotonic seconds when the ring was complete; latency counts from here.
    """

    ring: Ring
    rig: CameraRig
    closed_at: float


class RingIntake:
    """Groups pictures into rings and leaves those of every camera in the worker's mailbox.

    A ring that closes before the rig is known is held until it is; a newer one replaces it.

    Args:
        plan: cameras and tolerance.
        values: policy, deadline, and what happens to rings without some camera.
        rig: gives the rig, None while it is not known.
        now_ns: ROS time.
        logger: of the node.

    Attributes:
        jobs: the mailbox.

    Raises:
        SyncPolicyError: the policy's package is not installed.
    """

    def __init__(
        self,
        plan: InputPlan,
        values: NodeParameters,
        rig: Callable[[], CameraRig | None],
        now_ns: Callable[[], int],
        logger: RcutilsLogger,
    ) -> None:
        self.jobs: Mailbox[Job] = Mailbox()
        self._plan = plan
        self._policy_name = values.sync_policy
        self._rig = rig
        self._now_ns = now_ns
        self._logger = logger
        self._last_pictures = LastPictures() if values.missing_camera == "reuse_last" else None
        deadline_ns = round(values.sync_deadline_ms * 1e6)
        self._rings = ring_policy(values.sync_policy, plan, deadline_ns, self._on_ring)
        self._held: Ring | None = None
        self._newest_rig: CameraRig | None = None
        self._counts: Counter[str] = Counter()
        self._last_ring_at: float | None = None
        self._last_missing: tuple[str, ...] = ()
        self._incomplete_reported = 0

    def add(self, camera: str, stamp_ns: int, picture: Picture) -> None:
        """Take a picture.

        Raises:
            TimeJump: its stamp went back by more than a second; nothing was taken.
        """
        self._rings.add(camera, stamp_ns, picture, self._now_ns())

    def tick(self) -> None:
        """Close the rings whose deadline has passed."""
        self._rings.tick(self._now_ns())

    def reset(self) -> None:
        """Time went back: forget all pictures."""
        self._rings.reset()
        self._held = None
        self._forget_last_pictures()

    def hand_over(self) -> None:
        """Give the newest ring to the worker as soon as all calibrations are known.

        At the start pictures and their camera_info race each other on different topics. To be
        called whenever the rig may have changed.
        """
        ring, rig = self._held, self._rig()
        if rig is None:
            return
        if rig is not self._newest_rig:
            if self._newest_rig is not None:
                self._forget_last_pictures()  # they may have another size
            self._newest_rig = rig
        if ring is None:
            return
        self._held = None
        self._counts["taken"] += 1
        self._counts["last_spread_us"] = ring.spread_ns // 1000
        self.jobs.put(Job(ring, rig, time.monotonic()))

    def _forget_last_pictures(self) -> None:
        if self._last_pictures is not None:
            self._last_pictures.reset()

    def _on_ring(self, ring: Ring) -> None:
        self._last_ring_at = time.monotonic()
        if ring.missing:
            self._last_missing = ring.missing
        # Here and not in the worker, which does not see the rings that newer ones overwrite.
        if self._last_pictures is not None:
            try:
                ring = self._last_pictures.complete(ring)
            except FrameError as error:
                text = f"ring dropped: {error}"
                self._logger.warning(text, throttle_duration_sec=_LOG_EVERY_S)
        if ring.missing:
            self._counts["dropped_incomplete"] += 1
            return
        if self._held is not None:
            self._counts["dropped_without_calibration"] += 1
        self._held = ring
        self.hand_over()

    def status(self, stale_after_s: float, calibration_changes: int) -> Status:
        """The line about synchronization in the diagnostics."""
        counters = self._rings.counters
        incomplete = counters.incomplete - self._incomplete_reported
        self._incomplete_reported = counters.incomplete
        silent_s = None if self._last_ring_at is None else time.monotonic() - self._last_ring_at
        level, text = OK, "rings are complete"
        if incomplete:
            level = WARN
            text = f"{incomplete} rings without {', '.join(self._last_missing)} since last report"
        elif silent_s is None or silent_s > stale_after_s:
            level = WARN
            since = "yet" if silent_s is None else f"for {silent_s:.1f} s"
            text = (
                f"no ring {since}; stamps of one ring must lie within "
                f"{self._plan.tolerance_ns / 1e6:g} ms (sync.tolerance_ms)"
            )
        elif self._rig() is None:
            level, text = WARN, "rings wait until all calibrations are known"
        values = {
            "policy": self._policy_name,
            **vars(counters),
            "taken": self._counts["taken"],
            "dropped_incomplete": self._counts["dropped_incomplete"],
            "dropped_without_calibration": self._counts["dropped_without_calibration"],
            "last_spread_ms": self._counts["last_spread_us"] / 1000,
            "last_missing": ", ".join(self._last_missing),
            "calibration_changes": calibration_changes,
        }
        return Status("synchronization", level, text, values)


class Mailbox(Generic[Item]):
    """One slot between the callbacks and the worker; a newer item replaces one not yet taken."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.overwritten = 0

    def put(self, item: Item) -> None:
        """Leave an item; never waits."""
        with self._condition:
            if self._item is not None:
                self.overwritten += 1
            self._item = item
            self._condition.notify()

    def take(self) -> Item | None:
        """Wait for an item; None once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return None if self._closed else item

    def clear(self) -> None:
        """Throw away what lies there."""
        with self._condition:
            self._item = None

    def close(self) -> None:
        """Wake the worker for the last time."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
