"""End to end: frames in a devkit folder, a bag, DDS, the node, and the resulting grids.

Player and node are separate processes, as on a robot; the test subscribes in a third one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Listener, spin_until
from nuscenes_folder import VERSION, Image, drawn_scene, real_scene
from processes import OCC, SMALL_MODEL_NODE, python_module
from rclpy.node import Node
from ros_fixtures import Launch
from sensor_msgs.msg import PointCloud2
from small_streams import small_card

from occ_perception.bags.drive import open_recording
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.frames import OccupancyPrediction
from occ_perception.models.zoo import MODELS
from occ_perception.ros.messages import prediction_from_message
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model

pytestmark = pytest.mark.ros

SEED = 3


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("listener")
    yield node
    node.destroy_node()


@dataclass
class Outcome:
    """Output of node and player."""

    listener: Listener
    clouds: list[PointCloud2]
    player_output: str


def play_into_node(
    launch: Launch,
    node: Node,
    bag: Path,
    command: list[str | Path],
    model: str,
    pose_source: str,
) -> Outcome:
    listener = Listener(node)
    clouds: list[PointCloud2] = []
    node.create_subscription(PointCloud2, "/occupancy_node/occupancy_points", clouds.append, 10)
    occupancy_node = launch(
        [*command, "--ros-args", "-p", f"model:={model}", "-p", f"random_weights_seed:={SEED}",
         "-p", "device:=cpu", "-p", "layout:=occ_perception", "-p", "sync.deadline_ms:=2000.0",
         "-p", "pose.wait_ms:=2000.0",
         "-p", f"pose.source:={pose_source}"]
    )  # fmt: skip
    spin_until(
        node, lambda: node.count_publishers("/occupancy_node/occupancy"), 120, "the node starts"
    )
    player = launch(
        [*OCC, "play", bag, "--lockstep", "/occupancy_node/occupancy", "--output-timeout", "180"]
    )
    spin_until(node, lambda: not player.is_running, 900, "the player ends")
    assert player.wait(1) == 0, player.output() + occupancy_node.output()
    report_count = len(listener.reports)
    spin_until(node, lambda: len(listener.reports) > report_count, 30, "a last report")
    # The player waits for grids only; their point clouds are larger and arrive later.
    spin_until(node, lambda: len(clouds) >= len(listener.grids), 60, "the last cloud")
    assert occupancy_node.stop() == 0, occupancy_node.output()
    assert "Traceback" not in occupancy_node.output()
    return Outcome(listener, clouds, player.output())


def predict_offline(bag: Path, model: str) -> list[OccupancyPrediction]:
    stream = OccupancyStream(load_model(model, random_seed=SEED))
    with open_recording(bag) as frames:
        return [stream.step(frame) for frame in frames]


def check(outcome: Outcome, offline: list[OccupancyPrediction], images: list[Image]) -> None:
    """Compare every field of the messages with the recording and with the stream run offline."""
    fronts = [image.stamp_ns for image in images if image.channel == "CAM_FRONT"]
    stamps_of_frame_set = [
        {image.channel: image.stamp_ns for image in images if image.sample == index}
        for index in range(len(fronts))
    ]
    assert sorted(outcome.listener.grids) == fronts
    assert f"{len(fronts)} of {len(fronts)} frame sets have an output" in outcome.player_output
    assert len(offline) == len(fronts)
    for expected, frame_set in zip(offline, stamps_of_frame_set, strict=True):
        message = outcome.listener.grids[expected.stamp_ns]
        got = prediction_from_message(message)
        assert message.header.frame_id == "base_link"
        assert got.grid == expected.grid
        np.testing.assert_array_equal(got.ego_T_grid, expected.ego_T_grid)
        assert got.class_names == expected.class_names
        assert got.empty_class == expected.empty_class
        assert got.model == expected.model
        assert got.camera_stamps_ns == frame_set
        assert got.history_length == expected.history_length
        assert (got.committed, got.history_break) == (expected.committed, expected.history_break)
        np.testing.assert_array_equal(got.labels, expected.labels)
    values = outcome.listener.values("synchronization")
    assert (values["complete"], values["incomplete"]) == (str(len(fronts)), "0")
    assert outcome.listener.values("inference")["frame_sets_overwritten"] == "0"


def check_points(outcome: Outcome, offline: list[OccupancyPrediction]) -> None:
    assert [cloud.width for cloud in outcome.clouds] == [
        int((prediction.labels != prediction.empty_class).sum()) for prediction in offline
    ]
    cloud, prediction = outcome.clouds[-1], offline[-1]
    fields = {field.name: field.offset for field in cloud.fields}
    assert list(fields) == ["x", "y", "z", "rgb", "label", "vx", "vy"]
    raw = np.frombuffer(cloud.data, np.uint8).reshape(cloud.width, cloud.point_step)
    points = raw[:, :12].copy().view("<f4")
    labels = raw[:, fields["label"] :][:, :4].copy().view("<u4")[:, 0]
    voxels = prediction.grid.indices(points)
    np.testing.assert_array_equal(prediction.labels[tuple(voxels.T)], labels)


def test_drawn_frames_through_a_small_network(
    tmp_path: Path, node: Node, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node takes the pose from tf, the offline stream from odometry: the bag has both."""
    images = drawn_scene(tmp_path / "folder", keyframes=4, with_sweeps=False, size=(320, 180))
    bag = tmp_path / "bag"
    convert_nuscenes(tmp_path / "folder", VERSION, "scene-0001", bag, sweeps=False)
    model = "alocc_2d_mini_small"
    monkeypatch.setitem(MODELS, model, replace(small_card(), name=model))
    outcome = play_into_node(launch, node, bag, [sys.executable, SMALL_MODEL_NODE], model, "tf")
    offline = predict_offline(bag, model)
    assert len(offline) == 4
    check(outcome, offline, images)
    check_points(outcome, offline)


@pytest.mark.slow(ci=True)
def test_real_frames_through_the_released_network(
    tmp_path: Path, node: Node, launch: Launch, shared_dir: Path
) -> None:
    images = real_scene(tmp_path / "folder", shared_dir)
    bag = tmp_path / "bag"
    convert_nuscenes(tmp_path / "folder", VERSION, "scene-0103", bag, sweeps=False)
    model = "alocc_2d_mini"
    outcome = play_into_node(
        launch, node, bag, python_module("occ_perception.ros.node"), model, "odometry"
    )
    offline = predict_offline(bag, model)
    assert len(offline) == 4
    check(outcome, offline, images)
    check_points(outcome, offline)
    geometry = offline[0].grid
    assert (geometry.dims, geometry.voxel_size) == ((200, 200, 16), (0.4, 0.4, 0.4))
    assert geometry.lower == (-40.0, -40.0, -1.0)
