"""`occ play` as a process, with real subscribers."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("occ_perception.ros.player", exc_type=ImportError)

import rclpy
from car import CAMERAS, image, jpeg, ros_time, small_rig, spin_for, spin_until
from nav_msgs.msg import Odometry
from processes import OCC, RunningProcess
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros_fixtures import Launch
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage
from typer.testing import CliRunner

from occ_perception.bags.writing import BagWriter, camera_topic
from occ_perception.cli import app
from occ_perception.ros.lockstep import obstacle_to_output

pytestmark = pytest.mark.ros

SECOND = 10**9
PERIOD = SECOND // 12
START = 1_600_000_000 * SECOND
FRAME_SETS = 12
FRONT = camera_topic("CAM_FRONT")


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frame sets in about a second; the last but one has no CAM_BACK."""
    path = tmp_path_factory.mktemp("bags") / "drive"
    thumbnails = {name: jpeg(image(name, 0.0)[:32, :32]) for name in CAMERAS}
    readings = [
        (START + index * PERIOD + round(offset * 1e9), name, index)
        for index in range(FRAME_SETS)
        for name, (_, offset) in CAMERAS.items()
    ]
    rig = small_rig()
    with BagWriter(path) as writer:
        mounts = [("base_link", c.frame_id, c.ego_T_cam) for c in rig.cameras]
        writer.write_transforms(START, mounts, static=True)
        for stamp, name, index in readings:
            writer.write_odometry(stamp, np.eye(4))
            writer.write_camera_info(rig.camera(name), stamp)
            if (index, name) != (FRAME_SETS - 2, "CAM_BACK"):
                writer.write_camera(name, stamp, thumbnails[name])
    return path


def stamp_of(message: object) -> int:
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec


class Audience:
    """Subscribes to one topic and keeps what arrives, with the time of arrival."""

    def __init__(self, node: Node, kind: type, topic: str, qos: QoSProfile | int = 100) -> None:
        self.heard: list[tuple[float, object]] = []
        node.create_subscription(
            kind, topic, lambda message: self.heard.append((time.monotonic(), message)), qos
        )

    @property
    def stamps(self) -> list[int]:
        return [stamp_of(message) for _, message in self.heard]


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("audience")
    yield node
    node.destroy_node()


def spin_while_running(node: Node, process: RunningProcess, timeout_s: float = 90.0) -> int:
    spin_until(node, lambda: not process.is_running, timeout_s, "the player ends")
    spin_for(node, 0.5)
    return process.wait(1.0)


def test_every_message_arrives_in_order_and_in_time(bag: Path, node: Node, launch: Launch) -> None:
    front = Audience(node, CompressedImage, FRONT)
    odometry = Audience(node, Odometry, "/odom", 200)
    info = Audience(node, CameraInfo, "/cam_back/camera_info")
    clock = Audience(node, Clock, "/clock")
    player = launch([*OCC, "play", bag, "--rate", "0.5", "--clock", "50"])
    assert spin_while_running(node, player) == 0, player.output()
    assert front.stamps == [START + round(0.008 * 1e9) + i * PERIOD for i in range(FRAME_SETS)]
    assert len(odometry.heard) == FRAME_SETS * len(CAMERAS)
    assert len(info.heard) == FRAME_SETS
    took = front.heard[-1][0] - front.heard[0][0]
    assert took == pytest.approx(2 * (FRAME_SETS - 1) / 12, abs=1.0)
    ticks = [m.clock.sec * SECOND + m.clock.nanosec for _, m in clock.heard]
    assert ticks == sorted(ticks)
    before = [m for arrived, m in clock.heard if arrived < front.heard[0][0]]
    assert len(before) > 5, "the clock stands at the beginning while subscribers are awaited"
    assert len(ticks) > 20
    assert START - SECOND < ticks[0] <= ticks[-1] <= START + FRAME_SETS * PERIOD
    assert bytes(front.heard[0][1].data) == jpeg(image("CAM_FRONT", 0.0)[:32, :32])


def test_start_topics_and_remapping(bag: Path, node: Node, launch: Launch) -> None:
    renamed = Audience(node, CompressedImage, "/front")
    other = Audience(node, CompressedImage, camera_topic("CAM_BACK"))
    player = launch(
        [*OCC, "play", bag, "--topic", FRONT, "--remap", f"{FRONT}:=/front", "--start", "0.5"]
    )
    assert spin_while_running(node, player) == 0, player.output()
    assert renamed.stamps == [START + round(0.008 * 1e9) + i * PERIOD for i in range(6, FRAME_SETS)]
    assert other.heard == []
    assert "skipped" not in player.output()


def test_loop_restarts_until_interrupted_and_keeps_mounts_for_late_subscribers(
    bag: Path, node: Node, launch: Launch
) -> None:
    from tf2_msgs.msg import TFMessage

    front = Audience(node, CompressedImage, FRONT)
    player = launch([*OCC, "play", bag, "--loop", "--rate", "2"])
    spin_until(node, lambda: len(front.heard) > 2 * FRAME_SETS, 60, "the third round")
    assert front.stamps[:FRAME_SETS] == front.stamps[FRAME_SETS : 2 * FRAME_SETS]
    latched = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    mounts = Audience(node, TFMessage, "/tf_static", latched)
    spin_until(node, lambda: mounts.heard, 10, "mounts for a late listener")
    assert len(mounts.heard[0][1].transforms) == len(CAMERAS)
    assert player.stop() == 0


