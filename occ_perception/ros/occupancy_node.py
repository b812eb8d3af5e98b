"""The node: inputs, ring synchroniser, worker and diagnostics wired together.

All callbacks run in one executor thread and only sort what arrives; decoding and the network run
in the worker. When time goes back (a bag that starts over, a simulation that restarts) everything
that holds stamped data is emptied.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from occ_perception.geometry import Float64
from occ_perception.models.zoo import get_card
from occ_perception.ros.camera_inputs import CameraInput, Picture
from occ_perception.ros.diagnostics import OK, WARN, DiagnosticsPublisher, Status
from occ_perception.ros.ego_poses import SharedPoses
from occ_perception.ros.input_plan import plan_inputs
from occ_perception.ros.lidar_input import LidarInput
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import NodeParameters, ParameterError, ParameterServer
from occ_perception.ros.pose_inputs import OdometryInput, TransformInput, add_transforms
from occ_perception.ros.rig_source import RigSource
from occ_perception.ros.synchronizer import (
    Mailbox,
    MessageFiltersSynchronizer,
    NativeSynchronizer,
    RingPolicy,
)
from occ_perception.ros.time_line import TimeLine
from occ_perception.ros.worker import Job, Worker
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel, load_model
from occ_perception.sensing.assembly import FrameError, LastPictures
from occ_perception.sensing.calibration import CameraInfo
from occ_perception.sensing.ego_pose import PoseBuffer
from occ_perception.sensing.message_fields import stamp_ns
from occ_perception.sensing.rings import Ring, RingGrouper
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformTree

_POLL_S = 0.2
_TICK_S = 0.02
_LOG_EVERY_S = 5.0
# Long enough for one frame of the largest network on a CPU.
_STOP_S = 30.0


class OccupancyNode(Node):
    """Cameras and ego pose in, semantic occupancy out; docs/node.md describes it.

    Raises:
        ParameterError: parameters that the node cannot run with.
        SyncPolicyError, TransformMessagesError: a package that they ask for is not installed.
        ValueError, KeyError, OSError: model or weights cannot be loaded.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("occupancy_node", **node_arguments)
        self._settings = ParameterServer(self)
        for sentence in self._settings.unknown:
            self.get_logger().warning(sentence)
        values = self._settings.values
        self._plan = plan_inputs(values, get_card(values.model))
        model = _load_model(values, [camera.name for camera in self._plan.cameras])
        self._ring_counts: Counter[str] = Counter()
        self._last_ring_at: float | None = None
        self._held: Ring | None = None
        self._last_pictures = LastPictures() if values.missing_camera == "reuse_last" else None
        self._last_missing: tuple[str, ...] = ()
        self._incomplete_reported = 0
        self._time_line = TimeLine()
        self._mailbox: Mailbox[Job] = Mailbox()

        self._create_poses(values)
        plan = self._plan
        self._rig_source = RigSource(
            plan.cameras, plan.pose.ego_frame, plan.rig, self._tree, plan.lidar_frame
        )
        self._rings = self._create_synchronizer(values)
        self._create_inputs(values)
        spacing_s = values.history_spacing_s
        self._worker = Worker(
            OccupancyStream(
                model,
                frame_id=self._plan.pose.ego_frame,
                commit_spacing_s=None if spacing_s < 0 else spacing_s,
            ),
            self._mailbox,
            self._poses,
            Outputs(self),
            self._settings,
            reference_camera=self._plan.reference_camera,
            encodings=self._plan.encodings,
            lidar=self._lidar,
            on_bad_picture=self._on_bad_picture,
            logger=self.get_logger(),
        )
        self._model = model
        self._diagnostics = DiagnosticsPublisher(
            self, f"{model.label} on {model.device}", self._report
        )
        self._create_timers()
        self._worker.start()
        if plan.absent:
            self.get_logger().warning(_without(plan.absent))
        self.get_logger().info(f"{model.label} runs on {model.device}; waiting for cameras")

    def stop(self) -> None:
        """Finish the frame at hand; afterwards the node can be destroyed."""
        if not self._worker.stop(_STOP_S):
            self.get_logger().warning(f"the network did not finish within {_STOP_S:g} s")

    # -- construction ----------------------------------------------------------------------------

    def _create_poses(self, values: NodeParameters) -> None:
        extrapolation_ns = round(values.pose_extrapolation_ms * 1e6)
        gap_ns = round(values.pose_gap_ms * 1e6)
        pose = self._plan.pose
        self._tree = TransformTree(extrapolation_ns, gap_ns)
        self._odometry_poses = PoseBuffer(extrapolation_ns, gap_ns)
        from_tf = pose.kind == "tf"
        source = self._tree.poses(pose.world_frame, pose.ego_frame) if from_tf else None
        self._poses = SharedPoses(source or self._odometry_poses, self)

    def _create_synchronizer(self, values: NodeParameters) -> RingPolicy:
        plan = self._plan
        names = tuple(camera.name for camera in plan.cameras)
        if values.sync_policy == "message_filters":
            return MessageFiltersSynchronizer(
                names, plan.reference_camera, plan.tolerance_ns, self._on_ring
            )
        grouper = RingGrouper(
            names,
            plan.reference_camera,
            tolerance_ns=plan.tolerance_ns,
            deadline_ns=round(values.sync_deadline_ms * 1e6),
        )
        return NativeSynchronizer(grouper, self._on_ring)

    def _create_inputs(self, values: NodeParameters) -> None:
        plan, reliability = self._plan, values.qos_reliability
        self._cameras = {
            camera.name: CameraInput(
                self,
                camera,
                stamp_source=plan.stamp_source,
                reliability=reliability,
                on_topic=self._rig_source.take_picture_topic,
                on_picture=self._on_picture,
                on_camera_info=self._on_camera_info if camera.camera_info else None,
            )
            for camera in plan.cameras
        }
        self._odometry = (
            OdometryInput(self, plan.pose.topic, plan.pose.ego_frame, reliability, self._on_pose)
            if plan.pose.kind == "odometry"
            else None
        )
        tf_topic = plan.pose.topic if plan.pose.kind == "tf" else "/tf"
        self._transforms = (
            TransformInput(self, tf_topic, reliability, self._on_transforms)
            if plan.needs_tf
            else None
        )
        self._lidar = (
            LidarInput(
                self,
                plan.lidar_topic,
                plan.pose.ego_frame,
                round(values.lidar_tolerance_ms * 1e6),
                reliability,
            )
            if plan.lidar_topic
            else None
        )

    def _create_timers(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._poll_timer = self.create_timer(_POLL_S, self._poll, clock=steady)
        # Deadlines count ROS time: in a paused simulation nothing is late.
        self._tick_timer = self.create_timer(_TICK_S, self._tick)
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-0.001), on_clock_change=True
            ),
            post_callback=self._on_clock_jump,
        )

    # -- callbacks -------------------------------------------------------------------------------

    def _poll(self) -> None:
        for camera in self._cameras.values():
            camera.poll()
        for source in (self._odometry, self._transforms, self._lidar):
            if source is not None:
                source.poll()

    def _tick(self) -> None:
        self._rings.tick(self._now_ns())

    def _on_picture(self, camera: str, stamp_ns: int, picture: Picture) -> None:
        self._take(stamp_ns, lambda: self._rings.add(camera, stamp_ns, picture, self._now_ns()))

    def _on_pose(self, stamp_ns: int, world_T_ego: Float64) -> None:
        def add() -> None:
            self._poses.change(lambda: self._odometry_poses.add(stamp_ns, world_T_ego))

        self._take(stamp_ns, add)

    def _on_transforms(self, message: Any, static: bool) -> None:
        def add() -> None:
            self._poses.change(lambda: add_transforms(self._tree, message, static))

        stamps = [0 if static else stamp_ns(t.header.stamp) for t in message.transforms]
        self._take(max(stamps, default=0), add)
        self._hand_over()  # mounts may come on /tf too

    def _on_camera_info(self, camera: str, info: CameraInfo) -> None:
        self._rig_source.take_camera_info(camera, info)
        self._forget_pictures()  # they may have another size
        self._hand_over()

    def _forget_pictures(self) -> None:
        if self._last_pictures is not None:
            self._last_pictures.reset()

    def _take(self, stamp_ns: int, add: Callable[[], None]) -> None:
        """Add stamped data; where its stamps went back, empty everything first."""
        if self._time_line.is_leftover(stamp_ns):
            return
        try:
            add()
        except TimeJump as jump:
            self._start_over(str(jump), jump.from_ns)
            add()

    def _on_clock_jump(self, jump: Any) -> None:
        now_ns = self._now_ns()
        before_ns = now_ns - jump.delta.nanoseconds
        self._start_over(f"the clock jumped by {jump.delta.nanoseconds * 1e-9:.3f} s", before_ns)

    def _start_over(self, reason: str, old_end_ns: int) -> None:
        self.get_logger().warning(f"{reason}; rings, poses and history are emptied")
        self._time_line.jumped(old_end_ns, reason)
        self._rings.reset()
        self._held = None
        self._forget_pictures()
        self._poses.change(self._odometry_poses.reset)
        self._poses.change(self._tree.reset)
        if self._lidar is not None:
            self._lidar.reset()
        self._worker.reset(reason)

    def _on_ring(self, ring: Ring) -> None:
        self._last_ring_at = time.monotonic()
        if ring.missing:
            self._last_missing = ring.missing
        # Here and not in the worker, which does not see the rings that newer ones overwrite.
        if self._last_pictures is not None:
            try:
                ring = self._last_pictures.complete(ring)
            except FrameError as error:
                text = f"ring dropped: {error}"
                self.get_logger().warning(text, throttle_duration_sec=_LOG_EVERY_S)
        if ring.missing:
            self._ring_counts["dropped_incomplete"] += 1
            return
        if self._held is not None:
            self._ring_counts["dropped_without_calibration"] += 1
        self._held = ring
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the newest ring to the worker as soon as all calibrations are known.

        At the start pictures and their camera_info race each other on different topics.
        """
        ring, rig = self._held, self._rig_source.rig()
        if ring is None or rig is None:
            return
        self._held = None
        self._ring_counts["taken"] += 1
        self._ring_counts["last_spread_us"] = ring.spread_ns // 1000
        self._mailbox.put(Job(ring, rig, time.monotonic()))

    def _on_bad_picture(self, camera: str, problem: str) -> None:
        self._cameras[camera].reject(problem)

    def _now_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    # -- diagnostics -----------------------------------------------------------------------------

    def _report(self) -> list[Status]:
        stale_after_s = self._settings.values.stale_after_s
        statuses = [
            camera.status(self._rig_source.problem(name), stale_after_s)
            for name, camera in self._cameras.items()
        ]
        statuses.append(self._rig_status())
        statuses.append(self._synchronization_status(stale_after_s))
        if self._odometry is not None:
            statuses.append(self._odometry.status(stale_after_s))
        if self._transforms is not None:
            if self._odometry is None:
                statuses.append(self._transforms.status(stale_after_s))
            statuses.append(self._transforms.mounts_status())
        if self._lidar is not None:
            statuses.append(self._lidar.status(stale_after_s))
        statuses += [self._worker.status(), self._time_status(), self._parameters_status()]
        return statuses

    def _rig_status(self) -> Status:
        card, absent = self._model.card, self._plan.absent
        level, text = (WARN, _without(absent)) if absent else (OK, "has all cameras of the model")
        values = {
            "cameras": ", ".join(card.cameras),
            "absent": ", ".join(absent),
            "reference_camera": self._plan.reference_camera,
            "grid_frame": card.grid_frame,
        }
        return Status("rig", level, text, values)

    def _synchronization_status(self, stale_after_s: float) -> Status:
        counters = self._rings.counters
        incomplete = counters.incomplete - self._incomplete_reported
        self._incomplete_reported = counters.incomplete
        silent_s = None if self._last_ring_at is None else time.monotonic() - self._last_ring_at
        level, text = OK, "rings are complete"
        if incomplete:
            level = WARN
            text = f"{incomplete} rings without {', '.join(self._last_missing)} since last report"
        elif silent_s is None or silent_s > stale_after_s:
            level = WARN
            since = "yet" if silent_s is None else f"for {silent_s:.1f} s"
            text = (
                f"no ring {since}; stamps of one ring must lie within "
                f"{self._plan.tolerance_ns / 1e6:g} ms (sync.tolerance_ms)"
            )
        elif self._rig_source.rig() is None:
            level, text = WARN, "rings wait until all calibrations are known"
        spread_ms = self._ring_counts["last_spread_us"] / 1000
        values = {
            "policy": self._settings.values.sync_policy,
            **vars(counters),
            "taken": self._ring_counts["taken"],
            "dropped_incomplete": self._ring_counts["dropped_incomplete"],
            "dropped_without_calibration": self._ring_counts["dropped_without_calibration"],
            "last_spread_ms": spread_ms,
            "last_missing": ", ".join(self._last_missing),
            "calibration_changes": self._rig_source.changes,
        }
        return Status("synchronization", level, text, values)

    def _time_status(self) -> Status:
        line = self._time_line
        values = {
            "jumps_back": line.jumps,
            "last_jump": line.last_reason,
            "leftovers_refused": line.leftovers,
        }
        return Status("time", OK, f"{line.jumps} jumps back", values)

    def _parameters_status(self) -> Status:
        unknown = self._settings.unknown
        level, text = (WARN, "; ".join(unknown)) if unknown else (OK, "all parameters are known")
        values = {"model": self._model.label, "device": self._model.device}
        return Status("parameters", level, text, values)


def _without(absent: tuple[str, ...]) -> str:
    return (
        f"runs without {', '.join(absent)}: layout or rig do not have it; what only it would see "
        "stays empty or is guessed"
    )


def _load_model(values: NodeParameters, cameras: list[str]) -> LoadedModel:
    device = values.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    seed = values.random_weights_seed
    if bool(values.weights) == (seed >= 0):
        raise ParameterError(
            "give weights (a checkpoint's path), or random_weights_seed to try the data path "
            "without: exactly one of the two; `occ models show "
            f"{values.model}` prints where the checkpoint is"
        )
    weights_seed = None if seed < 0 else seed
    return load_model(values.model, values.weights or None, weights_seed, device, cameras)
