"""Subscriptions to a vehicle's cameras, calibration and ego pose, for the node and the live view.

Messages arrive in the executor's thread. Another thread may read rig, mounts and poses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.time import Time

from occ_perception.frames import CameraRig
from occ_perception.geometry import Float64
from occ_perception.ros.camera_inputs import CameraInput, ReceivedImage
from occ_perception.ros.diagnostics import OK, Status
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.pose_inputs import TF_TYPE, OdometryInput, Refusals, TransformInput
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.plausibility import clocks_apart
from occ_perception.sensing.time_jumps import TimeJump, TimeLine
from occ_perception.sensing.vehicle import VehicleInputs

# A stopped /clock must not block the worker forever: wall time counts at a tenth.
_WALL_TIME_FACTOR = 0.1
_RECHECK_S = 0.02
# Broken transforms come with every message of their publisher.
_LOG_EVERY_S = 5.0
# Cameras that sent within this time of each other are compared.
_TOGETHER_S = 1.0

Taken = TypeVar("Taken")


class VehicleSubscriptions:
    """Subscribes to a vehicle's inputs and feeds :class:`VehicleInputs`.

    When time goes back, all stored data is cleared before the message with the earlier stamp is
    taken. For a while afterwards messages from before the jump are refused.

    Args:
        node: owner.
        plan: inputs to subscribe to.
        values: limits of the poses, and QoS.

    Attributes:
        plan: as given.
        poses: the ego pose; any thread may read it.
        time_line: number of jumps back in time, and the reason of the last one.
    """

    def __init__(self, node: Node, plan: InputPlan, values: NodeParameters) -> None:
        self.plan = plan
        self._node = node
        self._reliability = values.qos_reliability
        self._changed = threading.Condition()
        self._vehicle = VehicleInputs(
            plan,
            max_extrapolation_ns=round(values.pose_extrapolation_ms * 1e6),
            max_gap_ns=round(values.pose_gap_ms * 1e6),
        )
        self.poses = SharedPoses(self._vehicle, self._changed, node.get_clock().now)
        self.time_line = TimeLine()

    def listen(
        self,
        *,
        on_image: Callable[[str, int, ReceivedImage], None],
        on_calibration: Callable[[], None],
        on_time_jump: Callable[[str], None],
    ) -> None:
        """Subscribe; afterwards call :meth:`poll` a few times per second.

        Args:
            on_image: called with (camera, stamp in ns, image); may raise TimeJump, and is then
                called again after ``on_time_jump``.
            on_calibration: called after a camera_info or mounts arrived; the rig may have changed.
            on_time_jump: called with the reason after time went back and poses and mounts were
                cleared.

        Raises:
            TransformMessagesError: tf is needed, but tf2_msgs is not installed.
        """
        self._give_image = on_image
        self._calibration_came = on_calibration
        self._time_jumped = on_time_jump
        node, reliability = self._node, self._reliability
        plan, pose = self.plan, self.plan.pose
        self._cameras = {
            camera.name: CameraInput(
                node,
                camera,
                stamp_source=plan.layout.stamp_source,
                reliability=reliability,
                on_topic=self._on_image_topic,
                on_image=self._on_image,
                on_camera_info=self._on_camera_info,
            )
            for camera in plan.cameras
        }
        self._odometry = (
            OdometryInput(node, pose.topic, reliability, self._on_odometry)
            if pose.kind == "odometry"
            else None
        )
        reads_tf = plan.reads_tf and message_class_of(TF_TYPE) is not None
        tf_topic = pose.topic if pose.kind == "tf" else "/tf"
        self._transforms = (
            TransformInput(node, tf_topic, reliability, self._on_transforms)
            if plan.needs_tf or reads_tf
            else None
        )

    # -- state; any thread -----------------------------------------------------------------------

    def rig(self) -> CameraRig | None:
        """See :meth:`VehicleInputs.rig`."""
        with self._changed:
            return self._vehicle.rig()

    def do_without(self, cameras: Iterable[str]) -> None:
        """See :meth:`VehicleInputs.do_without`."""
        self._change(lambda: self._vehicle.do_without(cameras))

    @property
    def calibration_changes(self) -> int:
        """Number of times a complete rig was replaced by another one."""
        return self._vehicle.changes

    def problems(self) -> list[str]:
        """One sentence for each missing part of the calibration."""
        with self._changed:
            return list(self._vehicle.problems.values())

    def notes(self) -> tuple[str, ...]:
        """See :attr:`VehicleInputs.notes`."""
        with self._changed:
            return self._vehicle.notes

    def doubts(self) -> tuple[str, ...]:
        """See :attr:`VehicleInputs.doubts`."""
        with self._changed:
            return self._vehicle.doubts

    def mount(self, frame: str) -> Float64:
        """See :meth:`VehicleInputs.mount`."""
        with self._changed:
            return self._vehicle.mount(frame)

    def reject_image(self, camera: str, problem: str) -> None:
        """Count an image that could not be used."""
        self._cameras[camera].reject(problem)

    # -- upkeep ----------------------------------------------------------------------------------

    def poll(self) -> None:
        """Look for publishers."""
        for source in (*self._cameras.values(), self._odometry, self._transforms):
            if source is not None:
                source.poll()

    def close(self) -> None:
        """Unsubscribe from everything."""
        for source in (*self._cameras.values(), self._odometry, self._transforms):
            if source is not None:
                source.close()

    def start_over(self, reason: str, old_end_ns: int) -> None:
        """Clear everything after time went back; ``old_end_ns`` is the newest stamp before."""
        self.time_line.jumped(old_end_ns, reason)
        self._change(self._vehicle.reset)
        for camera in self._cameras.values():
            camera.offset_s = None
        self._time_jumped(reason)

    def camera_statuses(self, stale_after_s: float) -> list[Status]:
        """The diagnostics statuses of the cameras."""
        with self._changed:
            problems = {name: self._vehicle.problem(name) for name in self._cameras}
        apart = clocks_apart(self._offsets())
        problems = {name: problem or apart.get(name, "") for name, problem in problems.items()}
        return [
            camera.status(problems[name], stale_after_s) for name, camera in self._cameras.items()
        ]

    def _offsets(self) -> dict[str, float]:
        """Stamp minus arrival of the cameras that sent last; a pause would shift older ones."""
        newest = max((camera.arrived_at for camera in self._cameras.values()), default=0.0)
        return {
            name: camera.offset_s
            for name, camera in self._cameras.items()
            if camera.offset_s is not None and newest - camera.arrived_at < _TOGETHER_S
        }

    def pose_statuses(self, stale_after_s: float) -> list[Status]:
        """The diagnostics statuses of ego pose and mounts."""
        statuses = []
        if self._odometry is not None:
            statuses += self._odometry.statuses(stale_after_s)
        # A missing publisher of optional transforms is not an error.
        if self._transforms is not None and self.plan.needs_tf:
            statuses += self._transforms.statuses(stale_after_s, self._odometry is None)
        return statuses

    def time_status(self) -> Status:
        """The diagnostics status about jumps back in time."""
        line = self.time_line
        values = {
            "jumps_back": line.jumps,
            "last_jump": line.last_reason,
            "leftovers_refused": line.leftovers,
        }
        return Status("time", OK, f"{line.jumps} jumps back", values)

    # -- callbacks -------------------------------------------------------------------------------

    def _on_image_topic(self, camera: str, topic: str) -> None:
        self._change(lambda: self._vehicle.take_image_topic(camera, topic))

    def _on_image(self, camera: str, stamp: int, image: ReceivedImage, frame_id: str) -> None:
        self._change(lambda: self._vehicle.take_image_frame(camera, frame_id))
        self._take(stamp, lambda: self._give_image(camera, stamp, image))

    def _on_camera_info(self, camera: str, message: Any) -> None:
        for refusal in self._change(lambda: self._vehicle.take_camera_info(camera, message)):
            self._node.get_logger().warning(refusal)
        self._calibration_came()

    def _on_odometry(self, stamp: int, message: Any) -> Refusals:
        return (
            self._take(stamp, lambda: self._change(lambda: self._vehicle.take_odometry(message)))
            or ()
        )

    def _on_transforms(self, newest: int, message: Any, static: bool) -> Refusals:
        def take() -> Refusals:
            return self._change(lambda: self._vehicle.take_transforms(message, static))

        refusals = self._take(newest, take) or ()
        for refusal in refusals:
            self._node.get_logger().warning(refusal, throttle_duration_sec=_LOG_EVERY_S)
        self._calibration_came()  # /tf may carry mounts too
        return refusals

    def _change(self, change: Callable[[], Taken]) -> Taken:
        """Change the state of the vehicle and wake waiting threads."""
        with self._changed:
            taken = change()
            self._changed.notify_all()
            return taken

    def _take(self, stamp_ns: int, take: Callable[[], Taken]) -> Taken | None:
        """Take a stamped message; if its stamps went back, clear everything first."""
        if self.time_line.is_leftover(stamp_ns):
            return None
        try:
            return take()
        except TimeJump as jump:
            self.start_over(str(jump), jump.from_ns)
            return take()


class SharedPoses:
    """The ego pose of a vehicle that callbacks feed while another thread reads.

    Args:
        vehicle: owner of the poses.
        changed: its lock, notified when a message arrived.
        now: returns ROS time.
    """

    def __init__(
        self, vehicle: VehicleInputs, changed: threading.Condition, now: Callable[[], Time]
    ) -> None:
        self._poses = vehicle.poses
        self._changed = changed
        self._now = now
        self._abandoned = 0

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego`` at a stamp; raises PoseUnavailable."""
        with self._changed:
            return self._poses.at(stamp_ns)

    def settled(self, stamp_ns: int) -> bool:
        """Whether newer poses cannot change the result of :meth:`at` for this stamp."""
        with self._changed:
            return self._poses.settled(stamp_ns)

    def abandon_waits(self) -> None:
        """End all waits, because the time line has ended."""
        with self._changed:
            self._abandoned += 1
            self._changed.notify_all()

    def wait_until_settled(self, stamp_ns: int, limit_s: float) -> bool:
        """Wait until the poses reach a stamp, at most ``limit_s`` of ROS time.

        Returns whether they did.
        """
        ros_start, wall_start = self._now(), time.monotonic()
        with self._changed:
            abandoned = self._abandoned
            while not self._poses.settled(stamp_ns):
                passed = max(
                    (self._now() - ros_start).nanoseconds * 1e-9,
                    (time.monotonic() - wall_start) * _WALL_TIME_FACTOR,
                )
                if passed >= limit_s or self._abandoned != abandoned:
                    return False
                self._changed.wait(_RECHECK_S)
            return True
