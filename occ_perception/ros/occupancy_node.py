"""The occupancy node: a managed node that loads a network, and runs it while it is active."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import torch
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from occ_perception.errors import sentence_for
from occ_perception.models.zoo import get_card
from occ_perception.ros.activation import Activation
from occ_perception.ros.console import Console
from occ_perception.ros.diagnostics import OK, WARN, DiagnosticsPublisher, Status
from occ_perception.ros.node_plan import lidar_topic_of, plan_node
from occ_perception.ros.outputs import Outputs
from occ_perception.ros.parameters import NodeParameters, ParameterError, ParameterServer
from occ_perception.ros.surroundings import Surroundings
from occ_perception.ros.topic_table import topic_table
from occ_perception.runtime.execution import PreparedStep, prepared_step
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.self_check import Choice, choose_execution
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weight_files import find_weights
from occ_perception.runtime.weights import LoadedModel, load_model
from occ_perception.sensing.input_plan import InputPlan

_RESET = "reset by ~/reset"


@dataclass
class _Configured:
    """What the node holds from configuring to cleaning up.

    Attributes:
        plan, lidar_topic: the inputs.
        model, choice, network: the network, how it runs here, and ready to run so.
        outputs, diagnostics: publishers.
        activation: of now, or the one that the next transition starts.
    """

    plan: InputPlan
    lidar_topic: str
    model: LoadedModel
    choice: Choice
    network: PreparedStep
    outputs: Outputs
    diagnostics: DiagnosticsPublisher
    activation: Activation


class OccupancyNode(LifecycleNode):
    """Subscribes to cameras and ego pose, publishes semantic occupancy; see docs/node.md.

    Configuring checks the parameters, loads the network, runs it once on drawn images, and
    advertises the outputs. Active, the node predicts. Deactivated it keeps the network and forgets
    what it has seen; cleaned up it holds no memory of the network.

    Attributes:
        autostart: whether the program configures and activates the node itself.
        failure: why the last transition failed; "" if it did not.

    Raises:
        ParameterError: a parameter has the wrong type or is out of its limits.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("occupancy_node", **node_arguments)
        self._settings = ParameterServer(self)
        self.autostart = self._settings.values.autostart
        self.failure = ""
        self._configured: _Configured | None = None
        self._is_active = False
        self.create_service(Trigger, "~/reset", self._on_reset)

    def start(self) -> bool:
        """Configure and activate; returns whether both succeeded."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> None:
        """Finish the current frame; afterwards the node can be destroyed."""
        if self._configured is not None and self._is_active:
            self._is_active = False
            self._configured.activation.stop()

    # -- transitions -----------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and advertise the outputs."""
        self.failure = ""
        try:
            self._configured = self._configure()
        except Exception as error:
            if not self.context.ok():  # a signal that shuts rclpy down makes anything fail
                return TransitionCallbackReturn.FAILURE
            self.failure = sentence_for(error) or traceback.format_exc()
            self.get_logger().fatal(self.failure)
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and predict."""
        assert self._configured is not None
        self._configured.activation.start()
        self._is_active = True
        now = self._configured
        model, values = now.model, self._settings.values
        table = topic_table(self, now.plan, now.lidar_topic, values)
        self.get_logger().info(f"topics:\n{table}")
        self.get_logger().info(f"{model.label} runs on {model.device}; waiting for cameras")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop predicting; the network stays loaded."""
        assert self._configured is not None
        self.stop()
        now = self._configured
        now.activation = Activation(
            self,
            now.plan,
            now.lidar_topic,
            self._settings,
            now.model,
            now.network,
            now.outputs,
        )
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Release the network and the publishers."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and release everything."""
        self.stop()
        self._release()
        return super().on_shutdown(state)

    def _configure(self) -> _Configured:
        values = self._settings.values
        card = get_card(values.model)
        plan = plan_node(values, card)
        lidar_topic = lidar_topic_of(values, card)
        model = _load_model(values, [camera.name for camera in plan.cameras])
        choice = self._choose_execution(model, values)
        network = prepared_step(model.net, choice.execution)
        for frame in random_frames(model.card, 1):  # what would else be slow at the first frame
            surroundings = Surroundings(values)
            surroundings.add(frame, OccupancyStream(model, execution=network).step(frame))
            if surroundings.doubt:
                self.get_logger().warning(surroundings.doubt)
        outputs = Outputs(self)
        try:
            activation = Activation(
                self, plan, lidar_topic, self._settings, model, network, outputs
            )
        except Exception:
            outputs.close()
            raise
        label = f"{model.label} on {model.device}"
        console = Console(self.get_logger())
        diagnostics = DiagnosticsPublisher(self, label, self._report, console.say)
        return _Configured(
            plan, lidar_topic, model, choice, network, outputs, diagnostics, activation
        )

    def _choose_execution(self, model: LoadedModel, values: NodeParameters) -> Choice:
        """How the network runs here; the log says so, and why not otherwise."""
        choice = choose_execution(model, values.precision, values.execution)
        logger = self.get_logger()
        for sentence in choice.passed_over:
            logger.info(f"not used: {sentence}")
        if choice.doubt:
            logger.warning(choice.doubt)
        logger.info(f"the network runs in {choice}")
        return choice

    def _release(self) -> None:
        if self._configured is None:
            return
        self._configured.diagnostics.close()
        self._configured.outputs.close()
        self._configured = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    # -- services and diagnostics ----------------------------------------------------------------

    def _on_reset(self, _request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._configured is None or not self._is_active:
            response.success, response.message = False, "the node is not active: nothing to reset"
            return response
        self._configured.activation.forget(_RESET)
        response.success, response.message = True, "history and waiting frame sets are cleared"
        return response

    def _report(self) -> list[Status]:
        if self._configured is None:
            return []
        model, unknown = self._configured.model, self._settings.unknown
        level, text = (WARN, "; ".join(unknown)) if unknown else (OK, "all parameters are known")
        choice = self._configured.choice
        if choice.doubt and level == OK:
            level, text = WARN, choice.doubt
        agreement = choice.agreement
        values = {
            "model": model.label,
            "device": model.device,
            "execution": str(choice.execution),
            "self_check": "" if agreement is None else str(agreement),
        }
        active = self._is_active
        return [
            *(self._configured.activation.statuses() if active else ()),
            Status("lifecycle", OK, "active" if active else "inactive: nothing is predicted"),
            Status("parameters", level, text, values),
        ]


def _load_model(values: NodeParameters, cameras: list[str]) -> LoadedModel:
    device = values.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    seed = values.random_weights_seed
    if values.weights and seed >= 0:
        raise ParameterError("weights and random_weights_seed are both set; set one of them")
    if not values.weights and seed < 0 and find_weights(get_card(values.model)) is None:
        raise ParameterError(
            f"there are no weights of {values.model} on this machine: `occ weights fetch "
            f"{values.model}` downloads them, if they are published (`occ models show "
            f"{values.model}`); or set weights (path of a checkpoint), or random_weights_seed (to "
            "test the data path without a checkpoint)"
        )
    weights_seed = None if seed < 0 else seed
    return load_model(values.model, values.weights or None, weights_seed, device, cameras)
