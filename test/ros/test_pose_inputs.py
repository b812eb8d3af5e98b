"""Inputs of transforms over DDS: of two publishers that send the same frame one is used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("occ_perception.ros.pose_inputs", exc_type=ImportError)

import rclpy
from car import ros_time
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.publisher import Publisher

from occ_perception.ros.pose_inputs import Refusals, TransformInput

pytestmark = pytest.mark.ros

SECOND = 10**9


class Tree:
    """A transform input, and two nodes that publish /tf."""

    def __init__(self) -> None:
        from tf2_msgs.msg import TFMessage

        self.message_class = TFMessage
        self.listener = rclpy.create_node("listener")
        self.nodes = [rclpy.create_node(name) for name in ("first", "second")]
        self.publishers = [node.create_publisher(TFMessage, "/tf", 10) for node in self.nodes]
        self.taken: list[tuple[str, int]] = []
        self.inputs = TransformInput(self.listener, "/tf", "auto", self._take)
        self.spin_until(lambda: all(p.get_subscription_count() for p in self.publishers))
        self.spin(0.3)

    def _take(self, _newest: int, message: Any, _static: bool) -> Refusals:
        self.taken += [(item.child_frame_id, item.header.stamp.sec) for item in message.transforms]
        return ()

    def send(self, publisher: Publisher, stamp_s: int, *children: str) -> None:
        message = self.message_class()
        for child in children:
            item = TransformStamped(child_frame_id=child)
            item.header.frame_id, item.header.stamp = "map", ros_time(stamp_s * SECOND)
            message.transforms.append(item)
        publisher.publish(message)
        self.spin(0.1)

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.spin_until(lambda: time.monotonic() > end)

    def spin_until(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up
            self.inputs.poll()
            rclpy.spin_once(self.listener, timeout_sec=0.02)


@pytest.fixture
def tree(ros_context: None, child_environment: dict[str, str]) -> Iterator[Tree]:
    assert ros_context is None and child_environment, "tf2_msgs can be imported"
    made = Tree()
    yield made
    nodes: list[Node] = [made.listener, *made.nodes]
    for node in nodes:
        node.destroy_node()


def test_a_second_publisher_of_a_frame_is_refused_by_name_and_its_other_frames_are_used(
    tree: Tree,
) -> None:
    first, second = tree.publishers
    for k in range(3):
        tree.send(first, 100 + k, "base_link")
        tree.send(second, 98 + k, "/base_link", "tag")
    expected = [entry for k in range(3) for entry in (("base_link", 100 + k), ("tag", 98 + k))]
    assert tree.taken == expected
    status = tree.inputs.statuses(60.0, are_the_pose=True)[0]
    assert status.message == (
        "the transform to base_link is sent by two publishers: /first is used, /second is not; "
        "stop one of them"
    )
    assert status.values["rejected"] == 3


def test_a_publisher_that_was_restarted_takes_over_after_a_second(tree: Tree) -> None:
    first, second = tree.publishers
    tree.send(first, 100, "base_link")
    tree.send(second, 5, "base_link")
    tree.spin(1.1)
    tree.send(second, 6, "base_link")
    tree.send(first, 102, "base_link")
    assert tree.taken == [("base_link", 100), ("base_link", 6)]
