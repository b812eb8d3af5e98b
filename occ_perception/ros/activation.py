"""What exists from an activation of the node to its deactivation: inputs, intake and worker.

All callbacks run in one executor thread and only store messages; decoding and the network run in
a thread each. When time goes back (a bag starts over, a simulation restarts) all stamped data
is cleared.
"""

from __future__ import annotations

from typing import Any

from rclpy.clock import Clock, JumpThreshold
from rclpy.clock_type import ClockType
from rclpy.duration import Duration
from rclpy.node import Node

from occ_perception.ros.assembly_stage import AssemblyStage
from occ_perception.ros.diagnostics import OK, WARN, Status
from occ_perception.ros.failures import Failures
from occ_perception.ros.lidar_input import LidarInput
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import ParameterServer
from occ_perception.ros.surroundings import Surroundings
from occ_perception.ros.synchronizer import FrameSetIntake
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.ros.worker import Worker
from occ_perception.runtime.execution import PreparedStep
from occ_perception.runtime.schedule import HistoryLimits
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel
from occ_perception.sensing.input_plan import InputPlan

_POLL_S = 0.2
_TICK_S = 0.02
# Long enough for one frame of the largest network on a CPU.
_STOP_S = 30.0


class Activation:
    """One activation; it is started once and stopped once.

    Args:
        node: owner of subscriptions and timers.
        plan: its inputs.
        lidar_topic: "" for models without lidar depth.
        settings: its parameters.
        model: the network; every activation begins without a history.
        network: the same, ready to run.
        outputs: publishers.

    Raises:
        SyncPolicyError, TransformMessagesError: a package that the parameters require is not
            installed.
        CostRulesError: the file of costs cannot be used.
    """

    def __init__(
        self,
        node: Node,
        plan: InputPlan,
        lidar_topic: str,
        settings: ParameterServer,
        model: LoadedModel,
        network: PreparedStep,
        outputs: Outputs,
    ) -> None:
        self._node, self._plan, self._settings, self._model = node, plan, settings, model
        values, logger = settings.values, node.get_logger()
        self._vehicle = VehicleSubscriptions(node, plan, values)
        vehicle, clock = self._vehicle, node.get_clock()
        self._intake = FrameSetIntake(plan, values, vehicle.rig, vehicle.do_without, clock, logger)
        self._vehicle.listen(
            on_image=self._intake.add,
            on_calibration=self._intake.hand_over,
            on_time_jump=self._on_time_jump,
        )
        self._lidar: LidarInput | None = None
        if lidar_topic:
            tolerance_ns = round(values.lidar_tolerance_ms * 1e6)
            self._lidar = LidarInput(node, lidar_topic, tolerance_ns, values.qos_reliability)
        failures = Failures(logger)
        stage = AssemblyStage(
            self._intake.jobs, vehicle, settings, lidar=self._lidar, failures=failures
        )
        spacing_s = values.history_spacing_s
        self._worker = Worker(
            OccupancyStream(
                model,
                frame_id=plan.pose.ego_frame,
                commit_spacing_s=None if spacing_s < 0 else spacing_s,
                limits=HistoryLimits(
                    max_gap_s=values.history_gap_s or None,
                    max_speed_mps=values.history_speed_mps,
                    max_turn_rate_dps=values.history_turn_rate_dps,
                ),
                execution=network,
            ),
            stage,
            Surroundings(values, plan.pose.world_frame),
            outputs,
            settings,
            failures,
            logger,
        )
        self._timers: list[Any] = []
        self._jump_handle: Any = None

    def start(self) -> None:
        """Subscribe, and predict from now on."""
        node = self._node
        self._poll()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._timers = [
            node.create_timer(_POLL_S, self._poll, clock=steady),
            # Deadlines count ROS time, so a paused simulation causes no timeouts.
            node.create_timer(_TICK_S, self._intake.tick),
        ]
        self._jump_handle = node.get_clock().create_jump_callback(
            JumpThreshold(
                min_forward=None, min_backward=Duration(seconds=-0.001), on_clock_change=True
            ),
            post_callback=self._on_clock_jump,
        )
        self._worker.start()

    def stop(self) -> None:
        """Finish the current frame, and unsubscribe."""
        if not self._worker.stop(_STOP_S):
            self._node.get_logger().warning(f"the network did not finish within {_STOP_S:g} s")
        for timer in self._timers:
            self._node.destroy_timer(timer)
        if self._jump_handle is not None:
            self._jump_handle.unregister()
        self._vehicle.close()
        if self._lidar is not None:
            self._lidar.close()

    def forget(self, reason: str) -> None:
        """Forget frame sets that wait, and the history."""
        self._intake.reset()
        self._worker.reset(reason)

    # -- callbacks -------------------------------------------------------------------------------

    def _poll(self) -> None:
        self._vehicle.poll()
        if self._lidar is not None:
            self._lidar.poll()

    def _on_clock_jump(self, jump: Any) -> None:
        before_ns = self._node.get_clock().now().nanoseconds - jump.delta.nanoseconds
        reason = f"the clock jumped by {jump.delta.nanoseconds * 1e-9:.3f} s"
        self._vehicle.start_over(reason, before_ns)

    def _on_time_jump(self, reason: str) -> None:
        self._node.get_logger().warning(f"{reason}; frame sets, poses and history are cleared")
        if self._lidar is not None:
            self._lidar.reset()
        self.forget(reason)

    # -- diagnostics -----------------------------------------------------------------------------

    def statuses(self) -> list[Status]:
        """The diagnostics statuses of inputs and worker."""
        vehicle, stale_after_s = self._vehicle, self._settings.values.stale_after_s
        return [
            *vehicle.camera_statuses(stale_after_s),
            self._rig_status(),
            self._intake.status(stale_after_s, vehicle.calibration_changes),
            *vehicle.pose_statuses(stale_after_s),
            *([] if self._lidar is None else [self._lidar.status(stale_after_s)]),
            *self._worker.statuses(),
            vehicle.time_status(),
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


def _without(absent: tuple[str, ...]) -> str:
    return (
        f"runs without {', '.join(absent)}, absent from layout or rig; voxels that only such a "
        "camera sees stay empty or are guessed"
    )
