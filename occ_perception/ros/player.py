"""Plays a rosbag2 over DDS without the ros2 command line tools.

Messages are published as the recorded bytes, so the player needs only their Python class (for the
type support). With an output topic the player works in lockstep: it sends the next frame set of
images only after the node has published its output for the last one. This is for machines that
are slower than the recording.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rosbags.interfaces import QosDurability, QosReliability
from rosgraph_msgs.msg import Clock

from occ_perception.bags.discovery import choose_layout
from occ_perception.bags.recording import BagProblem, RecordedMessage, Recording
from occ_perception.errors import OccError
from occ_perception.ros.lockstep import Lockstep, image_topics, obstacle_to_output
from occ_perception.ros.message_classes import message_class_of, time_message

# The subscribers count as complete when their number has not changed for this long. A node that
# looks at the publishers before it subscribes needs a few hundred milliseconds for each kind of
# input, on a busy machine more than a second. Poses sent too early cost the first frame set.
_SETTLED_S = 2.0
_SHORTEST_QUEUE, _LONGEST_QUEUE = 10, 1000


class PlayError(OccError):
    """The bag cannot be played as asked; the text says why and what to do."""


@dataclass(frozen=True)
class PlayOptions:
    """How to play.

    Attributes:
        rate: playing speed, 1 = as recorded.
        loop: start again at the end, until interrupted.
        start_s: skip this much of the beginning; latched topics are still sent.
        delay_s: wait before the first message.
        topics: play only these; empty = all.
        remap: recorded topic -> topic to publish on.
        clock_hz: publish /clock at this rate; 0 = not at all.
        wait_s: how long to wait for subscribers; then playing starts in any case.
        wait_for: start when the node that publishes this topic subscribes to the bag's images;
            "" = start when the number of subscribers has settled.
        lockstep: topic of the outputs; playing starts as with ``wait_for``. "" = play by time.
        output_timeout_s: how long to wait for the output of a frame set in lockstep.
        layout: topic layout of the bag for ``wait_for`` and ``lockstep``; "" = recognise it.
    """

    rate: float = 1.0
    loop: bool = False
    start_s: float = 0.0
    delay_s: float = 0.0
    topics: tuple[str, ...] = ()
    remap: Mapping[str, str] = field(default_factory=dict)
    clock_hz: float = 0.0
    wait_s: float = 10.0
    wait_for: str = ""
    lockstep: str = ""
    output_timeout_s: float = 60.0
    layout: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise PlayError(f"rate must be positive, got {self.rate}")
        for option, value in (
            ("start", self.start_s),
            ("delay", self.delay_s),
            ("clock", self.clock_hz),
            ("wait", self.wait_s),
            ("output-timeout", self.output_timeout_s),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise PlayError(f"--{option} must be a number from 0 up, got {value:g}")
        if self.lockstep and self.clock_hz:
            raise PlayError(
                "--lockstep and --clock exclude each other: the bag's clock would stand still "
                "while the player waits for an output, and so would every deadline in ROS time"
            )
        if self.lockstep and self.loop:
            raise PlayError("--lockstep plays the bag once; it cannot be combined with --loop")


@dataclass
class PlayReport:
    """What was played.

    Attributes:
        published: topic -> messages sent.
        skipped: topic -> why it was not played.
        refused: topic -> messages that DDS did not accept (writer queue full).
        worst_lateness_s: largest delay of a message behind its time.
        frame_sets: frame sets sent in lockstep.
        without_output: for each frame set without an output, a sentence about it.
        problems: what is wrong with the bag.
        interrupted: whether playing was stopped by KeyboardInterrupt.
    """

    published: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    worst_lateness_s: float = 0.0
    frame_sets: int = 0
    without_output: list[str] = field(default_factory=list)
    problems: list[BagProblem] = field(default_factory=list)
    interrupted: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether everything was played that the bag states to hold, with its outputs."""
        is_lost = any(problem.is_loss for problem in self.problems)
        return not (is_lost or self.without_output or self.refused)


