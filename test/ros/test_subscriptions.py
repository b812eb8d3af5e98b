"""Inputs follow their publishers: reliability, durability and type, over real DDS."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("occ_perception.ros.subscriptions", exc_type=ImportError)

import rclpy
from car import spin_for
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from occ_perception.ros.camera_inputs import CameraInput
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.sensing.layouts import CameraTopics

pytestmark = pytest.mark.ros

RELIABLE = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TYPES = {
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/CompressedImage": CompressedImage,
}


class Pair:
    """A subscribing and a publishing node."""

    def __init__(self) -> None:
        self.listener = rclpy.create_node("listener")
        self.speaker = rclpy.create_node("speaker")
        self.heard: list[object] = []

    def subscribe(self, reliability: str = "auto") -> InputSubscription:
        return InputSubscription(
            self.listener,
            ["~/camera/compressed", "~/camera"],
            TYPES,
            self.heard.append,
            depth=10,
            reliability=reliability,
        )

    def spin_until(self, inputs: InputSubscription, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up, (inputs.choice, inputs.problem)
            inputs.poll()
            rclpy.spin_once(self.listener, timeout_sec=0.02)
            rclpy.spin_once(self.speaker, timeout_sec=0.0)

    def expect_message(self, inputs: InputSubscription, publisher: object, kind: type) -> None:
        count = len(self.heard)
        spin_for(self.listener, 0.3)
        publisher.publish(kind())
        self.spin_until(inputs, lambda: len(self.heard) > count)


@pytest.fixture
def pair(ros_context: None) -> Iterator[Pair]:
    assert ros_context is None
    pair = Pair()
    yield pair
    pair.listener.destroy_node()
    pair.speaker.destroy_node()


def follows(inputs: InputSubscription, reliability: ReliabilityPolicy) -> Callable[[], bool]:
    return lambda: inputs.choice is not None and inputs.choice.reliability == reliability


def readers(node: Node, topic: str) -> list[tuple[str, ReliabilityPolicy, DurabilityPolicy]]:
    """Type and QoS of the readers of a topic, as `ros2 topic info -v` prints them."""
    return [
        (info.topic_type, info.qos_profile.reliability, info.qos_profile.durability)
        for info in node.get_subscriptions_info_by_topic(topic)
    ]


def test_it_can_be_seen_before_there_is_a_publisher_and_says_that_there_is_none(pair: Pair) -> None:
    inputs = pair.subscribe()
    inputs.poll()
    usual = (ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
    pair.spin_until(inputs, lambda: bool(readers(pair.speaker, "/listener/camera")))
    assert readers(pair.speaker, "/listener/camera") == [("sensor_msgs/msg/Image", *usual)]
    assert readers(pair.speaker, "/listener/camera/compressed") == [
        ("sensor_msgs/msg/CompressedImage", *usual)
    ]
    assert inputs.choice is None and inputs.describe() == "no publisher yet"
    assert inputs.topic == "/listener/camera"
    assert inputs.problem == "no publisher on /listener/camera/compressed or /listener/camera"
    publisher = pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE)
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.RELIABLE))
    assert inputs.problem == ""
    pair.expect_message(inputs, publisher, Image)


def test_a_message_sent_as_soon_as_a_reader_matches_arrives(pair: Pair) -> None:
    """The reader that waited is the one that stays."""
    inputs = pair.subscribe()
    inputs.poll()
    publisher = pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE)
    give_up = time.monotonic() + 20
    while not publisher.get_subscription_count():
        assert time.monotonic() < give_up
        time.sleep(0.01)
    publisher.publish(Image(encoding="first"))
    pair.spin_until(inputs, lambda: bool(pair.heard))
    assert pair.heard[0].encoding == "first"


def test_two_inputs_of_one_topic_with_different_types_are_a_problem_and_no_crash(
    pair: Pair,
) -> None:
    inputs = pair.subscribe()
    inputs.poll()
    other = InputSubscription(
        pair.listener, ["~/camera"], {"sensor_msgs/msg/CameraInfo": CameraInfo}, print, depth=1
    )
    other.poll()
    other.poll()
    assert other.choice is None
    assert "/listener/camera cannot be read as sensor_msgs/msg/CameraInfo" in other.problem


def test_a_best_effort_publisher_that_joins_is_not_lost(pair: Pair) -> None:
    inputs = pair.subscribe()
    first = pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE)
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.RELIABLE))
    second = pair.speaker.create_publisher(Image, "/listener/camera", BEST_EFFORT)
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.BEST_EFFORT))
    pair.expect_message(inputs, first, Image)
    pair.expect_message(inputs, second, Image)
    pair.speaker.destroy_publisher(second)
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.RELIABLE))
    pair.expect_message(inputs, first, Image)


def test_compressed_images_are_taken_where_only_they_exist(pair: Pair) -> None:
    inputs = pair.subscribe()
    publisher = pair.speaker.create_publisher(
        CompressedImage, "/listener/camera/compressed", RELIABLE
    )
    pair.spin_until(inputs, lambda: inputs.choice is not None)
    assert inputs.topic == "/listener/camera/compressed"
    pair.expect_message(inputs, publisher, CompressedImage)


@pytest.mark.parametrize("silent", [Image, CompressedImage])
def test_of_raw_and_compressed_images_those_that_come_are_taken(pair: Pair, silent: type) -> None:
    inputs = pair.subscribe()
    publishers = {
        Image: pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE),
        CompressedImage: pair.speaker.create_publisher(
            CompressedImage, "/listener/camera/compressed", RELIABLE
        ),
    }
    (sending,) = set(publishers) - {silent}
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.RELIABLE))
    for _ in range(3):
        pair.expect_message(inputs, publishers[sending], sending)
    assert all(isinstance(message, sending) for message in pair.heard)
    assert inputs.topic == publishers[sending].topic_name and inputs.problem == ""
    if sending is Image:  # the preferred ones come after all
        pair.expect_message(inputs, publishers[silent], silent)
        assert inputs.topic == publishers[silent].topic_name
    # Nothing is spent on raw images while compressed ones come.
    inputs.poll()
    pair.spin_until(inputs, lambda: not publishers[Image].get_subscription_count())
    assert publishers[CompressedImage].get_subscription_count() == 1


def test_raw_images_are_taken_when_compressed_ones_stop(pair: Pair) -> None:
    inputs = pair.subscribe()
    raw = pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE)
    compressed = pair.speaker.create_publisher(
        CompressedImage, "/listener/camera/compressed", RELIABLE
    )
    pair.spin_until(inputs, follows(inputs, ReliabilityPolicy.RELIABLE))
    pair.expect_message(inputs, compressed, CompressedImage)
    pair.spin_until(inputs, lambda: not raw.get_subscription_count())
    pair.spin_until(inputs, lambda: raw.get_subscription_count() == 1)
    pair.expect_message(inputs, raw, Image)
    assert inputs.topic == "/listener/camera"


@pytest.mark.parametrize("latched_first", [True, False])
def test_latched_and_other_publishers_of_one_topic_are_both_read(
    pair: Pair, latched_first: bool
) -> None:
    """As /tf_static, where one of two publishers uses the wrong QoS."""
    inputs = InputSubscription(
        pair.listener, ["~/static"], {"sensor_msgs/msg/Image": Image}, pair.heard.append,
        depth=10, latched=True,
    )  # fmt: skip
    latching = RELIABLE if not latched_first else LATCHED
    first = pair.speaker.create_publisher(Image, "/listener/static", latching)
    first.publish(Image(encoding="first"))
    inputs.poll()
    second = pair.speaker.create_publisher(
        Image, "/listener/static", LATCHED if not latched_first else RELIABLE
    )
    second.publish(Image(encoding="second"))

    def heard() -> set[str]:
        return {message.encoding for message in pair.heard}

    latched = "first" if latched_first else "second"
    pair.spin_until(inputs, lambda: latched in heard() and " and " in inputs.describe())
    assert inputs.describe() == "reliable, transient local and reliable"
    spin_for(pair.listener, 0.5)
    (second if latched_first else first).publish(Image(encoding="later"))
    pair.spin_until(inputs, lambda: "later" in heard())


def test_a_latched_message_reaches_a_late_input(pair: Pair) -> None:
    publisher = pair.speaker.create_publisher(Image, "/listener/camera", LATCHED)
    publisher.publish(Image(encoding="latched"))
    inputs = pair.subscribe()
    pair.spin_until(inputs, lambda: bool(pair.heard))
    assert pair.heard[0].encoding == "latched"
    assert inputs.describe() == "reliable, transient local"


def test_another_type_is_named(pair: Pair) -> None:
    inputs = pair.subscribe()
    pair.speaker.create_publisher(CameraInfo, "/listener/camera", RELIABLE)
    pair.spin_until(inputs, lambda: "published as sensor_msgs/msg/CameraInfo" in inputs.problem)
    assert inputs.choice is None


def test_a_forced_mismatch_is_named(pair: Pair) -> None:
    inputs = pair.subscribe("reliable")
    pair.speaker.create_publisher(Image, "/listener/camera", BEST_EFFORT)
    pair.spin_until(inputs, lambda: "nothing arrives; use qos_reliability: auto" in inputs.problem)


def test_a_publisher_that_leaves_is_named(pair: Pair) -> None:
    inputs = pair.subscribe()
    publisher = pair.speaker.create_publisher(Image, "/listener/camera", RELIABLE)
    pair.spin_until(inputs, lambda: inputs.choice is not None)
    pair.speaker.destroy_publisher(publisher)
    pair.spin_until(inputs, lambda: "is gone" in inputs.problem)


def test_topics_can_be_remapped(ros_context: None) -> None:
    assert ros_context is None
    node = Node("renamed", cli_args=["--ros-args", "-r", "~/camera:=/front/image_raw"])
    inputs = InputSubscription(node, ["~/camera"], TYPES, print, depth=1)
    assert inputs.topic == "/front/image_raw"
    publisher = node.create_publisher(Image, "/front/image_raw", RELIABLE)
    give_up = time.monotonic() + 20
    while inputs.choice is None:
        assert time.monotonic() < give_up
        inputs.poll()
        time.sleep(0.02)
    assert publisher.topic_name == "/front/image_raw"
    node.destroy_node()


def test_a_camera_reports_the_topic_of_its_images_after_remapping(ros_context: None) -> None:
    """The topic decides whether images are rectified."""
    assert ros_context is None
    node = Node("renamed", cli_args=["--ros-args", "-r", "~/front/compressed:=/front/image_rect"])
    calls: list[tuple[str, str]] = []
    camera = CameraInput(
        node,
        CameraTopics("CAM_FRONT", "~/front"),
        stamp_source="header",
        reliability="auto",
        on_topic=lambda *where: calls.append(where),
        on_image=print,
        on_camera_info=print,
    )
    camera.poll()
    publisher = node.create_publisher(CompressedImage, "/front/image_rect", RELIABLE)
    give_up = time.monotonic() + 20
    while len(calls) < 2:
        assert time.monotonic() < give_up
        camera.poll()
        time.sleep(0.02)
    assert calls == [("CAM_FRONT", "/renamed/front"), ("CAM_FRONT", publisher.topic_name)]
    node.destroy_node()
