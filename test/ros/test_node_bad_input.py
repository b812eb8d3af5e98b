"""The node with bad input: it keeps running, and its diagnostics report the problem."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import CAMERAS, HEIGHT, WIDTH, Car, Listener, image, jpeg, spin_for, spin_until, write_rig
from nav_msgs.msg import Odometry
from processes import SMALL_MODEL_NODE, RunningProcess
from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import ReliabilityPolicy
from ros_fixtures import Launch
from sensor_msgs.msg import CompressedImage, Image

pytestmark = pytest.mark.ros

ERROR, WARN, OK = b"\x02", b"\x01", b"\x00"
SECOND = 10**9
PERIOD = SECOND // 2


class Drive:
    """One node process that all tests of this module share; time increases between tests."""

    def __init__(self, node: Node, process: RunningProcess) -> None:
        self.node = node
        self.process = process
        self.car = Car(node)
        self.listener = Listener(node)
        self.now_ns = 1_500_000_000 * SECOND

    def next_start(self, step_ns: int = PERIOD) -> int:
        self.now_ns += step_ns
        return self.now_ns

    def expect_output(self, stamp_ns: int) -> None:
        assert self.process.is_running, self.process.output()
        self.listener.wait_for_grid(stamp_ns)

    def set_parameter(self, name: str, value: Any) -> SetParametersResult:
        """Through the node's parameter service, as `ros2 param set` does."""
        client = AsyncParameterClient(self.node, "occupancy_node")
        assert client.wait_for_services(30)
        future = client.set_parameters([Parameter(name, value=value)])
        rclpy.spin_until_future_complete(self.node, future, timeout_sec=30)
        return future.result().results[0]

    def good_frame_set(self) -> None:
        """The node must be back to normal."""
        self.expect_output(self.car.frame_set(self.next_start()))
        assert self.listener.wait_for_status("inference", "predicting").level == OK


@pytest.fixture(scope="module")
def drive(
    launch_for_module: Launch, tmp_path_factory: pytest.TempPathFactory, ros_context: None
) -> Iterator[Drive]:
    assert ros_context is None
    rig = write_rig(tmp_path_factory.mktemp("rig") / "rig.yaml")
    process = launch_for_module(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args",
            "-p", "model:=alocc_2d_mini_small", "-p", "random_weights_seed:=0",
            "-p", "device:=cpu", "-p", f"rig:={rig}",
            # Generous: the machine that runs the tests may be busy.
            "-p", "stale_after_s:=60.0", "-p", "sync.deadline_ms:=1500.0",
            "-p", "pose.wait_ms:=1500.0", "-p", "modle:=typo",
        ]
    )  # fmt: skip
    node = rclpy.create_node("bad_input_test")
    drive = Drive(node, process)
    drive.car.wait_until_heard()
    yield drive
    assert process.stop() == 0, process.output()
    node.destroy_node()


def test_a_good_frame_set_has_an_output(drive: Drive) -> None:
    drive.good_frame_set()
    assert drive.listener.status("camera CAM_BACK").level == OK
    assert drive.listener.status("ego pose").level == OK
    values = drive.listener.values("inference")
    assert float(values["latency_ms_p50"]) > 0
    assert int(values["published_occupancy"]) == 1


def test_an_unknown_parameter_is_reported(drive: Drive) -> None:
    status = drive.listener.wait_for_status("parameters", "did you mean model?")
    assert status.level == WARN
    assert "parameter modle does not exist" in drive.process.output()


def test_parameters_change_while_running_or_are_refused_with_a_reason(drive: Drive) -> None:
    assert drive.set_parameter("occupancy_encoding", "dense").successful
    drive.good_frame_set()
    newest = drive.listener.grids[max(drive.listener.grids)]
    assert (newest.encoding, len(newest.labels)) == (newest.DENSE, 24 * 24 * 16)
    refused = drive.set_parameter("occupancy_encoding", "zip")
    assert not refused.successful
    assert "must be one of rle, sparse, dense" in refused.reason
    assert not drive.set_parameter("model", "another").successful
    assert drive.set_parameter("occupancy_encoding", "rle").successful


def test_a_truncated_jpeg_drops_its_frame_set_only(drive: Drive) -> None:
    start = drive.next_start()
    broken = jpeg(image("CAM_BACK", 0.0))[:-200]
    stamp = drive.car.frame_set(start, replaced={"CAM_BACK": broken})
    status = drive.listener.wait_for_status("camera CAM_BACK", "CAM_BACK")
    assert status.level == ERROR
    assert "truncated" in status.message
    assert drive.listener.values("inference")["frame_sets_failed_undecodable_image"] == "1"
    assert stamp not in drive.listener.grids
    drive.good_frame_set()


