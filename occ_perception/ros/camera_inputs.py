"""The camera inputs of the node: subscriptions to images and camera_info."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from occ_perception.ros.diagnostics import ERROR, OK, WARN, RateMeter, Status
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.sensing.from_messages import image_from_message, stamp_ns
from occ_perception.sensing.images import EncodedImage, SensorImage
from occ_perception.sensing.layouts import (
    CAMERA_INFO_TYPE,
    COMPRESSED_IMAGE_TYPE,
    IMAGE_TYPE,
    CameraTopics,
)
from occ_perception.sensing.plausibility import NO_STAMP

# One frame set puts a message on every camera topic, and a stall of the executor lasts a few frame
# sets.
_IMAGES_QUEUED = 5

ReceivedImage = SensorImage | EncodedImage


class CameraInput:
    """One camera: its image topic, its camera_info topic, and their state.

    Args:
        node: owner.
        topics: topics of the camera.
        stamp_source: ``header`` or ``receive``.
        reliability: see :class:`InputSubscription`.
        on_topic: called with (camera name, topic) when the topic of the images changes.
        on_image: called with (camera name, stamp in ns, image, frame in the header).
        on_camera_info: called with (camera name, message) for every camera_info; drivers send
            one with every image. Not called if the camera has no camera_info topic.
    """

    def __init__(
        self,
        node: Node,
        topics: CameraTopics,
        *,
        stamp_source: str,
        reliability: str,
        on_topic: Callable[[str, str], None],
        on_image: Callable[[str, int, ReceivedImage, str], None],
        on_camera_info: Callable[[str, CameraInfo], None],
    ) -> None:
        self.name = topics.name
        self._node = node
        self._stamp_source = stamp_source
        self._on_topic = on_topic
        self._on_image = on_image
        self._on_camera_info = on_camera_info
        self._rate = RateMeter()
        self._topic = ""
        self._last_stamp_ns = 0
        self.offset_s: float | None = None
        """Stamp of the newest image minus the time of its arrival; None before the first."""
        self.arrived_at = 0.0
        """Monotonic time of that arrival, seconds."""
        self._rejected = 0
        self._problem, self._problem_at = "", 0.0
        names = [topics.image]
        if not topics.image.endswith("/compressed"):
            names.insert(0, f"{topics.image}/compressed")
        self._images = InputSubscription(
            node,
            names,
            {IMAGE_TYPE: Image, COMPRESSED_IMAGE_TYPE: CompressedImage},
            self._take_image,
            depth=_IMAGES_QUEUED,
            reliability=reliability,
        )
        self._infos = (
            InputSubscription(
                node,
                [topics.camera_info],
                {CAMERA_INFO_TYPE: CameraInfo},
                self._take_info,
                depth=_IMAGES_QUEUED,
                reliability=reliability,
            )
            if topics.camera_info
            else None
        )

    def poll(self) -> None:
        """Look for publishers. Compressed images are preferred, if they come."""
        self._images.poll()
        if self._images.topic != self._topic:
            self._topic = self._images.topic
            self._on_topic(self.name, self._topic)
        if self._infos is not None:
            self._infos.poll()

    def close(self) -> None:
        """Unsubscribe."""
        self._images.close()
        if self._infos is not None:
            self._infos.close()

    def reject(self, problem: str) -> None:
        """Note that one of the camera's images could not be used; any thread."""
        self._rejected += 1
        self._problem, self._problem_at = problem, time.monotonic()

    def status(self, vehicle_problem: str, stale_after_s: float) -> Status:
        """The diagnostics status of the camera.

        Args:
            vehicle_problem: what is wrong with its calibration or clock; "" if nothing is.
            stale_after_s: a longer silence is an error.
        """
        level, text = self._state(vehicle_problem, stale_after_s)
        silent_s = self._images.silent_for_s
        choice = self._images.choice
        return Status(
            f"camera {self.name}",
            level,
            text,
            {
                "topic": self._images.topic,
                "type": choice.type_name if choice else "unknown",
                "qos": self._images.describe(),
                "camera_info_topic": self._infos.topic if self._infos else "rig file",
                "rate_hz": self._rate.rate_hz(self._images.received, time.monotonic()),
                "received": self._images.received,
                "rejected": self._rejected,
                "last_problem": self._problem,
                "last_stamp_s": self._last_stamp_ns * 1e-9,
                "silent_for_s": "never received" if silent_s is None else silent_s,
            },
        )

    def _state(self, vehicle_problem: str, stale_after_s: float) -> tuple[bytes, str]:
        silent_s = self._images.silent_for_s
        if silent_s is None:
            return WARN, self._images.problem or f"no image yet on {self._images.topic}"
        if silent_s > stale_after_s:
            cause = f"; {self._images.problem}" if self._images.problem else ""
            return ERROR, f"no image for {silent_s:.1f} s on {self._images.topic}{cause}"
        if vehicle_problem:
            return ERROR, vehicle_problem
        if self._problem and time.monotonic() - self._problem_at < stale_after_s:
            return ERROR, self._problem
        if self._images.problem:
            return WARN, self._images.problem
        return OK, "receiving"

    def _take_image(self, message: Any) -> None:
        if self._stamp_source == "receive":
            taken_ns = self._node.get_clock().now().nanoseconds
        else:
            taken_ns = stamp_ns(message.header.stamp)
        if taken_ns == 0:
            self.reject(
                NO_STAMP
                if self._stamp_source == "header"
                else "no ROS time yet: use_sim_time is set and /clock has no message"
            )
            return
        self._last_stamp_ns = taken_ns
        self.offset_s = (taken_ns - self._node.get_clock().now().nanoseconds) * 1e-9
        self.arrived_at = time.monotonic()
        image = image_from_message(message)
        self._on_image(self.name, taken_ns, image, message.header.frame_id)

    def _take_info(self, message: CameraInfo) -> None:
        self._on_camera_info(self.name, message)
