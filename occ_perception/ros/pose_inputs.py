"""Odometry and tf as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node

from occ_perception.errors import OccError
from occ_perception.geometry import Float64
from occ_perception.ros.diagnostics import ERROR, OK, WARN, RateMeter, Status
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.sensing.layouts import ODOMETRY_TYPE
from occ_perception.sensing.message_fields import (
    is_about,
    pose_from_odometry,
    stamp_ns,
    transforms_from_message,
)
from occ_perception.sensing.transform_tree import TransformError, TransformTree

# Poses come at 50 to 150 Hz and in bursts; a stall of the executor must not lose any.
_QUEUED = 500
_TF_TYPE = "tf2_msgs/msg/TFMessage"


class TransformMessagesError(OccError, RuntimeError):
    """tf is needed, but its message package is not installed."""


class PoseInput:
    """What odometry and tf inputs share: their topic's state, and messages that were refused."""

    def __init__(self) -> None:
        self._problem, self._problem_at = "", 0.0
        self._rejected = 0
        self._newest_ns = 0
        self._rate = RateMeter()

    def reject(self, problem: str) -> None:
        """Note that a message could not be used."""
        self._rejected += 1
        self._problem, self._problem_at = problem, time.monotonic()

    def report(self, task: str, subscription: InputSubscription, stale_after_s: float) -> Status:
        """One line of the diagnostics about one topic."""
        silent_s = subscription.silent_for_s
        if silent_s is None:
            level, text = WARN, subscription.problem or f"nothing yet on {subscription.topic}"
        elif silent_s > stale_after_s:
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
            "newest_stamp_s": self._newest_ns * 1e-9,
        }
        return Status(task, level, text, values)


class OdometryInput(PoseInput):
    """nav_msgs/Odometry as the ego pose.

    Args:
        node: owner.
        topic: of the odometry.
        ego_frame: what the messages must be about.
        reliability: see :class:`InputSubscription`.
        on_pose: called with (stamp in ns, ``world_T_ego`` (4, 4)).
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        ego_frame: str,
        reliability: str,
        on_pose: Callable[[int, Float64], None],
    ) -> None:
        super().__init__()
        self._ego_frame = ego_frame
        self._on_pose = on_pose
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

    def status(self, stale_after_s: float) -> Status:
        """The ego pose's line in the diagnostics."""
        return self.report("ego pose", self._subscription, stale_after_s)

    def _take(self, message: Any) -> None:
        if not is_about(message, self._ego_frame):
            self.reject(
                f"odometry is about frame {message.child_frame_id}, expected {self._ego_frame}; "
                "set ego_frame, or take the pose from tf"
            )
            return
        try:
            world_T_ego = pose_from_odometry(message)
        except ValueError as error:
            self.reject(str(error))
            return
        self._newest_ns = stamp_ns(message.header.stamp)
        self._on_pose(self._newest_ns, world_T_ego)


class TransformInput(PoseInput):
    """/tf and /tf_static: camera mounts, and the ego pose where it comes from tf.

    Args:
        node: owner.
        topic: of the moving transforms.
        reliability: see :class:`InputSubscription`.
        on_transforms: called with (message, whether it is static); may raise ValueError or
            TransformError to refuse the message.

    Raises:
        TransformMessagesError: tf2_msgs is not installed.
    """

    def __init__(
        self,
        node: Node,
        topic: str,
        reliability: str,
        on_transforms: Callable[[Any, bool], None],
    ) -> None:
        super().__init__()
        self._on_transforms = on_transforms
        types = {_TF_TYPE: tf_message_class()}
        self._moving, self._static = (
            InputSubscription(node, [name], types, take, depth=_QUEUED, reliability=reliability)
            for name, take in ((topic, self._take_moving), ("/tf_static", self._take_static))
        )

    def poll(self) -> None:
        """Look for publishers."""
        self._moving.poll()
        self._static.poll()

    def status(self, stale_after_s: float) -> Status:
        """The line of the moving transforms, where they are the ego pose."""
        return self.report("ego pose", self._moving, stale_after_s)

    def mounts_status(self) -> Status:
        """The line of the static transforms."""
        return self.report("static transforms", self._static, float("inf"))

    def _take_moving(self, message: Any) -> None:
        for stamped in message.transforms:
            self._newest_ns = max(self._newest_ns, stamp_ns(stamped.header.stamp))
        self._take(message, static=False)

    def _take_static(self, message: Any) -> None:
        self._take(message, static=True)

    def _take(self, message: Any, static: bool) -> None:
        try:
            self._on_transforms(message, static)
        except (ValueError, TransformError) as error:
            self.reject(str(error))


def tf_message_class() -> type[Any]:
    """tf2_msgs/TFMessage, the only thing of tf that is used here.

    Raises:
        TransformMessagesError: tf2_msgs is not installed (there is no wheel of it).
    """
    message_class = message_class_of(_TF_TYPE)
    if message_class is None:
        raise TransformMessagesError(
            "/tf and /tf_static cannot be received: tf2_msgs is not importable. Install "
            "ros-$ROS_DISTRO-tf2-msgs, or do without tf: give the calibration as a file "
            "(parameter rig) and take the pose from odometry (pose.source: odometry)"
        )
    return message_class


def add_transforms(tree: TransformTree, message: Any, static: bool) -> None:
    """Feed the transforms of one tf2_msgs/TFMessage to the tree.

    Raises:
        ValueError: a transform is not finite or its quaternion is not of unit length.
        TransformError: the frames contradict those known.
        TimeJump: stamps went back by more than a second.
    """
    for parent, child, stamp, parent_T_child in transforms_from_message(message):
        tree.add(parent, child, stamp, parent_T_child, static)
