"""The occupancy node: connects inputs, frame set intake, worker, outputs and diagnostics.

All callbacks run in one executor thread and only store messages; decoding and the network run in
the worker thread. When time goes back (a bag starts over, a simulation restarts) all stamped data
is cleared.
"""

from __future__ import annotations

from typing import Any

import torch
from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from occ_perception.models.zoo import get_card
from occ_perception.ros.diagnostics import OK, WARN, DiagnosticsPublisher, Status
from occ_perception.ros.lidar_input import LidarInput
from occ_perception.ros.node_plan import lidar_topic_of, plan_node
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import NodeParameters, ParameterError, ParameterServer
from occ_perception.ros.synchronizer import FrameSetIntake
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.ros.worker import Worker
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel, load_model

_POLL_S = 0.2
_TICK_S = 0.02
# Long enough for one frame of the largest network on a CPU.
_STOP_S = 30.0


class OccupancyNode(Node):
    """Subscribes to cameras and ego pose, publishes semantic occupancy; see docs/node.md.

    Raises:
        ParameterError: the node cannot run with its parameters.
        SyncPolicyError, TransformMessagesError: a package that they require is not installed.
        ModelError, WeightsError, CheckpointError, OptionError: model or weights cannot be loaded.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("occupancy_node", **node_arguments)
        self._settings = ParameterServer(self)
        for sentence in self._settings.unknown:
            self.get_logger().warning(sentence)
        values = self._settings.values
        card = get_card(values.model)
        self._plan = plan_node(values, card)
        lidar_topic = lidar_topic_of(values, card)
        self._model = model = _load_model(values, [camera.name for camera in self._plan.cameras])
        self._vehicle = VehicleSubscriptions(self, self._plan, values)
        self._intake = FrameSetIntake(
            self._plan, values, self._vehicle.rig, self.get_clock(), self.get_logger()
        )
        self._vehicle.listen(
            on_image=self._intake.add,
            on_calibration=self._intake.hand_over,
            on_time_jump=self._on_time_jump,
        )
        self._lidar = self._create_lidar(lidar_topic, values) if lidar_topic else None
        spacing_s = values.history_spacing_s
        self._worker = Worker(
            OccupancyStream(
                model,
                frame_id=self._plan.pose.ego_frame,
                commit_spacing_s=None if spacing_s < 0 else spacing_s,
            ),
            self._intake.jobs,
            self._vehicle,
            Outputs(self),
            self._settings,
            lidar=self._lidar,
            logger=self.get_logger(),
        )
        self._diagnostics = DiagnosticsPublisher(
            self, f"{model.label} on {model.device}", self._report
        )
        self._create_timers()
        self._worker.start()
        if self._plan.absent:
            self.get_logger().warning(_without(self._plan.absent))
        self.get_logger().info(f"{model.label} runs on {model.device}; waiting for cameras")

    def stop(self) -> None:
        """Finish the current frame; afterwards the node can be destroyed."""
        if not self._worker.stop(_STOP_S):
            self.get_logger().warning(f"the network did not finish within {_STOP_S:g} s")

    def _create_lidar(self, topic: str, values: NodeParameters) -> LidarInput:
        tolerance_ns = round(values.lidar_tolerance_ms * 1e6)
        return LidarInput(self, topic, tolerance_ns, values.qos_reliability)

    def _create_timers(self) -> None:
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._poll_timer = self.create_timer(_POLL_S, self._poll, clock=steady)
        # Deadlines count ROS time, so a paused simulation causes no timeouts.
        self._tick_timer = self.create_timer(_TICK_S, self._intake.tick)
        self._jump_handle = self.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-0.001), on_clock_change=True
            ),
            post_callback=self._on_clock_jump,
        )

    # -- callbacks -------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._vehicle.poll()
        if self._lidar is not None:
            self._lidar.poll()

    def _on_clock_jump(self, jump: Any) -> None:
        before_ns = self.get_clock().now().nanoseconds - jump.delta.nanoseconds
        reason = f"the clock jumped by {jump.delta.nanoseconds * 1e-9:.3f} s"
        self._vehicle.start_over(reason, before_ns)

    def _on_time_jump(self, reason: str) -> None:
        self.get_logger().warning(f"{reason}; frame sets, poses and history are cleared")
        self._intake.reset()
        if self._lidar is not None:
            self._lidar.reset()
        self._worker.reset(reason)

    # -- diagnostics -----------------------------------------------------------------------------

    def _report(self) -> list[Status]:
        vehicle, stale_after_s = self._vehicle, self._settings.values.stale_after_s
        return [
            *vehicle.camera_statuses(stale_after_s),
            self._rig_status(),
            self._intake.status(stale_after_s, vehicle.calibration_changes),
            *vehicle.pose_statuses(stale_after_s),
            *([] if self._lidar is None else [self._lidar.status(stale_after_s)]),
            self._worker.status(),
            vehicle.time_status(),
            self._parameters_status(),
        ]

    def _rig_status(self) -> Status:
        card, absent = self._model.card, self._plan.absent
        warnings = [*([_without(absent)] if absent else []), *self._vehicle.doubts()]
        level = WARN if warnings else OK
        text = "; ".join(warnings) or "all cameras of the model exist"
        values = {
            "cameras": ", ".join(card.cameras),
            "absent": ", ".join(absent),
            "reference_camera": self._plan.reference_camera,
            "grid_frame": card.grid_frame,
            "notes": "; ".join(self._vehicle.notes()),
        }
        return Status("rig", level, text, values)

    def _parameters_status(self) -> Status:
        unknown = self._settings.unknown
        level, text = (WARN, "; ".join(unknown)) if unknown else (OK, "all parameters are known")
        values = {"model": self._model.label, "device": self._model.device}
        return Status("parameters", level, text, values)


def _without(absent: tuple[str, ...]) -> str:
    return (
        f"runs without {', '.join(absent)}, absent from layout or rig; voxels that only such a "
        "camera sees stay empty or are guessed"
    )


def _load_model(values: NodeParameters, cameras: list[str]) -> LoadedModel:
    device = values.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    seed = values.random_weights_seed
    if bool(values.weights) == (seed >= 0):
        raise ParameterError(
            "set exactly one of weights (path of a checkpoint) and random_weights_seed (to test "
            f"the data path without a checkpoint); `occ models show {values.model}` prints the "
            "checkpoint's URL"
        )
    weights_seed = None if seed < 0 else seed
    return load_model(values.model, values.weights or None, weights_seed, device, cameras)
