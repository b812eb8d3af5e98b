"""Synchronization: groups images into frame sets and puts them into the worker's mailbox.

A frame set waits for the calibration; in the mailbox a newer one replaces an older one. Grouping
policies implement :class:`~.synchronization_watch.FrameSetPolicy`. None of them calls back while it
holds its lock, and none waits for the consumer.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from rclpy.clock import Clock
from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.errors import OccError
from occ_perception.frames import CameraRig
from occ_perception.ros.camera_inputs import ReceivedImage
from occ_perception.ros.diagnostics import Status
from occ_perception.ros.message_classes import time_message
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.synchronization_watch import FrameSetPolicy, SynchronizationWatch
from occ_perception.sensing.assembly import FrameError, LastImages
from occ_perception.sensing.camera_presence import CameraPresence
from occ_perception.sensing.camera_timing import UNOBSERVED_TOLERANCE_NS
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters, FrameSetGrouper
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump

_LOG_EVERY_S = 5.0

Item = TypeVar("Item")


class NativeSynchronizer:
    """The frame set rule of the bag reader for live images.

    Args:
        grouper: the rule, with tolerance and deadline.
        deliver: called with every frame set, complete or not, in the order of reference stamps.
        presence: its silent cameras are left out of frame sets; None to expect all cameras.
    """

    def __init__(
        self,
        grouper: FrameSetGrouper,
        deliver: Callable[[FrameSet], None],
        presence: CameraPresence | None = None,
    ) -> None:
        self._grouper = grouper
        self._deliver = deliver
        self._presence = presence
        self._lock = threading.Lock()

    @property
    def counters(self) -> FrameSetCounters:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        return self._grouper.counters

    @property
    def tolerance_ns(self) -> int:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        return self._grouper.tolerance_ns

    @property
    def observed_tolerance_ns(self) -> int | None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        return self._grouper.observed_tolerance_ns

    @property
    def masked(self) -> tuple[str, ...]:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        return () if self._presence is None else self._presence.silent

    @property
    def reference_camera(self) -> str:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        return self._grouper.reference_camera

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        frame_sets = []
        with self._lock:
            if self._presence is not None and self._presence.saw(camera, stamp_ns):
                frame_sets = self._grouper.expect(self._presence.present)
            frame_sets += self._grouper.add(camera, stamp_ns, payload, now_ns)
        for frame_set in frame_sets:
            self._deliver(frame_set)

    def tick(self, now_ns: int) -> None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        with self._lock:
            frame_sets = self._grouper.expire(now_ns)
        for frame_set in frame_sets:
            self._deliver(frame_set)

    def reset(self) -> None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        with self._lock:
            self._grouper.reset()
            if self._presence is not None:
                self._presence.reset()


class SyncPolicyError(OccError):
    """The chosen policy requires a package that is not installed."""


class MessageFiltersSynchronizer:
    """Groups with ApproximateTimeSynchronizer of the message_filters package, for comparison.

    It counts complete frame sets only and never delivers an incomplete one. ``tolerance_ns`` is an
    exclusive limit and never observed. This class adds the reset when time goes back.

    Raises:
        SyncPolicyError: message_filters is not installed.
    """

    def __init__(
        self,
        cameras: tuple[str, ...],
        reference_camera: str,
        tolerance_ns: int,
        deliver: Callable[[FrameSet], None],
    ) -> None:
        try:
            self._filters: Any = import_module("message_filters")
        except ImportError as error:
            raise SyncPolicyError(
                "sync.policy is message_filters, but that package is not importable "
                f"({error}); install ros-$ROS_DISTRO-message-filters or use sync.policy: native"
            ) from error
        self._cameras = cameras
        self.reference_camera = reference_camera
        self.masked: tuple[str, ...] = ()
        self.tolerance_ns = tolerance_ns
        self.observed_tolerance_ns: int | None = None
        self._deliver = deliver
        self._counters = FrameSetCounters()
        self._newest: dict[str, int] = {}
        self._closed: list[FrameSet] = []
        self._inputs: dict[str, Any] = {}
        self.reset()

    @property
    def counters(self) -> FrameSetCounters:
        """See :class:`~.synchronization_watch.FrameSetPolicy`; only ``complete`` is counted."""
        return self._counters

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:  # noqa: ARG002
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        newest = self._newest.get(camera, stamp_ns)
        if stamp_ns < newest - BACKWARD_JUMP_NS:
            raise TimeJump(camera, newest, stamp_ns)
        self._newest[camera] = max(newest, stamp_ns)
        self._inputs[camera].signalMessage(_Stamped(stamp_ns, payload))
        # The callback runs inside the synchronizer's lock and only stores the frame set.
        frame_sets, self._closed = self._closed, []
        for frame_set in frame_sets:
            self._deliver(frame_set)

    def tick(self, now_ns: int) -> None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`; this policy has no deadline."""

    def reset(self) -> None:
        """See :class:`~.synchronization_watch.FrameSetPolicy`."""
        self._newest.clear()
        self._closed.clear()
        self._inputs = {camera: self._filters.SimpleFilter() for camera in self._cameras}
        self._synchronizer = self._filters.ApproximateTimeSynchronizer(
            list(self._inputs.values()), queue_size=10, slop=self.tolerance_ns * 1e-9
        )
        self._synchronizer.registerCallback(self._on_set)

    def _on_set(self, *images: _Stamped) -> None:
        stamps = {c: p.stamp_ns for c, p in zip(self._cameras, images, strict=True)}
        self._counters.complete += 1
        self._closed.append(
            FrameSet(
                reference_camera=self.reference_camera,
                payloads={c: p.payload for c, p in zip(self._cameras, images, strict=True)},
                stamps_ns=stamps,
            )
        )


