"""The pose inputs of the node: subscriptions to odometry and tf."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node

from occ_perception.errors import OccError
from occ_perception.ros.diagnostics import ERROR, OK, WARN, RateMeter, Status
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.sensing.from_messages import stamp_ns
from occ_perception.sensing.layouts import ODOMETRY_TYPE
from occ_perception.sensing.pose_sources import PoseSources

Refusals = tuple[str, ...]
"""Why parts of a message were refused; empty if all of it was used."""

# Poses arrive at 50 to 150 Hz and in bursts; a stall of the executor must not lose any.
_QUEUED = 500
TF_TYPE = "tf2_msgs/msg/TFMessage"


class TransformMessagesError(OccError):
    """tf is needed, but its message package is not installed."""


class Meter:
    """The state of one topic: counts of refused messages, the newest stamp, the rate."""

    def __init__(self) -> None:
        self._problem, self._problem_at = "", 0.0
        self._rejected = 0
        self.newest_ns = 0
        self._rate = RateMeter()

    def reject(self, refusals: Refusals) -> None:
        """Count the refused parts of a message."""
        if refusals:
            self._rejected += len(refusals)
            self._problem, self._problem_at = refusals[-1], time.monotonic()

    def report(
        self,
        task: str,
        subscription: InputSubscription,
        stale_after_s: float,
        never_stale: bool = False,
    ) -> Status:
        """The diagnostics status of one topic.

        Args:
            task: its name.
            subscription: to the topic.
            stale_after_s: how long a refusal is shown, and after how long a silence is an error.
            never_stale: a silence is no error: the topic is latched.
        """
        silent_s = subscription.silent_for_s
        if silent_s is None:
            level, text = WARN, subscription.problem or f"nothing yet on {subscription.topic}"
        elif silent_s > stale_after_s and not never_stale:
            level, text = ERROR, f"nothing for {silent_s:.1f} s on {subscription.topic}"
            text += f"; {subscription.problem}" if subscription.problem else ""
        elif self._problem and time.monotonic() - self._problem_at < stale_after_s:
            level, text = ERROR, self._problem
        else:
            level, text = OK, "receiving"
        values = {
            "topic": subscription.topic,
            "qos": subscription.describe(),
            "rate_hz": self._rate.rate_hz(subscription.received, time.monotonic()),
            "received": subscription.received,
            "rejected": self._rejected,
            "last_problem": self._problem,
            "newest_stamp_s": self.newest_ns * 1e-9,
        }
        return Status(task, level, text, values)


class OdometryInput:
    """nav_msgs/Odometry as the ego pose. Of several publishers that send at once one is used.

    Args:
        node: owner.
        topic: topic of the odometry.
        reliability: see :class:`InputSubscription`.
        take: called with (stamp in ns, message); returns refusals.
    """

    def __init__(
        self, node: Node, topic: str, reliability: str, take: Callable[[int, Any], Refusals]
    ) -> None:
        self._meter = Meter()
        self._sources = PoseSources()
        self._take_odometry = take
        self._subscription = InputSubscription(
            node,
            [topic],
            {ODOMETRY_TYPE: Odometry},
            self._take,
            depth=_QUEUED,
            reliability=reliability,
        )

    def poll(self) -> None:
        """Look for a publisher."""
        self._subscription.poll()

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()

    def statuses(self, stale_after_s: float) -> list[Status]:
        """The diagnostics status of the ego pose."""
        return [self._meter.report("ego pose", self._subscription, stale_after_s)]

    def _take(self, message: Any) -> None:
        subscription = self._subscription
        if not self._sources.accepts("", subscription.sender, subscription.arrived_s):
            what = f"{subscription.topic} is sent"
            self._meter.reject((_two_publishers(what, "", self._sources, subscription),))
            return
        stamp = stamp_ns(message.header.stamp)
        refusals = self._take_odometry(stamp, message)
        self._meter.reject(refusals)
        if not refusals:
            self._meter.newest_ns = stamp


class TransformInput:
    """/tf and /tf_static: camera mounts, and the ego pose if its source is tf.

    Of several publishers that send a moving frame at once one is used.

    Args:
        node: owner.
        topic: topic of the moving transforms.
        reliability: see :class:`InputSubscription`.
        take: called with (newest stamp in ns, message, whether it is static); returns refusals.

    Raises:
        TransformMessagesError: tf2_msgs is not installed.
    """

    def __init__(
        self, node: Node, topic: str, reliability: str, take: Callable[[int, Any, bool], Refusals]
    ) -> None:
        self._moving_meter, self._static_meter = Meter(), Meter()
        self._sources = PoseSources()
        self._take_transforms = take
        types = {TF_TYPE: _tf_message_class()}
        self._moving = InputSubscription(
            node, [topic], types, self._take_moving, depth=_QUEUED, reliability=reliability
        )
        self._static = InputSubscription(
            node,
            ["/tf_static"],
            types,
            self._take_static,
            depth=_QUEUED,
            reliability=reliability,
            latched=True,
        )

    def poll(self) -> None:
        """Look for publishers."""
        self._moving.poll()
        self._static.poll()

    def close(self) -> None:
        """Unsubscribe."""
        self._moving.close()
        self._static.close()

    def statuses(self, stale_after_s: float, are_the_pose: bool) -> list[Status]:
        """Statuses of moving transforms, which may be the ego pose, and of static ones.

        Moving ones that are not the ego pose need not exist.
        """
        statuses = []
        if are_the_pose:
            statuses.append(self._moving_meter.report("ego pose", self._moving, stale_after_s))
        elif self._moving.received:
            statuses.append(
                self._moving_meter.report(
                    "moving transforms", self._moving, stale_after_s, never_stale=True
                )
            )
        statuses.append(
            self._static_meter.report(
                "static transforms", self._static, stale_after_s, never_stale=True
            )
        )
        return statuses

    def _take_moving(self, message: Any) -> None:
        meter = self._moving_meter
        meter.reject(self._leave_out_second_publishers(message))
        newest = max((stamp_ns(item.header.stamp) for item in message.transforms), default=0)
        meter.newest_ns = max(meter.newest_ns, newest)
        meter.reject(self._take_transforms(newest, message, False))

    def _leave_out_second_publishers(self, message: Any) -> Refusals:
        """Remove the transforms to frames that another publisher sends; returns what is said."""
        now_s, sender = self._moving.arrived_s, self._moving.sender
        kept, refusals = [], []
        for item in message.transforms:
            child = item.child_frame_id.lstrip("/")
            if self._sources.accepts(child, sender, now_s):
                kept.append(item)
            else:
                what = f"the transform to {child} is sent"
                refusals.append(_two_publishers(what, child, self._sources, self._moving))
        if refusals:
            message.transforms = kept
        return tuple(refusals)

    def _take_static(self, message: Any) -> None:
        self._static_meter.reject(self._take_transforms(0, message, True))


def _two_publishers(
    what: str, stream: str, sources: PoseSources, subscription: InputSubscription
) -> str:
    used = subscription.node_of(sources.publisher(stream))
    refused = subscription.node_of(subscription.sender)
    return f"{what} by two publishers: {used} is used, {refused} is not; stop one of them"


def _tf_message_class() -> type[Any]:
    """The class of tf2_msgs/TFMessage."""
    message_class = message_class_of(TF_TYPE)
    if message_class is None:
        raise TransformMessagesError(
            "/tf and /tf_static cannot be received: tf2_msgs is not importable. Install "
            "ros-$ROS_DISTRO-tf2-msgs, or do without tf: give the calibration as a file "
            "(parameter rig) and take the pose from odometry (pose.source: odometry)"
        )
    return message_class
