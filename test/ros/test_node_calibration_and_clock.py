"""Calibration from camera_info and tf, temporary camera failures, and a bag's /clock."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import (
    CAMERAS,
    HEIGHT,
    WIDTH,
    Car,
    Listener,
    camera_info,
    image,
    jpeg,
    ros_time,
    small_rig,
    spin_for,
    spin_until,
)
from geometry_msgs.msg import TransformStamped
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from ros_fixtures import Launch
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo

from occ_perception.geometry import pose_from_matrix

pytestmark = pytest.mark.ros

ERROR, OK = b"\x02", b"\x00"
SECOND = 10**9
PERIOD = SECOND // 2
LATCHED = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class SimulatedCar:
    """One node on simulated time; the tests below depend on each other, in order."""

    def __init__(self, node: Node, process: RunningProcess) -> None:
        from tf2_msgs.msg import TFMessage

        self.node = node
        self.process = process
        self.car = Car(node)
        self.listener = Listener(node)
        self.now_ns = 1_600_000_000 * SECOND
        self.clock = node.create_publisher(Clock, "/clock", 10)
        self.mounts = node.create_publisher(TFMessage, "/tf_static", LATCHED)
        self.tf = node.create_publisher(TFMessage, "/tf", 10)
        self.infos = {
            name: node.create_publisher(CameraInfo, self.car.topic(name, "camera_info"), LATCHED)
            for name in CAMERAS
        }
        self.rig = {camera.name: camera for camera in small_rig().cameras}

    def send_mounts(
        self,
        publisher: Publisher,
        higher_m: float = 0.0,
        others: Iterable[TransformStamped] = (),
    ) -> None:
        from tf2_msgs.msg import TFMessage

        message = TFMessage(transforms=list(others))
        for camera in self.rig.values():
            stamped = TransformStamped(child_frame_id=camera.frame_id)
            stamped.header.frame_id = "base_link"
            stamped.header.stamp = ros_time(self.now_ns)
            (x, y, z), (qx, qy, qz, qw) = pose_from_matrix(camera.ego_T_cam)
            translation, rotation = stamped.transform.translation, stamped.transform.rotation
            translation.x, translation.y, translation.z = x, y, z + higher_m
            rotation.x, rotation.y, rotation.z, rotation.w = qx, qy, qz, qw
            message.transforms.append(stamped)
        publisher.publish(message)

    def tick(self, step_ns: int) -> None:
        self.now_ns += step_ns
        self.clock.publish(Clock(clock=ros_time(self.now_ns)))
        spin_for(self.node, 0.2)

    def frame_set(self, **changes: object) -> int:
        self.tick(PERIOD)
        return self.car.frame_set(self.now_ns, **changes)


@pytest.fixture(scope="module")
def simulated(launch_for_module: Launch, ros_context: None) -> Iterator[SimulatedCar]:
    assert ros_context is None
    process = launch_for_module(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args",
            "-p", "model:=alocc_2d_mini_small", "-p", "random_weights_seed:=0",
            "-p", "device:=cpu", "-p", "use_sim_time:=true", "-p", "missing_camera:=reuse_last",
            "-p", "stale_after_s:=60.0", "-p", "sync.deadline_ms:=300.0",
        ]
    )  # fmt: skip
    node = rclpy.create_node("simulated_car")
    simulated = SimulatedCar(node, process)
    simulated.car.wait_until_heard()
    yield simulated
    assert process.stop() == 0, process.output()
    assert "Traceback" not in process.output()
    node.destroy_node()


def test_a_frame_set_waits_for_mounts_and_the_last_camera_info(simulated: SimulatedCar) -> None:
    listener = simulated.listener
    for name, publisher in simulated.infos.items():
        if name != "CAM_BACK":
            publisher.publish(camera_info(simulated.rig[name]))
    stamp = simulated.frame_set()
    front = listener.wait_for_status("camera CAM_FRONT", "no mount of cam_front_optical in tf")
    assert front.level == ERROR
    simulated.send_mounts(simulated.mounts)
    back = listener.wait_for_status("camera CAM_BACK", "no camera_info on")
    assert back.level == ERROR
    assert listener.wait_for_status("camera CAM_FRONT", "receiving").level == OK
    assert stamp not in listener.grids
    simulated.infos["CAM_BACK"].publish(camera_info(simulated.rig["CAM_BACK"]))
    listener.wait_for_grid(stamp)
    assert listener.wait_for_status("camera CAM_BACK", "receiving").level == OK


def test_a_camera_may_have_another_size_and_change_it(simulated: SimulatedCar) -> None:
    """A new camera_info takes effect while the node runs, and clears the history."""
    calibration = simulated.rig["CAM_BACK"]
    larger = replace(
        calibration,
        width=2 * WIDTH,
        height=2 * HEIGHT,
        K=np.diag([2.0, 2.0, 1.0]) @ calibration.K,
    )
    simulated.infos["CAM_BACK"].publish(camera_info(larger))
    spin_for(simulated.node, 1.0)
    enlarged = np.kron(image("CAM_BACK", 0.0), np.ones((2, 2, 1), np.uint8))
    message = simulated.listener.wait_for_grid(
        simulated.frame_set(replaced={"CAM_BACK": jpeg(enlarged)})
    )
    assert message.history_break == "camera calibration changed"
    report = simulated.listener.wait_for_status("synchronization", "")
    assert {pair.key: pair.value for pair in report.values}["calibration_changes"] == "1"

    simulated.infos["CAM_BACK"].publish(camera_info(calibration))
    spin_for(simulated.node, 1.0)
    simulated.listener.wait_for_grid(simulated.frame_set())


def test_a_missing_camera_is_bridged_with_its_last_image(simulated: SimulatedCar) -> None:
    complete = simulated.listener.wait_for_grid(simulated.frame_set())
    # Soon after: images older than half a second are not reused.
    simulated.tick(200_000_000)
    stamp = simulated.car.frame_set(simulated.now_ns, without=["CAM_BACK_LEFT"])
    spin_for(simulated.node, 1.0)
    assert stamp not in simulated.listener.grids, "the deadline has not passed in simulated time"
    simulated.tick(310_000_000)
    message = simulated.listener.wait_for_grid(stamp)

    def stamps(grid: object) -> dict[str, int]:
        return {
            name: time.sec * SECOND + time.nanosec
            for name, time in zip(grid.camera_names, grid.camera_stamps, strict=True)
        }

    assert stamps(message)["CAM_BACK_LEFT"] == stamps(complete)["CAM_BACK_LEFT"]
    assert stamps(message)["CAM_FRONT"] == stamp
    simulated.listener.wait_for_status("synchronization", "")


def test_the_image_of_a_frame_set_without_output_is_reused_too(simulated: SimulatedCar) -> None:
    """A frame set that is dropped or skipped by a slow network still provides the last images."""
    simulated.listener.wait_for_grid(simulated.frame_set())
    simulated.tick(400_000_000)
    failed = simulated.car.frame_set(simulated.now_ns, replaced={"CAM_BACK": b"no image"})
    simulated.tick(200_000_000)
    stamp = simulated.car.frame_set(simulated.now_ns, without=["CAM_BACK_LEFT"])
    spin_for(simulated.node, 0.5)
    simulated.tick(310_000_000)
    message = simulated.listener.wait_for_grid(stamp)
    assert failed not in simulated.listener.grids
    reused = message.camera_stamps[message.camera_names.index("CAM_BACK_LEFT")]
    assert stamp - (reused.sec * SECOND + reused.nanosec) < 300_000_000


def test_a_clock_that_jumps_back_clears_the_history(simulated: SimulatedCar) -> None:
    listener = simulated.listener
    listener.wait_for_grid(simulated.frame_set())
    jumps = int(listener.values("time")["jumps_back"])
    simulated.tick(-200 * SECOND)
    listener.wait_for_status("time", f"{jumps + 1} jumps back")
    assert "the clock jumped by -200.000 s" in listener.values("time")["last_jump"]
    spin_until(
        simulated.node, lambda: "cleared" in simulated.process.output(), 10, "a line in the log"
    )
    message = listener.wait_for_grid(simulated.frame_set())
    assert message.history_length == 0
    assert "the clock jumped" in message.history_break
    assert int(listener.values("time")["jumps_back"]) == jumps + 1


def test_drives_of_vehicles_whose_mounts_come_in_tf_follow_each_other(
    simulated: SimulatedCar,
) -> None:
    """camera_info is the same; the mounts differ by centimetres and are in /tf only."""
    listener = simulated.listener
    simulated.send_mounts(simulated.tf, higher_m=0.02)
    spin_for(simulated.node, 1.0)
    message = listener.wait_for_grid(simulated.frame_set())
    assert message.history_break == "camera calibration changed"

    simulated.tick(-200 * SECOND)
    stamp = simulated.frame_set()
    listener.wait_for_status("camera CAM_FRONT", "no mount of cam_front_optical in tf")
    assert stamp not in listener.grids, "the mounts of the other vehicle are not used"
    simulated.send_mounts(simulated.tf, higher_m=0.04)
    listener.wait_for_grid(stamp)


def test_bad_transforms_are_refused_and_the_others_of_their_message_used(
    simulated: SimulatedCar,
) -> None:
    """A joint without orientation, and a frame twice in one message, two seconds apart."""
    listener = simulated.listener
    jumps = listener.values("time")["jumps_back"]
    stamps = [simulated.now_ns] * 2 + [simulated.now_ns - 2 * SECOND]
    strange = [TransformStamped(child_frame_id=child) for child in ("wheel", "tag", "tag")]
    for stamped, stamp in zip(strange, stamps, strict=True):
        stamped.header.frame_id, stamped.header.stamp = "base_link", ros_time(stamp)
    strange[0].transform.rotation.w = 0.0
    simulated.send_mounts(simulated.tf, higher_m=0.06, others=strange)
    refused = listener.wait_for_status("moving transforms", "transform base_link -> wheel: quat")
    assert refused.level == ERROR
    message = listener.wait_for_grid(simulated.frame_set())
    assert message.history_break == "camera calibration changed", "the mounts behind it count"
    assert listener.values("time")["jumps_back"] == jumps


def test_diagnostics_continue_when_the_clock_stops(simulated: SimulatedCar) -> None:
    seen = len(simulated.listener.reports)
    spin_for(simulated.node, 4.0)
    assert len(simulated.listener.reports) - seen >= 2
