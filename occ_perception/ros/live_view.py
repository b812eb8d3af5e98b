"""Inputs and outputs of a running node, frame by frame, for a viewer.

The parameters are read from the node, and its inputs are subscribed to in the same way as the node
does. Cameras, calibration and ego pose need no second configuration.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import rclpy
from rcl_interfaces.srv import GetParameters
from rclpy.client import Client
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python

from occ_msgs.msg import OccupancyFlow, SemanticOccupancy
from occ_perception.codec import MessageError
from occ_perception.errors import OccError
from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.models.card import ModelError
from occ_perception.models.zoo import get_card
from occ_perception.ros.camera_inputs import ReceivedImage
from occ_perception.ros.messages import flow_from_message, prediction_from_message
from occ_perception.ros.node_plan import plan_node
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.from_messages import stamp_ns
from occ_perception.sensing.input_plan import InputPlan

Show = Callable[[OccupancyPrediction, "CameraFrame | None"], None]

_SERVICE_TIMEOUT_S = 10.0
_POLL_S = 0.2
# Flow is sent right after the occupancy it belongs to, poses at 50 Hz or more.
_JOIN_TIMEOUT_S = 0.5
_GRIDS_KEPT = 5
# Enough for a network that is a few seconds behind its cameras.
_IMAGES_KEPT = 30
_SAME_IMAGE_NS = 20_000_000


class LiveViewError(OccError):
    """Nothing can be shown; the text says why."""


def watch(
    target: str,
    show: Show,
    note: Callable[[str], None],
    limit: int | None = None,
    every: int = 1,
) -> None:
    """Show the output of a node until Ctrl-C, or until ``limit`` frames are shown.

    Args:
        target: full name of the node, ``/occupancy_node``.
        show: called with a prediction (with flow if the node publishes it) and the images it was
            made from; None if they did not arrive.
        note: called once with each reason why something cannot be shown.
        limit: number of frames to show.
        every: show every n-th frame.

    Raises:
        LiveViewError: no such node responds, or its model is unknown to this installation.
    """
    rclpy.init()
    try:
        node = rclpy.create_node("occ_live_view")
        try:
            view = LiveView(node, target, _parameters_of(node, target))
            with _spinning(node):
                last = None if limit is None else (limit - 1) * every + 1
                for shown in islice(view.frames(note), 0, last, every):
                    show(*shown)
        finally:
            node.destroy_node()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()


class LiveView:
    """The inputs and outputs of a running node, joined by stamps.

    Callbacks run in the thread that spins ``node``; :meth:`frames` in another one.

    Args:
        node: subscribes.
        target: full name of the node to show.
        values: parameters of that node.
    """

    def __init__(self, node: Node, target: str, values: NodeParameters) -> None:
        self._node = node
        self._target = target
        plan = _plan(target, values)
        self._changed = threading.Condition()
        self._messages: deque[tuple[float, SemanticOccupancy]] = deque(maxlen=_GRIDS_KEPT)
        self._flows: dict[int, OccupancyFlow] = {}
        self._images: dict[str, dict[int, ReceivedImage]] = {c.name: {} for c in plan.cameras}
        self._assembler: tuple[CameraRig, FrameAssembler] | None = None
        self._vehicle = VehicleSubscriptions(node, plan, values)
        self._vehicle.listen(
            on_image=self._on_image,
            on_calibration=lambda: None,
            on_time_jump=self._on_time_jump,
        )
        node.create_subscription(SemanticOccupancy, f"{target}/occupancy", self._on_grid, 10)
        node.create_subscription(OccupancyFlow, f"{target}/flow", self._on_flow, 10)
        node.create_timer(_POLL_S, self._vehicle.poll)

    def frames(
        self, note: Callable[[str], None]
    ) -> Iterator[tuple[OccupancyPrediction, CameraFrame | None]]:
        """Predictions as they arrive, each with its images; ends when rclpy shuts down."""
        noted: set[str] = set()

        def once(text: str) -> None:
            if text not in noted:
                noted.add(text)
                note(text)

        while self._node.context.ok():
            with self._changed:
                if not self._messages:
                    self._changed.wait(_POLL_S)
                    continue
                arrived, message = self._messages.popleft()
            try:
                prediction = prediction_from_message(message)
            except (MessageError, ValueError) as error:
                once(f"{self._target}/occupancy: {error}")
                continue
            give_up = arrived + _JOIN_TIMEOUT_S
            yield self._with_flow(prediction, give_up, once), self._frame(prediction, give_up, once)

    # -- joining ---------------------------------------------------------------------------------

    def _with_flow(
        self, prediction: OccupancyPrediction, give_up: float, note: Callable[[str], None]
    ) -> OccupancyPrediction:
        topic = f"{self._target}/flow"
        with self._changed:
            if self._node.count_publishers(topic):
                self._changed.wait_for(
                    lambda: prediction.stamp_ns in self._flows,
                    max(0.0, give_up - time.monotonic()),
                )
            message = self._flows.pop(prediction.stamp_ns, None)
        if message is None:
            return prediction
        try:
            return replace(prediction, flow=flow_from_message(message)[0])
        except (MessageError, ValueError) as error:
            note(f"{topic}: {error}")
            return prediction

    def _frame(
        self, prediction: OccupancyPrediction, give_up: float, note: Callable[[str], None]
    ) -> CameraFrame | None:
        """The images that a prediction was made from."""
        stamps, rig = prediction.camera_stamps_ns, self._vehicle.rig()
        with self._changed:
            found = {
                name: nearest
                for name, images in self._images.items()
                if name in stamps and (nearest := _nearest(images, stamps[name]))
            }
        if rig is None:
            problem = next(iter(self._vehicle.problems()), "no calibration")
            note(f"images and path are not shown: {problem}")
            return None
        absent = [name for name in stamps if name not in found]
        if absent:
            note(f"some frames are shown without images: none came from {', '.join(absent)}")
            return None
        reference = self._vehicle.plan.reference_camera
        if reference not in stamps:  # it is silent: another camera's stamp is that of the grid
            reference = min(stamps, key=lambda name: abs(stamps[name] - prediction.stamp_ns))
        frame_set = FrameSet(
            reference_camera=reference,
            payloads={name: image for name, (_, image) in found.items()},
            stamps_ns={name: stamp for name, (stamp, _) in found.items()},
            masked=tuple(name for name in self._images if name not in stamps),
        )
        poses = self._vehicle.poses
        poses.wait_until_settled(frame_set.newest_stamp_ns, max(0.0, give_up - time.monotonic()))
        sequence = f"live {self._vehicle.time_line.jumps}"
        try:
            return self._assembler_for(rig).assemble(frame_set, poses, sequence)
        except FrameError as error:
            note(f"some frames are shown without images: {error}")
            return None

    def _assembler_for(self, rig: CameraRig) -> FrameAssembler:
        if self._assembler is None or self._assembler[0] is not rig:
            encodings = self._vehicle.plan.encodings
            self._assembler = (rig, FrameAssembler(rig, encodings=encodings))
        return self._assembler[1]

    # -- callbacks -------------------------------------------------------------------------------

    def _on_grid(self, message: SemanticOccupancy) -> None:
        with self._changed:
            self._messages.append((time.monotonic(), message))
            self._changed.notify_all()

    def _on_flow(self, message: OccupancyFlow) -> None:
        with self._changed:
            self._flows[stamp_ns(message.header.stamp)] = message
            _keep_newest(self._flows, _GRIDS_KEPT)
            self._changed.notify_all()

    def _on_image(self, camera: str, stamp: int, image: ReceivedImage) -> None:
        with self._changed:
            self._images[camera][stamp] = image
            _keep_newest(self._images[camera], _IMAGES_KEPT)

    def _on_time_jump(self, _reason: str) -> None:
        with self._changed:
            for images in self._images.values():
                images.clear()


def _parameters_of(node: Node, target: str) -> NodeParameters:
    """The parameters of a running occupancy node."""
    client: Client[Any, Any] = node.create_client(GetParameters, f"{target}/get_parameters")
    try:
        if not client.wait_for_service(_SERVICE_TIMEOUT_S):
            others = sorted(
                f"{namespace.rstrip('/')}/{name}"
                for name, namespace in node.get_node_names_and_namespaces()
                if name != node.get_name()
            )
            raise LiveViewError(
                f"no node {target} responds; running nodes: {', '.join(others) or 'none'}. Start "
                "the occupancy node, or give its name: occ view --live NAME"
            )
        table = {item.metadata["declaration"].name: item.name for item in fields(NodeParameters)}
        future = client.call_async(GetParameters.Request(names=list(table)))
        rclpy.spin_until_future_complete(node, future, timeout_sec=_SERVICE_TIMEOUT_S)
        response = future.result()
    finally:
        node.destroy_client(client)
    if response is None or len(response.values) != len(table):
        raise LiveViewError(f"{target} does not have the parameters of an occupancy node")
    known: dict[str, Any] = {}
    for attribute, value in zip(table.values(), response.values, strict=True):
        known[attribute] = parameter_value_to_python(value)
        if isinstance(known[attribute], list):
            known[attribute] = tuple(known[attribute])
    return NodeParameters(**known)


def _plan(target: str, values: NodeParameters) -> InputPlan:
    """The node's inputs, with its private topics under their full names."""
    try:
        plan = plan_node(values, get_card(values.model))
    except ModelError as error:
        raise LiveViewError(f"{target} runs a model that is not installed: {error}") from error

    def full(topic: str) -> str:
        return target + topic.removeprefix("~") if topic.startswith("~") else topic

    cameras = tuple(
        replace(camera, image=full(camera.image), camera_info=full(camera.camera_info))
        for camera in plan.cameras
    )
    pose = replace(plan.pose, topic=full(plan.pose.topic))
    return replace(plan, layout=replace(plan.layout, cameras=cameras, pose=pose))


@contextmanager
def _spinning(node: Node) -> Iterator[None]:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set() and node.context.ok():
            executor.spin_once(timeout_sec=_POLL_S)

    thread = threading.Thread(target=spin, name="live view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        executor.shutdown()


def _nearest(images: dict[int, ReceivedImage], stamp: int) -> tuple[int, ReceivedImage] | None:
    """The image nearest to a stamp; stamps by reception time differ by the DDS latency."""
    nearest = min(images, key=lambda other: abs(other - stamp), default=None)
    if nearest is None or abs(nearest - stamp) > _SAME_IMAGE_NS:
        return None
    return nearest, images[nearest]


def _keep_newest(stamped: dict[int, Any], count: int) -> None:
    while len(stamped) > count:
        del stamped[next(iter(stamped))]