class _Stamped:
    """A message as message_filters requires it: with a header that has a stamp."""

    def __init__(self, stamp_ns: int, payload: Any) -> None:
        self.stamp_ns = stamp_ns
        self.payload = payload
        self.header = self
        self.stamp = time_message(stamp_ns)


@dataclass(frozen=True, eq=False)
class Job:
    """A frame set for the worker.

    Attributes:
        frame_set: images of every camera.
        rig: their calibration.
        closed_at: monotonic time in seconds when the frame set was complete; start of the
            measured latency.
    """

    frame_set: FrameSet
    rig: CameraRig
    closed_at: float


class FrameSetIntake:
    """Groups images into frame sets and puts complete ones into the worker's mailbox.

    A frame set that closes before the rig is known is held until then; a newer one replaces it.

    Args:
        plan: cameras and tolerance.
        values: policy, deadline, and the handling of frame sets with missing cameras.
        rig: returns the rig, None while it is not known.
        do_without: called with the cameras that frame sets do without, when they change.
        clock: clock of the ROS time.
        logger: logger of the node.

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
        do_without: Callable[[tuple[str, ...]], None],
        clock: Clock,
        logger: RcutilsLogger,
    ) -> None:
        self.jobs: Mailbox[Job] = Mailbox()
        self._plan = plan
        self._rig = rig
        self._do_without = do_without
        self._clock = clock
        self._logger = logger
        self._last_images = LastImages() if values.missing_camera == "reuse_last" else None
        self._deadline_ns = round(values.sync_deadline_ms * 1e6)
        self._frame_sets = self._policy(values)
        self._watch = SynchronizationWatch(plan, values, self._frame_sets, logger)
        self._held: FrameSet | None = None
        self._newest_rig: CameraRig | None = None
        self._masked: tuple[str, ...] = ()
        self._counts: Counter[str] = Counter()

    def add(self, camera: str, stamp_ns: int, image: ReceivedImage) -> None:
        """Take an image.

        Raises:
            TimeJump: its stamp went back by more than a second; the image was not taken.
        """
        now_ns = self._clock.now().nanoseconds
        self._frame_sets.add(camera, stamp_ns, image, now_ns)
        self._watch.saw_image(camera, stamp_ns, now_ns)

    def tick(self) -> None:
        """Close the frame sets whose deadline has passed."""
        self._frame_sets.tick(self._clock.now().nanoseconds)

    def reset(self) -> None:
        """Drop all images, after a jump back in time."""
        self._frame_sets.reset()
        self._watch.reset()
        self._held = None
        self._forget_last_images()

    def hand_over(self) -> None:
        """Give the newest frame set to the worker as soon as all calibrations are known.

        At start-up images may arrive before their camera_info. Call this whenever the rig may
        have changed.
        """
        frame_set, rig = self._held, self._rig()
        if rig is None:
            return
        if rig is not self._newest_rig:
            if self._newest_rig is not None:
                self._forget_last_images()  # they may have another size
            self._newest_rig = rig
        if frame_set is None:
            return
        self._held = None
        self._counts["taken"] += 1
        self._counts["taken_masked"] += bool(frame_set.masked)
        self._counts["last_spread_us"] = frame_set.spread_ns // 1000
        self.jobs.put(Job(frame_set, rig, time.monotonic()))

    def _forget_last_images(self) -> None:
        if self._last_images is not None:
            self._last_images.reset()

    def _on_frame_set(self, frame_set: FrameSet) -> None:
        self._watch.saw_frame_set(frame_set)
        if frame_set.masked != self._masked:
            self._masked = frame_set.masked
            self._do_without(frame_set.masked)
        # Done here because the worker does not see frame sets that newer ones overwrite.
        if self._last_images is not None:
            try:
                frame_set = self._last_images.complete(frame_set)
            except FrameError as error:
                text = f"frame set dropped: {error}"
                self._logger.warning(text, throttle_duration_sec=_LOG_EVERY_S)
        if frame_set.missing:
            self._counts["dropped_incomplete"] += 1
            return
        if self._held is not None:
            self._counts["dropped_without_calibration"] += 1
        self._held = frame_set
        self.hand_over()

    def status(self, stale_after_s: float, calibration_changes: int) -> Status:
        """The diagnostics status of the synchronization."""
        values = {
            "taken": self._counts["taken"],
            "taken_masked": self._counts["taken_masked"],
            "dropped_incomplete": self._counts["dropped_incomplete"],
            "dropped_without_calibration": self._counts["dropped_without_calibration"],
            "last_spread_ms": self._counts["last_spread_us"] / 1000,
            "calibration_changes": calibration_changes,
        }
        return self._watch.status(self._rig() is not None, stale_after_s, values)

    def _policy(self, values: NodeParameters) -> FrameSetPolicy:
        plan = self._plan
        cameras, reference = plan.layout.camera_names, plan.reference_camera
        if values.sync_policy == "message_filters":
            return MessageFiltersSynchronizer(
                cameras, reference, plan.tolerance_ns or UNOBSERVED_TOLERANCE_NS, self._on_frame_set
            )
        grouper = FrameSetGrouper(cameras, reference, plan.tolerance_ns, self._deadline_ns)
        presence = None
        if values.missing_camera == "mask":
            presence = CameraPresence(cameras, round(values.mask_after_s * 1e9))
        return NativeSynchronizer(grouper, self._on_frame_set, presence)


class Mailbox(Generic[Item]):
    """One slot between the callbacks and the worker; a new item replaces one not yet taken."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._item: Item | None = None
        self._closed = False
        self.overwritten = 0
        self.cleared = 0

    def put(self, item: Item) -> None:
        """Put an item; never blocks."""
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
        """Drop the item; it is counted."""
        with self._condition:
            self.cleared += self._item is not None
            self._item = None

    def close(self) -> None:
        """Wake the worker; :meth:`take` returns None from now on."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