def test_an_image_of_another_size_is_refused(drive: Drive) -> None:
    half = jpeg(image("CAM_FRONT_LEFT", 0.0)[: HEIGHT // 2])
    drive.car.frame_set(drive.next_start(), replaced={"CAM_FRONT_LEFT": half})
    status = drive.listener.wait_for_status("camera CAM_FRONT_LEFT", f"{WIDTH}x{HEIGHT // 2}")
    assert status.level == ERROR
    assert f"calibrated for {WIDTH}x{HEIGHT}" in status.message
    drive.good_frame_set()


def test_a_frame_set_without_a_camera_is_dropped_at_its_deadline(drive: Drive) -> None:
    before = int(drive.listener.values("synchronization")["dropped_incomplete"])
    stamp = drive.car.frame_set(drive.next_start(), without=["CAM_BACK_LEFT"])
    status = drive.listener.wait_for_status("synchronization", "without CAM_BACK_LEFT")
    assert status.level == WARN
    assert int(drive.listener.values("synchronization")["dropped_incomplete"]) == before + 1
    drive.good_frame_set()
    assert stamp not in drive.listener.grids


def test_a_pose_gap_is_named(drive: Drive) -> None:
    start = drive.next_start(2 * SECOND)
    drive.car.pose(start + SECOND)
    stamp = drive.car.frame_set(start, with_poses=False)
    status = drive.listener.wait_for_status("inference", "lies in a gap of")
    assert status.level == ERROR
    assert drive.listener.values("inference")["frame_sets_failed_pose_unavailable"] == "1"
    drive.now_ns += SECOND
    drive.good_frame_set()
    assert stamp not in drive.listener.grids


def test_poses_that_stop_are_named(drive: Drive) -> None:
    stamp = drive.car.frame_set(drive.next_start(), with_poses=False)
    status = drive.listener.wait_for_status("inference", "newer than the newest pose")
    assert status.level == ERROR
    assert drive.listener.values("inference")["frame_sets_failed_pose_not_yet"] == "1"
    drive.good_frame_set()
    assert stamp not in drive.listener.grids


def test_unknown_encoding_and_raw_images(drive: Drive) -> None:
    """The node follows a camera that changes to raw images, and names an unknown encoding."""
    name = "CAM_FRONT_RIGHT"
    compressed = drive.car.images.pop(name)
    drive.node.destroy_publisher(compressed)
    raw = drive.node.create_publisher(Image, drive.car.topic(name, "image"), 10)
    spin_until(drive.node, raw.get_subscription_count, 15, "the node follows to raw images")
    spin_for(drive.node, 0.5)

    def frame_set(encoding: str) -> int:
        class RawPublisher:
            def publish(self, message: CompressedImage) -> None:
                sent = Image(
                    header=message.header,
                    width=WIDTH,
                    height=HEIGHT,
                    encoding=encoding,
                    step=3 * WIDTH,
                )
                sent.data = image(name, 0.0).tobytes()
                raw.publish(sent)

        drive.car.images[name] = RawPublisher()
        return drive.car.frame_set(drive.next_start())

    stamp = frame_set("yuv999")
    status = drive.listener.wait_for_status(f"camera {name}", "unknown image encoding 'yuv999'")
    assert status.level == ERROR
    drive.expect_output(frame_set("rgb8"))
    assert stamp not in drive.listener.grids

    drive.node.destroy_publisher(raw)
    drive.car.images[name] = drive.node.create_publisher(
        CompressedImage, drive.car.topic(name, "image"), 10
    )
    spin_until(
        drive.node, drive.car.images[name].get_subscription_count, 15, "the node follows back"
    )
    spin_for(drive.node, 0.5)
    drive.good_frame_set()


def test_a_best_effort_camera_is_followed(drive: Drive) -> None:
    name = "CAM_BACK_RIGHT"
    drive.node.destroy_publisher(drive.car.images[name])
    drive.car.images[name] = drive.node.create_publisher(
        CompressedImage, drive.car.topic(name, "image"), rclpy.qos.qos_profile_sensor_data
    )
    assert rclpy.qos.qos_profile_sensor_data.reliability == ReliabilityPolicy.BEST_EFFORT
    spin_until(drive.node, drive.car.images[name].get_subscription_count, 15, "the node subscribes")
    spin_for(drive.node, 0.5)
    drive.good_frame_set()
    assert drive.listener.values(f"camera {name}")["qos"] == "best_effort"
    assert drive.listener.values("camera CAM_BACK")["qos"] == "reliable"


def test_time_that_goes_back_starts_over(drive: Drive) -> None:
    drive.good_frame_set()
    drive.good_frame_set()
    assert drive.listener.grids[max(drive.listener.grids)].history_length > 0
    jumps = int(drive.listener.values("time")["jumps_back"])
    drive.now_ns -= 100 * SECOND
    stamp = drive.car.frame_set(drive.next_start())
    message = drive.listener.wait_for_grid(stamp)
    assert message.history_length == 0
    assert "time went back by" in message.history_break
    drive.listener.wait_for_status("time", f"{jumps + 1} jumps back")
    drive.good_frame_set()
    assert drive.listener.grids[max(s for s in drive.listener.grids if s <= drive.now_ns + SECOND)]


def test_a_second_odometry_publisher_is_named_and_resets_nothing(drive: Drive) -> None:
    """It is 5 s behind."""
    drive.good_frame_set()
    jumps = drive.listener.values("time")["jumps_back"]
    rejected = int(drive.listener.values("ego pose")["rejected"])
    other_node = rclpy.create_node("second_localisation")
    first, second = (
        drive.car.poses,
        other_node.create_publisher(Odometry, drive.car.poses.topic_name, 10),
    )
    spin_until(other_node, second.get_subscription_count, 20, "the node matches it")
    spin_for(drive.node, 0.5)

    class Both:
        def publish(self, message: Odometry) -> None:
            first.publish(message)
            late = deepcopy(message)
            late.header.stamp.sec -= 5
            late.pose.pose.position.x += 300.0
            second.publish(late)

    drive.car.poses = Both()
    stamps = []
    for _ in range(4):
        stamps.append(drive.car.frame_set(drive.next_start()))
        drive.expect_output(stamps[-1])
    drive.car.poses = first
    assert not any(drive.listener.grids[stamp].history_break for stamp in stamps)
    assert drive.listener.values("time")["jumps_back"] == jumps
    status = drive.listener.wait_for_status(
        "ego pose", "is sent by two publishers: /bad_input_test"
    )
    assert "is used, /second_localisation is not; stop one of them" in status.message
    values = {pair.key: pair.value for pair in status.values}
    assert int(values["rejected"]) == rejected + 4 * len(CAMERAS)
    other_node.destroy_node()


def test_diagnostics_continue_when_all_inputs_stop(drive: Drive) -> None:
    drive.set_parameter("stale_after_s", 2.0)
    seen = len(drive.listener.reports)
    spin_for(drive.node, 6.0)
    assert len(drive.listener.reports) - seen >= 3
    for camera in ("CAM_FRONT", "CAM_BACK"):
        status = drive.listener.status(f"camera {camera}")
        assert status.level == ERROR
        assert "no image for" in status.message
    assert "no frame set for" in drive.listener.status("synchronization").message
    drive.set_parameter("stale_after_s", 60.0)
    drive.good_frame_set()


def test_a_late_subscriber_gets_the_next_grid(drive: Drive) -> None:
    late_node = rclpy.create_node("late")
    late = Listener(late_node)
    spin_until(
        late_node,
        lambda: late_node.count_publishers("/occupancy_node/occupancy"),
        10,
        "the late subscriber sees the node",
    )
    spin_for(late_node, 0.5)
    stamp = drive.car.frame_set(drive.next_start())
    late.wait_for_grid(stamp)
    late_node.destroy_node()


def test_every_value_of_the_diagnostics_is_documented(drive: Drive) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "node.md").read_text()
    section = page[page.index("## Diagnostics") : page.index("## Playing bags")]
    for status in drive.listener.reports[-1].status:
        task = status.name.split(": ")[1].split(" CAM")[0]
        assert f"`{task}" in section
        for pair in status.values:
            key = re.sub(r"_(p50|p90|p99|max)$", "", pair.key)
            key = re.sub(r"^(frame_sets_failed|published)_.*", r"\1_(", key)
            assert f"`{key}" in section, pair.key


def test_the_log_has_no_traceback(drive: Drive) -> None:
    assert "Traceback" not in drive.process.output()
