"""Every fault against the real node: no wrong grid, a stated loss, a sentence, and recovery.

`make reliability` runs all of them and writes the table of docs/reliability.md.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import (
    CAMERAS,
    Car,
    ego_transform,
    image,
    jpeg,
    ros_time,
    small_rig,
    spin_for,
)
from fault_bench import SECOND, FaultBench, Outcome
from fault_table import FaultTable
from nav_msgs.msg import Odometry
from processes import remove_orphaned_shared_memory
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from occ_msgs.msg import SemanticOccupancy

pytestmark = [pytest.mark.ros, pytest.mark.slow]


def send(car: Car, camera: str, stamp_ns: int, data: bytes | None = None) -> None:
    """One image and nothing else."""
    message = CompressedImage(format="jpeg")
    message.header.stamp = ros_time(stamp_ns)
    message.header.frame_id = f"{camera.lower()}_optical"
    message.data = jpeg(image(camera, stamp_ns * 1e-9)) if data is None else data
    car.images[camera].publish(message)


def stamps(start_ns: int, cameras: Iterable[str] = CAMERAS) -> dict[str, int]:
    """Stamp of every camera in the frame set that begins at a time."""
    return {name: start_ns + round(CAMERAS[name][1] * 1e9) for name in cameras}


def poses(car: Car, start_ns: int) -> None:
    for stamp_ns in stamps(start_ns).values():
        car.pose(stamp_ns)


def judged(bench: FaultBench, table: FaultTable, fault: str) -> Outcome:
    """The outcome, in the table; a wrong grid fails every test."""
    outcome = bench.outcome()
    table.add(fault, outcome)
    assert outcome.wrong == 0
    assert bench.process.is_running
    return outcome


def says(outcome: Outcome, *words: str) -> bool:
    """Whether one line of the console has all the words."""
    return any(all(word in line for word in words) for line in outcome.said)


def test_no_fault(bench, table) -> None:
    one = bench()
    one.frame_sets(40)
    outcome = judged(one, table, "none")
    table.latency = outcome.latency
    assert len(outcome.latency["total_ms"]) == outcome.right
    assert outcome.lost == 0 and not outcome.resets


def test_a_camera_dies_and_returns(bench, table) -> None:
    one = bench(parameters={"stale_after_s": "1.0"})
    one.frame_sets(4)
    one.frame_sets(10, send=lambda t: one.car.frame_set(t, without=["CAM_BACK"]))
    one.good_again()
    outcome = judged(one, table, "CAM_BACK silent for 5 s, then back (`drop`)")
    assert outcome.counters["dropped_incomplete"] == 10
    assert outcome.lost == 10
    assert says(outcome, "CAM_BACK")


def test_a_camera_dies_and_its_last_image_is_reused(bench, table) -> None:
    one = bench(parameters={"missing_camera": "reuse_last"})
    one.frame_sets(4, 0.2)
    one.frame_sets(1, 0.2, lambda t: one.car.frame_set(t, without=["CAM_BACK"]))
    one.good_again()
    outcome = judged(one, table, "CAM_BACK loses one image (`reuse_last`)")
    assert outcome.lost == 0


def test_the_reference_camera_dies(bench, table) -> None:
    one = bench(parameters={"stale_after_s": "1.0"})
    one.frame_sets(4)
    one.frame_sets(14, send=lambda t: one.car.frame_set(t, without=["CAM_FRONT"]))
    one.good_again()
    outcome = judged(one, table, "reference camera silent for 7 s (`drop`)")
    assert outcome.lost == 14
    assert says(outcome, "CAM_FRONT")


@pytest.mark.parametrize("camera", ["CAM_BACK", "CAM_FRONT"])
def test_a_camera_dies_and_is_masked(bench, table, camera: str) -> None:
    """CAM_FRONT is the reference camera."""
    one = bench(parameters={"missing_camera": "mask"})
    one.frame_sets(4)
    one.frame_sets(10, send=lambda t: one.car.frame_set(t, without=[camera]))
    one.good_again()
    outcome = judged(one, table, f"{camera} silent for 5 s, then back (`mask`)")
    assert outcome.lost <= 4  # until it counts as silent
    assert says(outcome, camera)


def test_a_late_camera(bench, table) -> None:
    one = bench(parameters={"sync.deadline_ms": "150.0"})
    one.frame_sets(3)

    def late(start_ns: int) -> None:
        one.car.frame_set(start_ns, without=["CAM_BACK"])
        spin_for(one.node, 0.3)
        send(one.car, "CAM_BACK", stamps(start_ns)["CAM_BACK"])

    one.frame_sets(8, send=late)
    one.good_again()
    outcome = judged(one, table, "CAM_BACK 300 ms late, deadline 150 ms")
    assert says(outcome, "CAM_BACK", "sync.deadline_ms")


def test_a_camera_whose_clock_is_off(bench, table) -> None:
    one = bench()
    one.frame_sets(3)

    def off(start_ns: int) -> None:
        one.car.frame_set(start_ns, without=["CAM_BACK"])
        send(one.car, "CAM_BACK", stamps(start_ns)["CAM_BACK"] - 37 * SECOND)

    one.frame_sets(8, send=off)
    one.good_again()
    outcome = judged(one, table, "clock of CAM_BACK 37 s behind")
    assert says(outcome, "CAM_BACK", "37")


def test_two_odometry_sources(bench, table) -> None:
    one = bench()
    one.frame_sets(3)
    stranger = one.node.create_publisher(Odometry, f"{one.car.prefix}/odometry", 10)

    def twice(start_ns: int) -> None:
        one.car.frame_set(start_ns)
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id = "map"
        message.header.stamp = ros_time(start_ns - 5 * SECOND)
        message.pose.pose.orientation.w = 1.0
        stranger.publish(message)

    one.frame_sets(8, send=twice)
    one.node.destroy_publisher(stranger)
    one.good_again()
    outcome = judged(one, table, "a second odometry publisher, 5 s behind")
    assert says(outcome, "odometry")


def test_two_sources_of_tf(bench, table) -> None:
    """Both send map -> base_link; the second is 5 s behind."""
    one = bench(poses_on_tf=True)
    from tf2_msgs.msg import TFMessage

    one.frame_sets(3)
    stranger = one.node.create_publisher(TFMessage, "/tf", 10)

    def twice(start_ns: int) -> None:
        one.car.frame_set(start_ns)
        stranger.publish(ego_transform(start_ns, of_time_ns=start_ns - 5 * SECOND))

    one.frame_sets(8, send=twice)
    one.node.destroy_publisher(stranger)
    one.good_again()
    outcome = judged(one, table, "a second source of map -> base_link on /tf, 5 s behind")
    assert not outcome.resets
    assert says(outcome, "base_link", "two publishers")


def test_stray_tf(bench, table) -> None:
    """Transforms of the vehicle's frame with another parent, old ones, and one that is no pose."""
    one = bench(poses_on_tf=True)
    from tf2_msgs.msg import TFMessage

    one.frame_sets(3)
    stranger = one.node.create_publisher(TFMessage, "/tf", 10)

    def strayed(start_ns: int) -> None:
        one.car.frame_set(start_ns)
        old = ego_transform(start_ns - 3 * SECOND).transforms
        other = ego_transform(start_ns, parent="somewhere").transforms
        no_pose = ego_transform(start_ns).transforms
        no_pose[0].transform.rotation.w = 0.0
        stranger.publish(TFMessage(transforms=[*other, *old, *old, *no_pose]))

    one.frame_sets(8, send=strayed)
    one.node.destroy_publisher(stranger)
    one.good_again()
    outcome = judged(one, table, "stray transforms of base_link on /tf")
    assert not outcome.resets
    assert says(outcome, "base_link")


