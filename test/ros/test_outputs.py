"""The publishers of the node's outputs: an output that fails takes no other one with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import spin_until
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2
from small_footage import CAMERAS, guess_at
from small_streams import drive, surround_rig

from occ_msgs.msg import SemanticOccupancy
from occ_perception.errors import OccError
from occ_perception.ros import outputs
from occ_perception.ros.outputs import Output, Outputs, Step
from occ_perception.ros.parameters import NodeParameters

pytestmark = pytest.mark.ros


class Refusing(Output):
    """Raises what it is told to."""

    topic = "~/refusing"
    message_type = PointCloud2
    when = "subscribed"

    def __init__(self) -> None:
        self.error: Exception | None = OccError("the image is too small; use a larger one")

    def message(self, _step: Step, _parameters: NodeParameters) -> PointCloud2:
        if self.error is not None:
            raise self.error
        return PointCloud2()


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    created = rclpy.create_node("outputs_test")
    yield created
    created.destroy_node()


@pytest.fixture
def step() -> Step:
    (frame,) = drive([10.0], surround_rig(CAMERAS))
    return Step(frame, guess_at(frame.stamp_ns))


def received(node: Node, kind: type[Any], topic: str) -> list[Any]:
    messages: list[Any] = []
    node.create_subscription(kind, f"/outputs_test/{topic}", messages.append, 10)
    return messages


def test_an_output_that_fails_is_counted_and_said_and_stops_no_other(
    node: Node, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing = Refusing()
    # Before the grid, so that it would be missed.
    monkeypatch.setattr(outputs, "OUTPUTS", (refusing, *outputs.OUTPUTS))
    publishers = Outputs(node)
    publishers.publish(step, NodeParameters())  # nobody asks for it
    assert publishers.failing == ""

    grids = received(node, SemanticOccupancy, "occupancy")
    clouds = received(node, PointCloud2, "refusing")
    for topic in ("occupancy", "refusing"):
        spin_until(node, lambda t=topic: node.count_subscribers(f"/outputs_test/{t}"), 30, topic)
    for _ in range(2):
        publishers.publish(step, NodeParameters())
    spin_until(node, lambda: len(grids) >= 2, 30, "both grids")
    assert publishers.failing == (
        "~/refusing cannot be made: the image is too small; use a larger one"
    )
    figures = publishers.figures()
    assert (figures["failed_refusing"], figures["last_failed_output"]) == (2, publishers.failing)
    assert "published_refusing" not in figures

    refusing.error = None
    publishers.publish(step, NodeParameters())
    spin_until(node, lambda: clouds, 30, "the message")
    assert publishers.failing == ""
    assert publishers.figures()["failed_refusing"] == 2
    publishers.close()


def test_a_grid_that_cannot_be_made_drops_its_frame_set_and_the_others_are_published(
    node: Node, step: Step, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Always(Refusing):
        when = "always"

    monkeypatch.setattr(outputs, "OUTPUTS", (Always(), *outputs.OUTPUTS))
    publishers = Outputs(node)
    with pytest.raises(OccError, match="too small"):
        publishers.publish(step, NodeParameters())
    assert publishers.figures()["published_occupancy"] == 1
    publishers.close()
