"""What the diagnostics say about the node's name, and about static transforms alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("occ_perception.ros.diagnostics", exc_type=ImportError)

import rclpy
from car import spin_until
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

from occ_perception.ros.diagnostics import ERROR, OK, DiagnosticsPublisher, Status
from occ_perception.ros.pose_inputs import TransformInput

pytestmark = pytest.mark.ros


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("occupancy_node", namespace="/car")
    yield node
    node.destroy_node()


def test_names_begin_with_the_namespace(node: Node) -> None:
    reports: list[DiagnosticArray] = []
    node.create_subscription(DiagnosticArray, "/diagnostics", reports.append, 10)
    status = Status("time", OK, "0 jumps back")
    publisher = DiagnosticsPublisher(node, "model on cpu", lambda: [status], lambda _: None)
    spin_until(node, lambda: reports, 30, "a report")
    assert reports[0].status[0].name == "car/occupancy_node: time"
    publisher.close()


def test_a_refused_static_transform_is_no_fault_of_the_moving_ones(
    node: Node, child_environment: dict[str, str]
) -> None:
    assert child_environment, "it makes tf2_msgs importable"
    from tf2_msgs.msg import TFMessage

    inputs = TransformInput(
        node, "/tf", "auto", lambda _newest, _message, static: ("no rotation",) if static else ()
    )
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    static = node.create_publisher(TFMessage, "/tf_static", latched)
    static.publish(TFMessage(transforms=[TransformStamped(child_frame_id="camera")]))
    moving = node.create_publisher(TFMessage, "/tf", 10)

    def both_came() -> bool:
        inputs.poll()
        moving.publish(TFMessage(transforms=[TransformStamped(child_frame_id="base_link")]))
        return all(status.values["received"] for status in inputs.statuses(5.0, True))

    spin_until(node, both_came, 30, "both topics")
    pose, mounts = inputs.statuses(5.0, True)
    assert (pose.task, pose.level) == ("ego pose", OK)
    assert (mounts.task, mounts.level, mounts.message) == (
        "static transforms", ERROR, "no rotation"
    )  # fmt: skip
    inputs.close()
