"""missing_camera: mask, over DDS: cameras die, the reference camera too, and come back."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import CAMERAS, Car, Listener, spin_until, write_rig
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from ros_fixtures import Launch

from occ_msgs.msg import SemanticOccupancy

pytestmark = pytest.mark.ros

SECOND = 10**9
PERIOD = SECOND // 10


class Drive:
    """One node that the tests share; they depend on each other, in order."""

    def __init__(self, node: Node, process: RunningProcess) -> None:
        self.node = node
        self.process = process
        self.car = Car(node)
        self.listener = Listener(node)
        self.now_ns = 1_500_000_000 * SECOND

    def send(self, *without: str) -> int:
        """One frame set; returns the stamp of its first image."""
        self.now_ns += PERIOD
        self.car.frame_set(self.now_ns, without=without)
        return self.now_ns

    def whole_grid(self) -> SemanticOccupancy:
        """The grid of a frame set with all cameras."""
        return self.listener.wait_for_grid(self.send() + 8 * 10**6)

    def says(self, text: str) -> None:
        spin_until(self.node, lambda: text in self.process.output(), 30, f"the console: {text}")


@pytest.fixture(scope="module")
def drive(
    launch_for_module: Launch, tmp_path_factory: pytest.TempPathFactory, ros_context: None
) -> Iterator[Drive]:
    assert ros_context is None
    rig = write_rig(tmp_path_factory.mktemp("rig") / "rig.yaml")
    process = launch_for_module(
        [sys.executable, SMALL_MODEL_NODE, "--ros-args", "-p", "model:=alocc_2d_mini_small",
         "-p", "random_weights_seed:=0", "-p", "device:=cpu", "-p", f"rig:={rig}",
         "-p", "missing_camera:=mask", "-p", "sync.deadline_ms:=1500.0",
         "-p", "pose.wait_ms:=1500.0", "-p", "stale_after_s:=60.0"]
    )  # fmt: skip
    node = rclpy.create_node("masked_cameras_test")
    drive = Drive(node, process)
    drive.car.wait_until_heard()
    yield drive
    assert process.stop() == 0, process.output()
    node.destroy_node()


def test_a_camera_that_dies_is_left_out_and_comes_back(drive: Drive) -> None:
    for _ in range(3):
        before = drive.whole_grid()
    *_, last = [drive.send("CAM_BACK") for _ in range(9)]
    grid = drive.listener.wait_for_grid(last + 8 * 10**6)
    assert set(grid.camera_names) == set(CAMERAS) - {"CAM_BACK"}
    assert grid.model == f"{before.model} without CAM_BACK"
    assert grid.history_length > 0 and not grid.history_break
    drive.listener.wait_for_status("synchronization", "do without CAM_BACK until images come again")
    drive.says("synchronization: frame sets do without CAM_BACK")
    incomplete = int(drive.listener.values("synchronization")["incomplete"])
    grid = drive.whole_grid()
    assert set(grid.camera_names) == set(CAMERAS) and grid.model == before.model
    drive.listener.wait_for_status("synchronization", "frame sets are complete")
    assert int(drive.listener.values("synchronization")["incomplete"]) == incomplete


def test_the_grid_has_the_next_cameras_stamp_while_the_reference_camera_is_dead(
    drive: Drive,
) -> None:
    *_, last = [drive.send("CAM_FRONT") for _ in range(9)]
    grid = drive.listener.wait_for_grid(last)  # CAM_FRONT_LEFT, the first of the model
    assert grid.camera_names[0] == "CAM_FRONT_LEFT" and "CAM_FRONT" not in grid.camera_names
    drive.listener.wait_for_status("synchronization", "the grid has the time of CAM_FRONT_LEFT")
    grid = drive.whole_grid()
    assert set(grid.camera_names) == set(CAMERAS)
