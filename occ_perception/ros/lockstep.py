"""Playing frame set by frame set: what belongs to a frame set, and whether it was answered.

The frame sets of the bag are found beforehand with the same rule the node uses. Everything recorded
before the first image of the next frame set is sent; then the player waits for an answer whose
header carries the stamp of the frame set's reference image.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from occ_perception.bags.discovery import choose_layout
from occ_perception.bags.recording import Recording
from occ_perception.errors import OccError
from occ_perception.ros.message_classes import message_class_of
from occ_perception.sensing.frame_sets import FrameSet, FrameSetGrouper
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.sensing.time_jumps import TimeJump

_ANSWERS_QUEUED = 100


class LockstepError(OccError):
    """The bag or the answer topic does not allow lockstep; the text says why."""


@dataclass(frozen=True)
class BagFrameSet:
    """One frame set of a bag.

    Attributes:
        stamp_ns: stamp of the reference image; 0 in bags whose images carry none.
        first_log_ns: when the first of its images was recorded.
        missing: cameras without an image.
    """

    stamp_ns: int
    first_log_ns: int
    missing: tuple[str, ...]


def frame_sets_of_bag(recording: Recording, layout: TopicLayout) -> list[BagFrameSet]:
    """The frame sets of a bag in the order of their reference stamps, incomplete ones included.

    Args:
        recording: the bag.
        layout: with the bag's own topic names.
    """
    camera_of = {camera.image: camera.name for camera in layout.cameras}
    grouper = FrameSetGrouper(
        layout.camera_names,
        layout.reference_camera,
        tolerance_ns=round(layout.sync_tolerance_ms * 1e6),
    )
    has_stamps = layout.stamp_source == "header"
    frame_sets: list[FrameSet] = []
    for message in recording.messages(camera_of):
        received_ns = message.received_ns
        stamp_ns = recording.header_stamp_ns(message) if has_stamps else received_ns
        camera = camera_of[message.topic]
        try:
            frame_sets += grouper.add(camera, stamp_ns, received_ns)
        except TimeJump:
            frame_sets += grouper.flush()
            grouper.reset()
            frame_sets += grouper.add(camera, stamp_ns, received_ns)
    frame_sets += grouper.flush()
    return [
        BagFrameSet(
            stamp_ns=frame_set.reference_stamp_ns if has_stamps else 0,
            first_log_ns=min(frame_set.payloads.values()),
            missing=frame_set.missing,
        )
        for frame_set in frame_sets
    ]


def image_topics(layout: TopicLayout, remap: Mapping[str, str]) -> list[str]:
    """The topics that a bag's images are played on."""
    return [remap.get(camera.image, camera.image) for camera in layout.cameras]


def obstacle_to_answers(node: Node, topic: str, images: Sequence[str]) -> str:
    """Why nobody who publishes ``topic`` could have the images yet, "" if somebody could."""
    answering = {
        (info.node_namespace, info.node_name) for info in node.get_publishers_info_by_topic(topic)
    }
    if not answering:
        return f"nobody publishes {topic}"
    for image in images:
        listening = {
            (info.node_namespace, info.node_name)
            for info in node.get_subscriptions_info_by_topic(image)
        }
        if not answering & listening:
            return f"whoever publishes {topic} does not listen to {image}"
    return ""


class Lockstep:
    """Hands out the frame sets that have been sent completely and waits for their answers.

    Args:
        node: subscribes to the answers; spun while waiting.
        recording: the bag.
        topic: of the answers.
        layout: name or path of the bag's layout, "" = recognise.
        remap: recorded topic -> topic it is published on.

    Raises:
        BagError: no layout fits the bag.
        LockstepError: it holds no frame set.
    """

    def __init__(
        self,
        node: Node,
        recording: Recording,
        topic: str,
        layout: str,
        remap: Mapping[str, str],
    ) -> None:
        self._node = node
        self._topic = topic
        chosen = choose_layout(recording, layout or None)
        self._images = image_topics(chosen, remap)
        self._frame_sets = deque(frame_sets_of_bag(recording, chosen))
        if not self._frame_sets:
            raise LockstepError("the bag holds no image of the reference camera")
        self._subscription: Subscription[Any] | None = None
        self._has_header = False
        self._answered: set[int] = set()
        self._answers = 0

    def begin(self, first_log_ns: int) -> None:
        """Leave out the frame sets that were recorded before ``first_log_ns``."""
        while self._frame_sets and self._frame_sets[0].first_log_ns < first_log_ns:
            self._frame_sets.popleft()

    def has_publisher(self) -> bool:
        """Whether somebody offers answers; subscribes when it is so for the first time.

        Raises:
            LockstepError: the Python class of the answers is not installed.
        """
        if self._subscription is None:
            publishers = self._node.get_publishers_info_by_topic(self._topic)
            if publishers:
                self._subscribe(publishers[0].topic_type)
        return self._subscription is not None

    def obstacle(self) -> str:
        """What must happen before answers can be expected, "" if nothing."""
        self.has_publisher()
        return obstacle_to_answers(self._node, self._topic, self._images)

    def sent_before(self, log_ns: int | None) -> list[BagFrameSet]:
        """Frame sets that are complete once all before ``log_ns`` (None = the end) was sent."""
        sent = []
        while self._frame_sets:
            following = self._frame_sets[1].first_log_ns if len(self._frame_sets) > 1 else None
            if log_ns is not None and (following is None or following > log_ns):
                break
            sent.append(self._frame_sets.popleft())
        return sent

    def wait(self, frame_set: BagFrameSet, timeout_s: float) -> str:
        """Wait for a frame set's answer; returns what went wrong, "" if nothing did."""
        give_up = time.monotonic() + timeout_s
        before = self._answers
        while not self._is_answered(frame_set, before):
            left = give_up - time.monotonic()
            if left <= 0:
                cause = f"; the bag has no image of {', '.join(frame_set.missing)} for it"
                return (
                    f"frame set at {(frame_set.stamp_ns or frame_set.first_log_ns) / 1e9:.3f} s "
                    f"was not answered on {self._topic} within {timeout_s:g} s"
                    f"{cause if frame_set.missing else ''}"
                )
            rclpy.spin_once(self._node, timeout_sec=min(left, 0.1))
        return ""

    def _is_answered(self, frame_set: BagFrameSet, before: int) -> bool:
        self.has_publisher()
        if frame_set.stamp_ns and self._has_header:
            return frame_set.stamp_ns in self._answered
        # Without stamps every new answer is taken for the one that is awaited.
        return self._answers > before

    def _subscribe(self, type_name: str) -> None:
        message_class = message_class_of(type_name)
        if message_class is None:
            raise LockstepError(
                f"{self._topic} is a {type_name}, of which no Python class is installed"
            )
        fields = message_class.get_fields_and_field_types()
        self._has_header = next(iter(fields.values()), "") == "std_msgs/Header"
        self._subscription = self._node.create_subscription(
            message_class, self._topic, self._on_answer, QoSProfile(depth=_ANSWERS_QUEUED), raw=True
        )

    def _on_answer(self, raw: Any) -> None:
        self._answers += 1
        if self._has_header:
            self._answered.add(header_stamp_of_bytes(raw))


def header_stamp_of_bytes(raw: bytes) -> int:
    """The stamp of a serialized message that begins with a std_msgs/Header.

    CDR: four bytes of encapsulation (the second tells the byte order), then int32 seconds and
    uint32 nanoseconds.
    """
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
