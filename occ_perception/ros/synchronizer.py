"""From single pictures to rings: the policies that group them.

Policies look alike to the node (:class:`RingPolicy`). None of them calls back while it holds its
lock, and none waits for the consumer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from occ_perception.errors import OccError
from occ_perception.ros.message_classes import time_message
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.rings import Ring, RingCounters, RingGrouper
from occ_perception.sensing.time_jumps import BACKWARD_JUMP_NS, TimeJump


class RingPolicy(Protocol):
    """How pictures become rings. Stamps in nanoseconds, ``now_ns`` in ROS time."""

    @property
    def counters(self) -> RingCounters:
        """What became of pictures and rings."""

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """Take a picture; raises TimeJump where stamps went back by more than a second."""

    def tick(self, now_ns: int) -> None:
        """Close what has waited long enough."""

    def reset(self) -> None:
        """Forget all pictures."""


class NativeSynchronizer:
    """The ring rule of the bag reader, fed live.

    Args:
        grouper: the rule, with its tolerance and deadline.
        deliver: called with every ring, complete or not, in the order of reference stamps.
    """

    def __init__(self, grouper: RingGrouper, deliver: Callable[[Ring], None]) -> None:
        self._grouper = grouper
        self._deliver = deliver
        self._lock = threading.Lock()

    @property
    def counters(self) -> RingCounters:
        """What became of pictures and rings."""
        return self._grouper.counters

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:
        """See :class:`RingPolicy`."""
        with self._lock:
            rings = self._grouper.add(camera, stamp_ns, payload, now_ns)
        for ring in rings:
            self._deliver(ring)

    def tick(self, now_ns: int) -> None:
        """See :class:`RingPolicy`."""
        with self._lock:
            rings = self._grouper.expire(now_ns)
        for ring in rings:
            self._deliver(ring)

    def reset(self) -> None:
        """See :class:`RingPolicy`."""
        with self._lock:
            self._grouper.reset()


class SyncPolicyError(OccError):
    """The chosen policy needs a package that is not installed."""


class MessageFiltersSynchronizer:
    """ApproximateTimeSynchronizer of the message_filters package, for comparison with it.

    It counts complete rings only, never delivers an incomplete one, and ``tolerance_ns`` is an
    exclusive limit. What it lacks is added here: a reset when time goes back.

    Raises:
        SyncPolicyError: message_filters is not installed.
    """

    def __init__(
        self,
        cameras: tuple[str, ...],
        reference_camera: str,
        tolerance_ns: int,
        deliver: Callable[[Ring], None],
    ) -> None:
        try:
            self._filters: Any = import_module("message_filters")
        except ImportError as error:
            raise SyncPolicyError(
                "sync.policy is message_filters, but that package is not importable "
                f"({error}); install ros-$ROS_DISTRO-message-filters or use sync.policy: native"
            ) from error
        self._cameras = cameras
        self._reference_camera = reference_camera
        self._slop_s = tolerance_ns * 1e-9
        self._deliver = deliver
        self._counters = RingCounters()
        self._newest: dict[str, int] = {}
        self._closed: list[Ring] = []
        self._inputs: dict[str, Any] = {}
        self.reset()

    @property
    def counters(self) -> RingCounters:
        """See :class:`RingPolicy`; only ``complete`` is counted."""
        return self._counters

    def add(self, camera: str, stamp_ns: int, payload: Any, now_ns: int) -> None:  # noqa: ARG002
        """See :class:`RingPolicy`."""
        newest = self._newest.get(camera, stamp_ns)
        if stamp_ns < newest - BACKWARD_JUMP_NS:
            raise TimeJump(camera, newest, stamp_ns)
        self._newest[camera] = max(newest, stamp_ns)
        self._inputs[camera].signalMessage(_Stamped(stamp_ns, payload))
        # Called back inside the synchronizer's lock the ring was only noted; now it may go out.
        rings, self._closed = self._closed, []
        for ring in rings:
            self._deliver(ring)

    def tick(self, now_ns: int) -> None:
        """See :class:`RingPolicy`; this policy knows no deadline."""

    def reset(self) -> None:
        """See :class:`RingPolicy`."""
        self._newest.clear()
        self._closed.clear()
        self._inputs = {camera: self._filters.SimpleFilter() for camera in self._cameras}
        self._synchronizer = self._filters.ApproximateTimeSynchronizer(
            list(self._inputs.values()), queue_size=10, slop=self._slop_s
        )
        self._synchronizer.registerCallback(self._on_set)

    def _on_set(self, *pictures: _Stamped) -> None:
        stamps = {c: p.stamp_ns for c, p in zip(self._cameras, pictures, strict=True)}
        self._counters.complete += 1
        self._closed.append(
            Ring(
                reference_stamp_ns=stamps[self._reference_camera],
                payloads={c: p.payload for c, p in zip(self._cameras, pictures, strict=True)},
                stamps_ns=stamps,
            )
        )


class _Stamped:
    """What message_filters asks of a message: a header with a stamp."""

    def __init__(self, stamp_ns: int, payload: Any) -> None:
        self.stamp_ns = stamp_ns
        self.payload = payload
        self.header = self
        self.stamp = time_message(stamp_ns)


def ring_policy(
    name: str, plan: InputPlan, deadline_ns: int, deliver: Callable[[Ring], None]
) -> RingPolicy:
    """The policy of a name.

    Args:
        name: ``native`` or ``message_filters``.
        plan: cameras, reference camera and tolerance.
        deadline_ns: how long the native policy waits for missing pictures.
        deliver: called with every ring.

    Raises:
        SyncPolicyError: message_filters is not installed.
    """
    cameras = plan.layout.camera_names
    if name == "message_filters":
        return MessageFiltersSynchronizer(
            cameras, plan.reference_camera, plan.tolerance_ns, deliver
        )
    grouper = RingGrouper(cameras, plan.reference_camera, plan.tolerance_ns, deadline_ns)
    return NativeSynchronizer(grouper, deliver)