def test_a_camera_is_calibrated_anew(bench, table) -> None:
    """Longer focal lengths of one camera, later the former ones again."""
    one = bench(rig=False)
    one.frame_sets(4)
    rig = small_rig()
    longer = np.diag([1.2, 1.2, 1.0])
    cameras = [
        replace(camera, K=camera.K @ longer) if camera.name == "CAM_BACK" else camera
        for camera in rig.cameras
    ]
    one.calibrate(replace(rig, cameras=tuple(cameras)))
    one.frame_sets(6)
    one.calibrate(rig)
    one.good_again()
    outcome = judged(one, table, "camera_info of CAM_BACK changes, and changes back")
    assert outcome.lost == 0
    assert len(outcome.resets) == 2


def test_images_arrive_shuffled(bench, table) -> None:
    one = bench()
    order = random.Random(1)

    def shuffled(start_ns: int) -> None:
        poses(one.car, start_ns)
        for name in order.sample(list(CAMERAS), len(CAMERAS)):
            send(one.car, name, stamps(start_ns)[name])
            spin_for(one.node, 0.01)

    one.frame_sets(12, send=shuffled)
    outcome = judged(one, table, "images arrive in any order")
    assert outcome.lost == 0 and not outcome.resets


def test_duplicates(bench, table) -> None:
    one = bench()

    def doubled(start_ns: int) -> None:
        one.car.frame_set(start_ns)
        for name, stamp_ns in stamps(start_ns).items():
            send(one.car, name, stamp_ns)

    one.frame_sets(10, send=doubled)
    outcome = judged(one, table, "every image twice")
    assert outcome.lost == 0 and not outcome.resets