class SlowNode:
    """Publishes an output for a reference image after a while, with its stamp, like the node."""

    def __init__(self, node: Node, ignore: set[int] | None = None) -> None:
        self.published_at: dict[int, float] = {}
        self.images = Audience(node, CompressedImage, FRONT)
        self.others = {
            name: Audience(node, CompressedImage, camera_topic(name))
            for name in CAMERAS
            if name != "CAM_FRONT"
        }
        self._publisher = node.create_publisher(Odometry, "/outputs", 10)
        self._ignore = ignore or set()
        node.create_timer(0.05, self._publish)

    def _publish(self) -> None:
        for arrived, message in self.images.heard:
            stamp = stamp_of(message)
            is_due = time.monotonic() - arrived > 0.15 and stamp not in self.published_at
            if is_due and stamp not in self._ignore:
                self.published_at[stamp] = time.monotonic()
                output = Odometry()
                output.header.stamp = ros_time(stamp)
                self._publisher.publish(output)


def test_lockstep_waits_for_every_output(bag: Path, node: Node, launch: Launch) -> None:
    slow = SlowNode(node)
    player = launch([*OCC, "play", bag, "--lockstep", "/outputs"])
    assert spin_while_running(node, player) == 0, player.output()
    stamps = slow.images.stamps
    assert len(stamps) == FRAME_SETS
    for (arrived, _), before in zip(slow.images.heard[1:], stamps[:-1], strict=True):
        assert arrived > slow.published_at[before]
    # All images of a frame set are sent before its output.
    for (arrived, _), stamp in zip(slow.others["CAM_BACK_LEFT"].heard, stamps, strict=True):
        assert arrived < slow.published_at[stamp]
    assert f"{FRAME_SETS} of {FRAME_SETS} frame sets have an output" in player.output()


def test_lockstep_reports_frame_sets_without_output(bag: Path, node: Node, launch: Launch) -> None:
    silent = START + round(0.008 * 1e9) + (FRAME_SETS - 2) * PERIOD
    slow = SlowNode(node, ignore={silent})
    player = launch(
        [*OCC, "play", bag, "--lockstep", "/outputs", "--output-timeout", "3", "--start", "0.6"]
    )
    assert spin_while_running(node, player) == 1, player.output()
    assert len(slow.published_at) == len(slow.images.heard) - 1
    assert "has no output on /outputs after 3 s" in player.output()
    assert "the bag has no image of CAM_BACK for it" in player.output()
    assert "3 of 4 frame sets have an output on /outputs" in player.output()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nowhere/bag"], "no recording at /nowhere/bag"),
        (["BAG", "--rate", "0"], "rate must be positive"),
        (["BAG", "--delay", "-1"], "--delay must be a number from 0 up, got -1"),
        (["BAG", "--start", "-0.5"], "--start must be a number from 0 up, got -0.5"),
        (["BAG", "--clock", "nan"], "--clock must be a number from 0 up, got nan"),
        (["BAG", "--lockstep", "/outputs", "--clock", "10"], "exclude each other"),
        (["BAG", "--lockstep", "/outputs", "--loop"], "cannot be combined with --loop"),
        (["BAG", "--remap", "a=b"], "FROM:=TO"),
    ],
)
def test_refusals_are_one_line(bag: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["play", *(str(bag) if a == "BAG" else a for a in arguments)])
    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.splitlines()) == 1


def test_a_bag_that_lacks_messages_is_played_and_reported(
    bag: Path, tmp_path: Path, launch: Launch
) -> None:
    copy = shutil.copytree(bag, tmp_path / "drive")
    content = yaml.safe_load((copy / "metadata.yaml").read_text())
    for topic in content["rosbag2_bagfile_information"]["topics_with_message_count"]:
        if topic["topic_metadata"]["name"] == "/odom":
            topic["message_count"] += 1
    (copy / "metadata.yaml").write_text(yaml.safe_dump(content))
    player = launch([*OCC, "play", copy, "--rate", "20", "--wait", "0"])
    assert player.wait(60) == 1
    count = FRAME_SETS * len(CAMERAS)
    assert f"/odom {count} instead of {count + 1}" in player.output()
    assert f"played {3 * count} messages" in player.output()


def test_a_topic_that_the_bag_lacks_is_refused(bag: Path, launch: Launch) -> None:
    player = launch([*OCC, "play", bag, "--topic", "/nothing"])
    assert player.wait(60) == 2
    assert "bag has no topic /nothing; it has /cam_back/camera_info" in player.output()
    assert "Traceback" not in player.output()


def test_a_reader_that_cannot_receive_what_is_played_is_no_subscriber(ros_context: None) -> None:
    """An input subscribes before it knows its publishers."""
    assert ros_context is None
    listener, speaker = rclpy.create_node("early_listener"), rclpy.create_node("early_player")
    listener.create_publisher(Odometry, "/outputs", 10)
    best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    speaker.create_publisher(CompressedImage, "/front", best_effort)

    def obstacle() -> str:
        return obstacle_to_output(speaker, "/outputs", ["/front"])

    wanted = "the node that publishes /outputs does not receive /front"
    spin_until(speaker, lambda: obstacle() == wanted, 20, "the output is seen")
    early = listener.create_subscription(CompressedImage, "/front", print, 1)
    spin_until(speaker, lambda: speaker.count_subscribers("/front"), 20, "the reader is seen")
    assert obstacle() == wanted, "it is reliable"
    listener.destroy_subscription(early)
    listener.create_subscription(CompressedImage, "/front", print, best_effort)
    spin_until(speaker, lambda: not obstacle(), 20, "a reader that matches")
    listener.destroy_node()
    speaker.destroy_node()
