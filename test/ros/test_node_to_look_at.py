"""What the node publishes for RViz and Foxglove, from the real node over real DDS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)
pytest.importorskip("numba")

import rclpy
from car import Car, Listener, spin_until, write_rig
from processes import SMALL_MODEL_NODE
from rclpy.node import Node
from ros_fixtures import Launch
from sensor_msgs.msg import CompressedImage, PointCloud2
from visualization_msgs.msg import Marker, MarkerArray

from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.ros.messages import prediction_from_message
from occ_perception.ros.visual_messages import OVERLAY_WIDTH

pytestmark = pytest.mark.ros

START_NS = 1_700_000_000 * 10**9
TOPICS = {
    "occupancy_points": PointCloud2,
    "flow_markers": MarkerArray,
    "debug/overlay/compressed": CompressedImage,
}
# The overlay's loops are compiled once, which takes minutes on a busy machine.
PATIENCE_S = 900.0


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    created = rclpy.create_node("to_look_at_test")
    yield created
    created.destroy_node()


def test_points_arrows_and_overlay_come_with_the_grid(
    launch: Launch, tmp_path: Path, node: Node
) -> None:
    rig = write_rig(tmp_path / "rig.yaml")
    given = ["model:=alocc_flow_2d_small", "random_weights_seed:=0", "device:=cpu", f"rig:={rig}"]
    given += ["sync.deadline_ms:=1500.0", "pose.wait_ms:=1500.0"]
    options = [part for parameter in given for part in ("-p", parameter)]
    process = launch([sys.executable, SMALL_MODEL_NODE, "--ros-args", *options])
    received: dict[str, list[Any]] = {name: [] for name in TOPICS}
    for name, kind in TOPICS.items():
        node.create_subscription(kind, f"/occupancy_node/{name}", received[name].append, 10)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard(PATIENCE_S)
    spin_until(
        node,
        lambda: all(node.count_publishers(f"/occupancy_node/{name}") for name in TOPICS),
        PATIENCE_S,
        "the outputs are advertised",
    )
    stamp_ns = car.frame_set(START_NS)
    grid = prediction_from_message(listener.wait_for_grid(stamp_ns, PATIENCE_S))
    spin_until(node, lambda: all(received.values()), PATIENCE_S, "all three")

    points, markers, overlay = (received[name][0] for name in TOPICS)
    for header in (points.header, markers.markers[0].header, overlay.header):
        assert header.stamp.sec * 10**9 + header.stamp.nanosec == stamp_ns
        assert header.frame_id == "base_link"
    assert [field.name for field in points.fields][-2:] == ["vx", "vy"]
    occupied = (grid.labels != grid.empty_class) & (grid.labels != UNKNOWN_CLASS)
    assert points.width == occupied.sum()
    raw = np.frombuffer(bytes(points.data), np.uint8).reshape(points.width, points.point_step)
    velocity = raw[:, 20:28].copy().view("<f4")
    assert np.isfinite(velocity).all() and velocity.any()
    assert markers.markers[0].action == Marker.DELETEALL
    assert all(marker.type == Marker.ARROW for marker in markers.markers[1:])
    image = cv2.imdecode(np.frombuffer(bytes(overlay.data), np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[1] == OVERLAY_WIDTH and image.any()

    listener.wait_for_status("inference", "predicting", PATIENCE_S)
    values = listener.values("inference")
    assert all(values[f"published_{name}"] == "1" for name in TOPICS)
    assert not [name for name in values if name.startswith("failed_")]
    assert process.stop(60) == 0, process.output()