class BagPlayer:
    """Publishes the messages of one bag from a node.

    Args:
        node: publishes; the player spins it while it waits.
        recording: a rosbag2; the caller closes it.
        options: how to play.

    Raises:
        PlayError: the bag is a ROS 1 bag, or none of its topics can be played.
    """

    def __init__(self, node: Node, recording: Recording, options: PlayOptions) -> None:
        if recording.is_ros1:
            raise PlayError(
                f"{recording.path} holds ROS 1 messages; convert them first, a .bag for example by "
                f"rosbags-convert --src {recording.path} --dst {recording.path.with_suffix('')} "
                "--dst-typestore ros2_humble"
            )
        self.options = options
        self.report = PlayReport()
        self._node = node
        self._recording = recording
        self._publishers: dict[str, Publisher[Any]] = {}
        self._latched: set[str] = set()
        self._advertise()
        self._clock = (
            node.create_publisher(Clock, "/clock", QoSProfile(depth=10))
            if options.clock_hz
            else None
        )
        self._next_tick = 0.0
        self._images = (
            image_topics(choose_layout(recording, options.layout or None), options.remap)
            if options.wait_for
            else []
        )
        self._lockstep = (
            Lockstep(node, recording, options.lockstep, options.layout, options.remap)
            if options.lockstep
            else None
        )

    def play(self) -> PlayReport:
        """Play to the end, or forever with ``loop``; returns early on KeyboardInterrupt."""
        try:
            self._wait_for_subscribers()
            time.sleep(self.options.delay_s)
            self._play_once()
            while self.options.loop:
                self._play_once()
            self._drain()
        except KeyboardInterrupt:
            self.report.interrupted = True
        self.report.problems = self._recording.problems
        return self.report

    # -- what is published -----------------------------------------------------------------------

    def _advertise(self) -> None:
        known = self._recording.topics
        for topic in self.options.topics:
            if topic not in known:
                raise PlayError(f"bag has no topic {topic}; it has {', '.join(sorted(known))}")
        for topic in self.options.topics or known:
            message_class = message_class_of(known[topic].kind)
            if message_class is None:
                reason = f"no Python message class {known[topic].kind} is installed"
                self._node.get_logger().warning(f"{topic} is skipped: {reason}")
                self.report.skipped[topic] = reason
                continue
            qos = playing_qos(self._recording, topic)
            self._publishers[topic] = self._node.create_publisher(
                message_class, self.options.remap.get(topic, topic), qos
            )
            if qos.durability == DurabilityPolicy.TRANSIENT_LOCAL:
                self._latched.add(topic)
        if not self._publishers:
            raise PlayError(
                "nothing to play: "
                + "; ".join(f"{topic}: {why}" for topic, why in self.report.skipped.items())
            )

    def _wait_for_subscribers(self) -> None:
        """Wait until the number of subscribers has settled, at most ``wait_s``."""
        give_up = time.monotonic() + self.options.wait_s
        count, since = 0, time.monotonic()
        while (now := time.monotonic()) < give_up:
            rclpy.spin_once(self._node, timeout_sec=0.05)
            # A node that stamps images by this clock needs the time before the first image.
            self._send_clock(self._first_ns)
            current = sum(p.get_subscription_count() for p in self._publishers.values())
            if current != count:
                count, since = current, now
            if count and now - since > _SETTLED_S and not self._obstacle():
                return
        if self.options.wait_s > 0:
            problem = self._obstacle() or f"{count} subscribers"
            self._node.get_logger().warning(
                f"{problem} after {self.options.wait_s:g} s; playing anyway"
            )

    def _obstacle(self) -> str:
        if self._lockstep is not None and (obstacle := self._lockstep.obstacle()):
            return obstacle
        if self.options.wait_for:
            return obstacle_to_output(self._node, self.options.wait_for, self._images)
        return ""

    # -- playing ---------------------------------------------------------------------------------

    @property
    def _first_ns(self) -> int:
        """The bag time at which playing starts."""
        return self._recording.span_ns[0] + round(self.options.start_s * 1e9)

    def _send_clock(self, bag_ns: int) -> None:
        if self._clock is not None:
            self._clock.publish(Clock(clock=time_message(bag_ns)))

    def _play_once(self) -> None:
        bag_start, bag_end = self._recording.span_ns
        first_ns = self._first_ns
        if first_ns > bag_end:
            raise PlayError(
                f"start {self.options.start_s:g} s lies after the end of the bag, which is "
                f"{(bag_end - bag_start) * 1e-9:.3f} s long"
            )
        if self._lockstep is not None:
            self._lockstep.begin(first_ns)
        began = time.monotonic()
        for message in self._recording.messages(self._publishers):
            if message.received_ns < first_ns:
                if message.topic in self._latched:
                    self._publish(message)
                began = time.monotonic()
                continue
            if self._lockstep is not None:
                began += self._await_outputs(message.received_ns)
            due = began + (message.received_ns - first_ns) * 1e-9 / self.options.rate
            self._wait_until(due, message.received_ns)
            self._publish(message)
        if self._lockstep is not None:
            self._await_outputs(None)

    def _wait_until(self, due: float, log_ns: int) -> None:
        """Sleep until ``due`` and publish the bag's time on /clock meanwhile."""
        while True:
            now = time.monotonic()
            if self._clock is not None and now >= self._next_tick:
                bag_ns = log_ns - round(max(due - now, 0.0) * self.options.rate * 1e9)
                self._send_clock(bag_ns)
                self._next_tick = now + 1.0 / self.options.clock_hz
            if now >= due:
                self.report.worst_lateness_s = max(self.report.worst_lateness_s, now - due)
                return
            next_tick = self._next_tick if self._clock is not None else due
            time.sleep(max(0.0, min(due, next_tick) - time.monotonic()))

    def _publish(self, message: RecordedMessage) -> None:
        topic = message.topic
        try:
            self._publishers[topic].publish(bytes(message.raw))
        except rclpy_implementation.RCLError as error:
            if not self.report.refused[topic]:
                self._node.get_logger().warning(f"{topic}: DDS refused a message: {error}")
            self.report.refused[topic] += 1
            return
        self.report.published[topic] += 1

    def _await_outputs(self, before_ns: int | None) -> float:
        """Wait for the outputs of the frame sets sent before a log time; returns seconds spent."""
        assert self._lockstep is not None
        began = time.monotonic()
        for frame_set in self._lockstep.sent_before(before_ns):
            self.report.frame_sets += 1
            problem = self._lockstep.wait(frame_set, self.options.output_timeout_s)
            if problem:
                self._node.get_logger().error(problem)
                self.report.without_output.append(problem)
        return time.monotonic() - began

    def _drain(self) -> None:
        """Let reliable readers take what is still queued before the writers go away."""
        for publisher in self._publishers.values():
            publisher.wait_for_all_acked(Duration(seconds=2.0))


