"""Lockstep playback: the frame sets of a bag, and waiting for the node's output for each.

The frame sets are computed before playing, with the rule that the node uses. Everything recorded
before the first image of the next frame set is sent, and, where a camera was recorded late, all
images of the frame set. Then the player waits for an output whose header carries the stamp of the
frame set's reference image.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from occ_perception.bags.discovery import choose_layout
from occ_perception.bags.frame_set_index import index_frame_sets
from occ_perception.bags.recording import Recording
from occ_perception.errors import OccError
from occ_perception.ros.message_classes import header_stamp_of_bytes, message_class_of
from occ_perception.sensing.layouts import TopicLayout

_OUTPUTS_QUEUED = 100


class LockstepError(OccError):
    """The bag or the output topic does not allow lockstep; the text says why."""


@dataclass(frozen=True)
class BagFrameSet:
    """One frame set of a bag.

    Attributes:
        stamp_ns: stamp of the reference image; 0 in bags whose images have no stamps.
        first_log_ns, last_log_ns: when the first and the last of its images were recorded.
        missing: cameras without an image.
    """

    stamp_ns: int
    first_log_ns: int
    last_log_ns: int
    missing: tuple[str, ...]


def frame_sets_of_bag(recording: Recording, layout: TopicLayout) -> list[BagFrameSet]:
    """The frame sets of a bag in the order of their reference stamps, incomplete ones included.

    Args:
        recording: the bag.
        layout: with the bag's own topic names.
    """
    has_stamps = layout.stamp_source == "header"
    return [
        BagFrameSet(
            stamp_ns=indexed.stamps_ns[layout.reference_camera] if has_stamps else 0,
            first_log_ns=indexed.received_ns[0],
            last_log_ns=indexed.received_ns[1],
            missing=tuple(name for name in layout.camera_names if name not in indexed.stamps_ns),
        )
        for indexed in index_frame_sets(recording, layout).frame_sets
    ]


def image_topics(layout: TopicLayout, remap: Mapping[str, str]) -> list[str]:
    """The topics that a bag's images are played on."""
    return [remap.get(camera.image, camera.image) for camera in layout.cameras]


def obstacle_to_output(node: Node, topic: str, images: Sequence[str]) -> str:
    """Why no publisher of ``topic`` can receive the images that ``node`` sends; "" if one can.

    Readers of another type or with a QoS that does not match do not count: an input subscribes
    before it knows its publishers.
    """
    publishing = {_node_of(info) for info in node.get_publishers_info_by_topic(topic)}
    if not publishing:
        return f"no node publishes {topic}"
    own_name = (node.get_namespace(), node.get_name())
    for image in images:
        own = [i for i in node.get_publishers_info_by_topic(image) if _node_of(i) == own_name]
        readers = node.get_subscriptions_info_by_topic(image)
        receiving = {_node_of(info) for info in readers if any(_match(i, info) for i in own)}
        if not publishing & receiving:
            return f"the node that publishes {topic} does not receive {image}"
    return ""


def _node_of(info: TopicEndpointInfo) -> tuple[str, str]:
    return info.node_namespace, info.node_name


def _match(publisher: TopicEndpointInfo, reader: TopicEndpointInfo) -> bool:
    compatibility, _ = qos_check_compatible(publisher.qos_profile, reader.qos_profile)
    same_type = publisher.topic_type == reader.topic_type
    return same_type and compatibility != QoSCompatibility.ERROR


class Lockstep:
    """Returns the frame sets that have been sent completely and waits for their outputs.

    Args:
        node: subscribes to the outputs; spun while waiting.
        recording: the bag.
        topic: topic of the outputs.
        layout: name or path of the bag's layout; "" = recognise it.
        remap: recorded topic -> topic it is published on.

    Raises:
        BagError: no layout fits the bag.
        LockstepError: the bag holds no frame set.
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
        self._output_stamps: set[int] = set()
        self._output_count = 0

    def begin(self, first_log_ns: int) -> None:
        """Skip the frame sets that were recorded before ``first_log_ns``."""
        wanted = (f for f in self._frame_sets if f.first_log_ns >= first_log_ns)
        self._frame_sets = deque(wanted)

    def has_publisher(self) -> bool:
        """Whether the output topic has a publisher; subscribes once it has one.

        Raises:
            LockstepError: the Python class of the output message is not installed.
        """
        if self._subscription is None:
            publishers = self._node.get_publishers_info_by_topic(self._topic)
            if publishers:
                self._subscribe(publishers[0].topic_type)
        return self._subscription is not None

    def obstacle(self) -> str:
        """Why outputs cannot be expected yet; "" if they can."""
        self.has_publisher()
        return obstacle_to_output(self._node, self._topic, self._images)

    def sent_before(self, log_ns: int | None) -> list[BagFrameSet]:
        """Frame sets that are sent completely when everything before ``log_ns`` is sent.

        None stands for the end of the bag. Each frame set is returned once.
        """
        sent = []
        while self._frame_sets and (log_ns is None or self._is_sent_before(log_ns)):
            sent.append(self._frame_sets.popleft())
        return sent

    def _is_sent_before(self, log_ns: int) -> bool:
        if len(self._frame_sets) < 2:
            return False
        frame_set, following = self._frame_sets[0], self._frame_sets[1]
        return frame_set.last_log_ns < log_ns and following.first_log_ns <= log_ns

    def wait(self, frame_set: BagFrameSet, timeout_s: float) -> str:
        """Wait for a frame set's output; returns an error message, "" if the output came."""
        give_up = time.monotonic() + timeout_s
        before = self._output_count
        while not self._has_output(frame_set, before):
            left = give_up - time.monotonic()
            if left <= 0:
                cause = f"; the bag has no image of {', '.join(frame_set.missing)} for it"
                return (
                    f"frame set at {(frame_set.stamp_ns or frame_set.first_log_ns) / 1e9:.3f} s "
                    f"has no output on {self._topic} after {timeout_s:g} s"
                    f"{cause if frame_set.missing else ''}"
                )
            rclpy.spin_once(self._node, timeout_sec=min(left, 0.1))
        return ""

    def _has_output(self, frame_set: BagFrameSet, before: int) -> bool:
        self.has_publisher()
        if frame_set.stamp_ns and self._has_header:
            return frame_set.stamp_ns in self._output_stamps
        # Without stamps the next output counts as the output of this frame set.
        return self._output_count > before

    def _subscribe(self, type_name: str) -> None:
        message_class = message_class_of(type_name)
        if message_class is None:
            raise LockstepError(
                f"{self._topic} is of type {type_name}, whose Python class is not installed"
            )
        fields = message_class.get_fields_and_field_types()
        self._has_header = next(iter(fields.values()), "") == "std_msgs/Header"
        self._subscription = self._node.create_subscription(
            message_class, self._topic, self._on_output, QoSProfile(depth=_OUTPUTS_QUEUED), raw=True
        )

    def _on_output(self, raw: Any) -> None:
        self._output_count += 1
        if self._has_header:
            self._output_stamps.add(header_stamp_of_bytes(raw))
