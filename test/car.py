"""A small car for the tests: publishes six cameras and odometry, and receives the node's output."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage

from occ_msgs.msg import SemanticOccupancy
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import pose_from_matrix
from occ_perception.sensing.calibration import save_rig

# Yaw of the optical axis, and exposure time within a rotation, as on the nuScenes car.
CAMERAS = {
    "CAM_FRONT_LEFT": (55.0, 0.0),
    "CAM_FRONT": (0.0, 0.008),
    "CAM_FRONT_RIGHT": (-55.0, 0.016),
    "CAM_BACK_RIGHT": (-110.0, 0.023),
    "CAM_BACK": (180.0, 0.033),
    "CAM_BACK_LEFT": (110.0, 0.0425),
}
WIDTH, HEIGHT = 320, 180


def small_rig() -> CameraRig:
    """Six pinhole cameras of 320x180 pixels, 1.5 m above the ground."""
    return CameraRig(tuple(_calibration(name, yaw) for name, (yaw, _) in CAMERAS.items()))


def _calibration(name: str, yaw_deg: float) -> CameraCalibration:
    yaw = np.radians(yaw_deg)
    forward = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    ego_T_cam = np.eye(4)
    ego_T_cam[:3, :3] = np.stack([right, [0.0, 0.0, -1.0], forward], axis=1)
    ego_T_cam[:3, 3] = [1.0, 0.0, 1.5]
    K = np.array([[253.0, 0.0, 160.0], [0.0, 253.0, 90.0], [0.0, 0.0, 1.0]])
    return CameraCalibration(name, WIDTH, HEIGHT, K, ego_T_cam, frame_id=f"{name.lower()}_optical")


def image(camera: str, time_s: float) -> np.ndarray:
    """(H, W, 3) uint8 RGB: smooth patterns that differ between cameras and move with time."""
    phase = list(CAMERAS).index(camera)
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [
        np.sin(u / (9 + 7 * c) + phase + time_s) + np.cos(v / (11 + 5 * c) - phase * c)
        for c in range(3)
    ]
    return (127.5 + 60 * np.stack(waves, axis=-1)).astype(np.uint8)


def jpeg(rgb: np.ndarray) -> bytes:
    ok, data = cv2.imencode(".jpg", rgb[..., ::-1])
    assert ok
    return data.tobytes()


def ros_time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


class Car:
    """Publishes what the node subscribes to, under the node's private names.

    With ``poses_on_tf`` ego poses are transforms on /tf, in place of odometry.
    """

    def __init__(
        self,
        node: Node,
        *,
        prefix: str = "/occupancy_node/input",
        reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE,
        poses_on_tf: bool = False,
    ) -> None:
        qos = QoSProfile(depth=10, reliability=reliability)
        self.node = node
        self.prefix = prefix
        self.images = {
            name: node.create_publisher(CompressedImage, self.topic(name, "image"), qos)
            for name in CAMERAS
        }
        self.poses_on_tf = poses_on_tf
        if poses_on_tf:
            from tf2_msgs.msg import TFMessage

            self.poses = node.create_publisher(TFMessage, "/tf", 100)
        else:
            self.poses = node.create_publisher(Odometry, f"{prefix}/odometry", qos)

    def topic(self, camera: str, what: str) -> str:
        return f"{self.prefix}/{camera.lower()}/{what}"

    def wait_until_heard(self, timeout_s: float = 120.0) -> None:
        """Wait until the node has subscribed to everything."""
        publishers = [*self.images.values(), self.poses]
        spin_until(
            self.node,
            lambda: all(p.get_subscription_count() for p in publishers),
            timeout_s,
            "the node subscribes",
        )
        # The reader must have matched the writer too, which the writer cannot find out.
        spin_for(self.node, 0.5)

    def frame_set(
        self,
        start_ns: int,
        *,
        without: Iterable[str] = (),
        replaced: dict[str, bytes] | None = None,
        with_poses: bool = True,
    ) -> int:
        """Send one rotation that begins at ``start_ns``; returns the reference stamp."""
        for name, (_, offset_s) in CAMERAS.items():
            stamp_ns = start_ns + round(offset_s * 1e9)
            if with_poses:
                self.pose(stamp_ns)
            if name in without:
                continue
            message = CompressedImage(format="jpeg")
            message.header.stamp = ros_time(stamp_ns)
            message.header.frame_id = f"{name.lower()}_optical"
            data = (replaced or {}).get(name)
            message.data = data if data is not None else jpeg(image(name, stamp_ns * 1e-9))
            self.images[name].publish(message)
        return start_ns + round(CAMERAS["CAM_FRONT"][1] * 1e9)

    def pose(self, stamp_ns: int) -> None:
        """5 m/s along x."""
        if self.poses_on_tf:
            self.poses.publish(ego_transform(stamp_ns))
            return
        message = Odometry(child_frame_id="base_link")
        message.header.frame_id = "map"
        message.header.stamp = ros_time(stamp_ns)
        message.pose.pose.position.x = _x_at(stamp_ns)
        message.pose.pose.orientation.w = 1.0
        self.poses.publish(message)

    @staticmethod
    def world_T_ego(stamp_ns: int) -> np.ndarray:
        """(4, 4) pose that :meth:`pose` sends."""
        pose = np.eye(4)
        pose[0, 3] = _x_at(stamp_ns)
        return pose


def _x_at(stamp_ns: int) -> float:
    return 5.0 * (stamp_ns * 1e-9 % 1000.0)


def ego_transform(stamp_ns: int, of_time_ns: int | None = None, parent: str = "map") -> Any:
    """A TFMessage with the ego pose, of another time than its stamp if one is given."""
    from tf2_msgs.msg import TFMessage

    stamped = TransformStamped(child_frame_id="base_link")
    stamped.header.frame_id = parent
    stamped.header.stamp = ros_time(stamp_ns)
    when_ns = stamp_ns if of_time_ns is None else of_time_ns
    stamped.transform.translation.x = _x_at(when_ns)
    stamped.transform.rotation.w = 1.0
    return TFMessage(transforms=[stamped])


def camera_mounts(rig: CameraRig) -> Any:
    """A TFMessage with the pose of every camera on the vehicle."""
    from tf2_msgs.msg import TFMessage

    message = TFMessage()
    for camera in rig.cameras:
        stamped = TransformStamped(child_frame_id=camera.frame_id)
        stamped.header.frame_id = "base_link"
        (x, y, z), (qx, qy, qz, qw) = pose_from_matrix(camera.ego_T_cam)
        translation, rotation = stamped.transform.translation, stamped.transform.rotation
        translation.x, translation.y, translation.z = x, y, z
        rotation.x, rotation.y, rotation.z, rotation.w = qx, qy, qz, qw
        message.transforms.append(stamped)
    return message


def camera_info(calibration: CameraCalibration) -> CameraInfo:
    message = CameraInfo(width=calibration.width, height=calibration.height)
    message.header.frame_id = calibration.frame_id
    message.k = calibration.K.reshape(-1).tolist()
    message.p = np.hstack([calibration.K, np.zeros((3, 1))]).reshape(-1).tolist()
    return message


def write_rig(path: Path) -> Path:
    save_rig(path, small_rig())
    return path


class Listener:
    """Collects the node's occupancy messages and diagnostics."""

    def __init__(self, node: Node, name: str = "occupancy_node") -> None:
        self.node = node
        self.grids: dict[int, SemanticOccupancy] = {}
        self.reports: list[DiagnosticArray] = []
        node.create_subscription(SemanticOccupancy, f"/{name}/occupancy", self._on_grid, 10)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_report, 10)
        self._name = name

    def _on_grid(self, message: SemanticOccupancy) -> None:
        stamp = message.header.stamp
        self.grids[stamp.sec * 10**9 + stamp.nanosec] = message

    def _on_report(self, message: DiagnosticArray) -> None:
        if message.status and message.status[0].name.startswith(self._name):
            self.reports.append(message)

    def status(self, task: str) -> DiagnosticStatus:
        """The newest status of a task."""
        assert self.reports, "no diagnostics yet"
        statuses = {s.name.split(": ", 1)[1]: s for s in self.reports[-1].status}
        return statuses[task]

    def values(self, task: str) -> dict[str, str]:
        return {pair.key: pair.value for pair in self.status(task).values}

    def wait_for_grid(self, stamp_ns: int, timeout_s: float = 180.0) -> SemanticOccupancy:
        spin_until(
            self.node, lambda: stamp_ns in self.grids, timeout_s, f"grid at {stamp_ns * 1e-9} s"
        )
        return self.grids[stamp_ns]

    def wait_for_status(self, task: str, text: str, timeout_s: float = 60.0) -> DiagnosticStatus:
        """Wait for a report newer than this call whose message for a task contains ``text``."""
        seen = len(self.reports)

        def is_reported() -> bool:
            return len(self.reports) > seen and text in self.status(task).message

        spin_until(
            self.node,
            is_reported,
            timeout_s,
            f"{task!r} reports {text!r}",
        )
        return self.status(task)


def spin_until(node: Node, condition: Callable[[], Any], timeout_s: float, what: str) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {timeout_s} s: {what}"
        rclpy.spin_once(node, timeout_sec=0.05)


def spin_for(node: Node, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
