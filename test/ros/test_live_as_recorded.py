"""The same messages from a file and over DDS give the same rigs and poses, bit for bit.

The live side is the node's input of its worker, subscribed over real DDS in this process. It
receives the recording's bytes in the recording's order.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.vehicle_subscriptions", exc_type=ImportError)

import rclpy
from car import CAMERAS, image, jpeg, small_rig, spin_for, spin_until
from rclpy.node import Node
from rclpy.publisher import Publisher

from occ_perception.bags.drive import open_recording
from occ_perception.bags.recording import Recording
from occ_perception.bags.writing import BagWriter
from occ_perception.frames import CameraRig
from occ_perception.geometry import matrix_from_pose
from occ_perception.models.zoo import get_card
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.node_plan import plan_node
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.ros.synchronizer import FrameSetIntake, Job
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.sensing.ego_pose import EgoPoses
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.layouts import load_layout

pytestmark = pytest.mark.ros

MS = 1_000_000
START = 1_600_000_000_000 * MS
FRAME_SETS, PERIOD = 8, 83 * MS
PARAMETERS = NodeParameters(layout="occ_perception")
CARD = get_card("alocc_2d_mini")

Frame = tuple[int, CameraRig, dict[str, np.ndarray]]


def bend(stamp_ns: int) -> np.ndarray:
    """8 m/s on a bend with some roll, so that all components of the pose change."""
    s = (stamp_ns - START) * 1e-9
    yaw, roll = 0.4 * s, 0.02 * np.sin(7 * s)
    quaternion = np.array([np.sin(roll / 2), 0.001 * s, np.sin(yaw / 2), np.cos(yaw / 2)])
    return matrix_from_pose([8 * s, s * s, 0.1 * s], quaternion / np.linalg.norm(quaternion))


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recalibrated: CAM_FRONT's focal length at frame set 3, CAM_BACK's mount at frame set 5."""
    path = tmp_path_factory.mktemp("drive") / "bag"
    rig = small_rig()
    thumbnails = {name: jpeg(image(name, 0.0)[:32, :32]) for name in CAMERAS}
    events = [
        (START + frame_set * PERIOD + round(offset * 1e9), name, frame_set)
        for frame_set in range(FRAME_SETS)
        for name, (_, offset) in CAMERAS.items()
    ]
    events += [
        (START + k * 20 * MS, "", 0) for k in range(-2, FRAME_SETS * PERIOD // (20 * MS) + 5)
    ]
    with BagWriter(path) as writer:
        mounts = {name: rig.camera(name).ego_T_cam for name in CAMERAS}
        write_mounts(writer, START - 100 * MS, mounts)
        for stamp, name, frame_set in sorted(events):
            if not name:
                writer.write_odometry(stamp, bend(stamp))
                writer.write_transforms(stamp, [("map", "base_link", bend(stamp))])
                continue
            calibration = rig.camera(name)
            if name == "CAM_FRONT" and frame_set >= 3:
                K = np.diag([1.1, 1.1, 1.0]) @ calibration.K
                calibration = replace(calibration, K=K)
            if name == "CAM_BACK" and frame_set == 5:
                moved = mounts["CAM_BACK"] @ matrix_from_pose([0.05, 0, 0], [0, 0, 0, 1])
                write_mounts(writer, stamp, {**mounts, "CAM_BACK": moved})
            writer.write_camera_info(calibration, stamp)
            writer.write_camera(name, stamp, thumbnails[name])
    return path


@pytest.fixture(scope="module")
def faulty(drive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drive with a camera_info of zeros, useless transforms, and a mount that is lost.

    From frame set 3 to 5 the frame of CAM_BACK hangs under one that nothing connects.
    """
    path = tmp_path_factory.mktemp("faulty") / "bag"
    lost_at = START + 3 * PERIOD - 1 * MS
    with Recording(drive) as recording, BagWriter(path) as writer:
        lost = [("nowhere", "cam_back_optical", np.eye(4)), ("", "wheel", np.eye(4))]
        for raw in recording.messages():
            if lost and raw.received_ns > lost_at:
                writer.write_transforms(lost_at, lost, static=True)
                lost = []
            message = recording.decode(raw)
            frame_set = (raw.received_ns - START) // PERIOD
            if raw.topic == "/cam_front/camera_info" and frame_set in (2, 6):
                message.k, message.p = 0 * message.k, 0 * message.p
            if raw.topic == "/tf":
                message.transforms.append(deepcopy(message.transforms[0]))
                message.transforms[1].child_frame_id = "wheel"
                message.transforms[1].transform.rotation.w = float("nan")
            writer.write(raw.topic, raw.received_ns, message, raw.topic == "/tf_static")
    return path


def write_mounts(writer: BagWriter, stamp: int, mounts: dict[str, np.ndarray]) -> None:
    frames = [("base_link", f"{name.lower()}_optical", mount) for name, mount in mounts.items()]
    writer.write_transforms(stamp, frames, static=True)


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    made = rclpy.create_node("live_as_recorded")
    yield made
    made.destroy_node()


def frame(frame_set: FrameSet, rig: CameraRig, poses: EgoPoses) -> Frame:
    world_T_ego = {name: poses.at(stamp) for name, stamp in frame_set.stamps_ns.items()}
    return frame_set.reference_stamp_ns, rig, world_T_ego


class LiveSide:
    """The node's inputs and intake, and publishers of a recording's topics beside them."""

    def __init__(
        self, node: Node, parameters: NodeParameters, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._node = node
        plan = plan_node(parameters, CARD)
        self.vehicle = VehicleSubscriptions(node, plan, parameters)
        vehicle, clock, logger = self.vehicle, node.get_clock(), node.get_logger()
        self._intake = FrameSetIntake(
            plan, parameters, vehicle.rig, vehicle.do_without, clock, logger
        )
        self._heard = 0
        take = InputSubscription._on_message

        def counted(subscription: InputSubscription, message: Any, info: Any) -> None:
            take(subscription, message, info)
            self._heard += 1

        monkeypatch.setattr(InputSubscription, "_on_message", counted)
        self.vehicle.listen(
            on_image=self._intake.add,
            on_calibration=self._intake.hand_over,
            on_time_jump=pytest.fail,
        )

    def play(self, path: Path) -> list[Job]:
        """Send each message after the one before was taken: DDS keeps no order between topics."""
        jobs = []
        with Recording(path) as recording:
            publishers = self._publishers(recording)
            for message in recording.messages():
                publisher = publishers[message.topic]
                if not publisher.get_subscription_count():
                    continue  # of the other source of poses
                heard = self._heard + 1
                publisher.publish(message.raw)
                spin_until(self._node, lambda heard=heard: self._heard == heard, 20, message.topic)
                if self._intake.status(60.0, 0).values["taken"] > len(jobs):
                    jobs.append(self._intake.jobs.take())
        return jobs

    def _publishers(self, recording: Recording) -> dict[str, Publisher]:
        publishers = {
            name: self._node.create_publisher(message_class_of(topic.kind), name, 10)
            for name, topic in recording.topics.items()
        }

        def are_heard() -> bool:
            self.vehicle.poll()
            statuses = [*self.vehicle.camera_statuses(60.0), *self.vehicle.pose_statuses(60.0)]
            heard = [p for p in publishers.values() if p.get_subscription_count()]
            return len(heard) >= len(publishers) - 1 and all(
                status.values["qos"] != "no publisher yet" for status in statuses
            )

        spin_until(self._node, are_heard, 20, "everything is subscribed to")
        # The readers must have matched the writers too, which the writers cannot find out.
        spin_for(self._node, 0.5)
        return publishers


@pytest.mark.parametrize("pose_source", ["odometry", "tf"])
def test_a_recording_gives_the_frames_that_the_node_gets(
    drive: Path,
    node: Node,
    child_environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    pose_source: str,
) -> None:
    assert child_environment, "tf2_msgs can be imported"
    parameters = replace(PARAMETERS, pose_source=pose_source)
    live = LiveSide(node, parameters, monkeypatch)
    jobs = live.play(drive)
    live_frames = [frame(job.frame_set, job.rig, live.vehicle.poses) for job in jobs]
    recorded_frames = read(drive, pose_source)

    assert len(recorded_frames) == FRAME_SETS
    assert_same(live_frames, recorded_frames)
    focal = [rig.camera("CAM_FRONT").K[0, 0] for _, rig, _ in recorded_frames]
    np.testing.assert_allclose(focal, [253.0] * 3 + [278.3] * 5)
    x = [rig.camera("CAM_BACK").ego_T_cam[:3, 3] for _, rig, _ in recorded_frames]
    assert [float(np.linalg.norm(place - x[0])) > 0.04 for place in x] == [False] * 5 + [True] * 3


def test_faults_cost_the_same_frames(
    faulty: Path, node: Node, child_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert child_environment, "tf2_msgs can be imported"
    live = LiveSide(node, replace(PARAMETERS, pose_source="tf"), monkeypatch)
    jobs = live.play(faulty)
    live_frames = [frame(job.frame_set, job.rig, live.vehicle.poses) for job in jobs]
    recorded_frames = read(faulty, "tf", are_problems=True)
    assert len(recorded_frames) == FRAME_SETS - 1, "one frame set is replaced while the mount lacks"
    assert_same(live_frames, recorded_frames)


def assert_same(live_frames: list[Frame], recorded_frames: list[Frame]) -> None:
    assert len(live_frames) == len(recorded_frames)
    for (stamp, rig, poses), (live_stamp, live_rig, live_poses) in zip(
        recorded_frames, live_frames, strict=True
    ):
        assert live_stamp == stamp
        assert live_rig.fingerprint() == rig.fingerprint()
        assert live_poses.keys() == poses.keys() == CAMERAS.keys()
        for name, world_T_ego in poses.items():
            np.testing.assert_array_equal(live_poses[name], world_T_ego)


def read(path: Path, pose_source: str, are_problems: bool = False) -> list[Frame]:
    layout = load_layout("occ_perception")
    if pose_source == "tf":
        layout = replace(layout, pose=replace(layout.pose, kind="tf", topic="/tf"))
    with open_recording(path, layout, model=CARD) as recorded:
        frames = [frame(item.frame_set, item.rig, item.poses) for item in recorded.frame_sets()]
        assert bool(recorded.problems) is are_problems
    return frames