def play_bag(path: Path, options: PlayOptions) -> PlayReport:
    """Play a bag from a process of its own: sets up and shuts down rclpy.

    Raises:
        PlayError: see :class:`BagPlayer`.
        BagError: the bag cannot be read.
    """
    with Recording(path) as recording:
        # Without rclpy's handlers Ctrl-C is a KeyboardInterrupt, here and while sleeping.
        rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node("occ_player")
        try:
            return BagPlayer(node, recording, options).play()
        finally:
            node.destroy_node()
            rclpy.try_shutdown()


def playing_qos(recording: Recording, topic: str) -> QoSProfile:
    """The QoS a topic was recorded with; reliable and volatile where the bag does not state it.

    The queue holds one second of the topic, so that a burst after a stall reaches the readers. Of
    a latched topic it holds all messages.
    """
    offered = recording.offered_qos(topic)
    best_effort = any(qos.reliability == QosReliability.BEST_EFFORT for qos in offered)
    latched = topic == "/tf_static" or (
        bool(offered) and all(qos.durability == QosDurability.TRANSIENT_LOCAL for qos in offered)
    )
    start_ns, end_ns = recording.span_ns
    count = recording.topics[topic].count
    wanted = count if latched else math.ceil(count / max((end_ns - start_ns) * 1e-9, 1e-3))
    return QoSProfile(
        depth=min(max(wanted, _SHORTEST_QUEUE), _LONGEST_QUEUE),
        reliability=ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
