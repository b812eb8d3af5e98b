"""Networks with flow, and networks that take lidar depth, in the real node over real DDS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Car, Listener, ros_time, small_rig, spin_until
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from ros_fixtures import Launch
from sensor_msgs.msg import PointCloud2, PointField

from occ_msgs.msg import OccupancyFlow
from occ_perception.labels import LABEL_SETS
from occ_perception.ros.messages import flow_from_message, prediction_from_message
from occ_perception.sensing.calibration import save_rig

pytestmark = pytest.mark.ros

START_NS = 1_700_000_000 * 10**9
LIDAR_TOPIC = "/car/lidar/points"


def start(launch: Launch, folder: Path, model: str, *parameters: str) -> RunningProcess:
    ego_T_lidar = np.eye(4)
    ego_T_lidar[2, 3] = 1.8
    rig = folder / "rig.yaml"
    save_rig(rig, replace(small_rig(), ego_T_lidar=ego_T_lidar))
    given = [f"model:={model}", "random_weights_seed:=0", "device:=cpu", f"rig:={rig}", *parameters]
    # Generous: the machine that runs the tests may be busy.
    given += ["sync.deadline_ms:=1500.0", "pose.wait_ms:=1500.0"]
    options = [part for parameter in given for part in ("-p", parameter)]
    return launch([sys.executable, SMALL_MODEL_NODE, "--ros-args", *options])


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    created = rclpy.create_node("flow_and_depth_test")
    yield created
    created.destroy_node()


def cloud(stamp_ns: int, frame_id: str, distance_m: float) -> PointCloud2:
    """A ring of points around the car, at a height that the cameras see."""
    azimuth = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    heights = np.tile(np.linspace(-1.5, 1.0, 10), 400)
    columns = [distance_m * np.cos(azimuth), distance_m * np.sin(azimuth), heights]
    points = np.column_stack(columns).astype(np.float32)
    message = PointCloud2(height=1, width=len(points), point_step=12, row_step=12 * len(points))
    message.header.stamp = ros_time(stamp_ns)
    message.header.frame_id = frame_id
    message.fields = [
        PointField(name=axis, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, axis in enumerate("xyz")
    ]
    message.is_dense = True
    message.data = points.tobytes()
    return message


def test_flow_is_published_with_every_grid(launch: Launch, tmp_path: Path, node: Node) -> None:
    process = start(launch, tmp_path, "alocc_flow_2d_small", "flow_min_speed:=0.0")
    flows: dict[int, Any] = {}

    def on_flow(message: OccupancyFlow) -> None:
        flows[message.header.stamp.sec * 10**9 + message.header.stamp.nanosec] = message

    node.create_subscription(OccupancyFlow, "/occupancy_node/flow", on_flow, 10)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    # ~/flow is advertised with the first prediction, so a reader may miss that one.
    listener.wait_for_grid(car.frame_set(START_NS))
    for number in (1, 2):
        stamp_ns = car.frame_set(START_NS + number * 500_000_000)
        grid = listener.wait_for_grid(stamp_ns)
        spin_until(node, lambda stamp_ns=stamp_ns: stamp_ns in flows, 60, "flow of a grid")
        prediction = prediction_from_message(grid)
        velocity, flow_grid = flow_from_message(flows[stamp_ns])
        assert flow_grid == prediction.grid
        assert velocity.shape == (*prediction.grid.dims, 2)
        moving = LABEL_SETS["openocc"].moving_ids()
        listed = np.abs(velocity).max(axis=-1) > 0
        assert listed.any() and np.isfinite(velocity).all() and np.abs(velocity).max() <= 22
        assert np.isin(prediction.labels[listed], moving).all()
    assert process.stop() == 0, process.output()


def test_a_model_with_lidar_depth_runs_on_cameras_and_lidar(
    launch: Launch, tmp_path: Path, node: Node
) -> None:
    process = start(launch, tmp_path, "alocc_3d_gf_depth_small", f"lidar.topic:={LIDAR_TOPIC}")
    lidar = node.create_publisher(PointCloud2, LIDAR_TOPIC, 10)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    spin_until(node, lambda: lidar.get_subscription_count() > 0, 60, "the node hears the lidar")

    def predicted(stamp_ns: int, frame_id: str, distance_m: float) -> np.ndarray:
        lidar.publish(cloud(stamp_ns + 30_000_000, frame_id, distance_m))
        listener.wait_for_status("lidar", "receiving")
        grid = listener.wait_for_grid(car.frame_set(stamp_ns))
        return prediction_from_message(grid).labels

    near = predicted(START_NS, "lidar_top", 6.0)
    # Ten seconds later the history is empty; the same images modulo their slow drift.
    far = predicted(START_NS + 10 * 10**9, "base_link", 20.0)
    assert (near != far).mean() > 0.001
    # A frame set without a sweep is dropped with a reason; the next one with a sweep is processed.
    car.frame_set(START_NS + 10_500_000_000)
    status = listener.wait_for_status("inference", "ms away, at most 200 ms are allowed")
    assert "lidar sweep nearest to the frame set" in status.message
    assert listener.values("inference")["frame_sets_failed_no_lidar"] == "1"
    predicted(START_NS + 11_000_000_000, "lidar_top", 6.0)
    assert process.stop() == 0, process.output()


def test_without_a_lidar_topic_such_a_model_does_not_start(launch: Launch, tmp_path: Path) -> None:
    process = start(launch, tmp_path, "alocc_3d_gf_depth_small")
    assert process.wait(120) != 0
    assert "alocc_3d_gf_depth_small takes lidar depth and cannot run on cameras alone" in (
        process.output()
    )
    assert "Traceback" not in process.output()