def test_a_recording_starts_over(bench, table) -> None:
    one = bench()
    begun_ns = one.now_ns
    for _ in range(3):
        one.now_ns = begun_ns
        one.frame_sets(6)
        one.settle()
    outcome = judged(one, table, "a recording played three times")
    assert outcome.lost == 0
    assert len(outcome.resets) == 2


def test_the_pose_source_restarts(bench, table) -> None:
    one = bench(parameters={"pose.wait_ms": "200.0"})
    one.frame_sets(4)
    one.frame_sets(6, send=lambda t: one.car.frame_set(t, with_poses=False))
    one.good_again()
    outcome = judged(one, table, "no ego pose for 3 s")
    assert says(outcome, "pose")


def test_damaged_images(bench, table) -> None:
    one = bench()
    one.frame_sets(2)
    chance = random.Random(2)
    damaged = 0

    def some(start_ns: int) -> None:
        nonlocal damaged
        replaced = {}
        if chance.random() < 0.4:
            name = chance.choice(list(CAMERAS))
            whole = jpeg(image(name, stamps(start_ns)[name] * 1e-9))
            replaced[name] = whole[: chance.randrange(len(whole) // 4, len(whole) - 40)]
            damaged += 1
        one.car.frame_set(start_ns, replaced=replaced)

    one.frame_sets(20, send=some)
    one.good_again()
    outcome = judged(one, table, "two of five frame sets have a truncated JPEG")
    assert 0 < outcome.counters["frame_sets_failed_undecodable_image"] <= damaged
    assert 0 < outcome.lost <= damaged  # one that a newer one replaced is not decoded


def test_best_effort_cameras(bench, table) -> None:
    one = bench()
    one.frame_sets(3)
    for publisher in [*one.car.images.values(), one.car.poses]:
        one.node.destroy_publisher(publisher)
    one.car = Car(one.node, reliability=ReliabilityPolicy.BEST_EFFORT)
    one.car.wait_until_heard()
    one.good_again(8)
    outcome = judged(one, table, "publishers become best effort")
    assert outcome.lost <= 1


def test_the_node_is_killed_and_started_again(bench, table) -> None:
    one = bench()
    one.frame_sets(4)
    assert one.outcome().wrong == 0
    one.process.send(signal.SIGKILL)
    one.process.wait(10)
    one.respawn()
    one.frame_sets(6)
    outcome = judged(one, table, "SIGKILL, and a new node")
    assert outcome.lost == 0
    remove_orphaned_shared_memory()


def test_a_reader_that_never_reads(bench, table) -> None:
    one = bench()
    idle = Node("idle_reader")
    quality = QoSProfile(history=HistoryPolicy.KEEP_ALL, reliability=ReliabilityPolicy.RELIABLE)
    idle.create_subscription(SemanticOccupancy, "/occupancy_node/occupancy", print, quality)
    one.frame_sets(30, 0.25)
    outcome = judged(one, table, "a reliable reader that never reads")
    assert outcome.lost == 0
    idle.destroy_node()


def test_overload(bench, table) -> None:
    one = bench(parameters={"sync.tolerance_ms": "50.0"})  # losses leave too little to observe
    one.frame_sets(3)
    one.frame_sets(150, 0.05)
    one.good_again()
    outcome = judged(one, table, "20 frame sets per second, more than the machine can do")
    assert outcome.counters["frame_sets_overwritten"] > 0
    assert says(outcome, "slower than the cameras")


def test_absurd_sizes(bench, table) -> None:
    one = bench()
    one.frame_sets(2)
    _, png = cv2.imencode(".png", np.zeros((16_000, 16_000), np.uint8))

    def huge(start_ns: int) -> None:
        one.car.frame_set(start_ns, replaced={"CAM_BACK": png.tobytes()})

    one.frame_sets(3, send=huge)
    one.good_again()
    outcome = judged(one, table, "a PNG of 16000x16000 pixels")
    assert 0 < outcome.lost <= 3
    lines = Path(f"/proc/{one.process.pid}/status").read_text().splitlines()
    highest_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    assert highest_kb < 1_500_000


def test_a_thousand_topics(bench, table) -> None:
    one = bench()
    crowd = rclpy.create_node("crowd")
    for number in range(1000):
        crowd.create_publisher(String, f"/noise/topic_{number}", 1)
    one.frame_sets(6)
    outcome = judged(one, table, "a thousand other topics")
    assert outcome.lost == 0
    crowd.destroy_node()
