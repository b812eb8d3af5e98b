"""The outputs of the node: one class per topic, listed in :data:`OUTPUTS`."""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from nav_msgs.msg import OccupancyGrid
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, PointCloud2
from visualization_msgs.msg import MarkerArray

from occ_msgs.msg import Latency, OccupancyFlow, SemanticOccupancy
from occ_perception.bags.foxglove import FIELD_TYPE, VOXEL_GRID_TYPE
from occ_perception.codec import encoding_from_name
from occ_perception.errors import sentence_for
from occ_perception.frames import OccupancyPrediction
from occ_perception.ros.ground_messages import costmap_message, obstacles_message
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.messages import (
    flow_message,
    latency_message,
    map_message,
    occupancy_message,
    points_message,
)
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.surroundings import Step
from occ_perception.ros.visual_messages import (
    flow_markers_message,
    overlay_message,
    voxel_grid_message,
)

# A subscriber that stalls briefly still receives the last few grids.
OUTPUT_DEPTH = 5
LATENCY_TOPIC = "~/latency"
_OUTPUT_QOS = QoSProfile(depth=OUTPUT_DEPTH, reliability=ReliabilityPolicy.RELIABLE)


class Output(ABC):
    """One output topic.

    Attributes:
        topic: topic name; ``~`` is the name of the node.
        message_type: type of the messages.
        when: ``always``; ``subscribed``: messages are built only while the topic has a subscriber;
            ``available``: the topic is advertised with its first message.

    A ``subscribed`` output that raises an error is reported and publishes nothing. An error of any
    other output makes its frame set count as dropped.
    """

    topic: ClassVar[str]
    message_type: type[Any]
    when: ClassVar[Literal["always", "subscribed", "available"]] = "always"

    @abstractmethod
    def message(self, step: Step, parameters: NodeParameters) -> Any:
        """The message for one step; None publishes nothing. Called by the worker thread.

        Args:
            step: frame and prediction.
            parameters: current values; live parameters may change between two calls.
        """


class Occupancy(Output):
    """The class of every voxel, in the encoding that ``occupancy_encoding`` selects."""

    topic = "~/occupancy"
    message_type = SemanticOccupancy

    def message(self, step: Step, parameters: NodeParameters) -> SemanticOccupancy:
        """Every prediction."""
        encoding = encoding_from_name(parameters.occupancy_encoding)
        return occupancy_message(step.prediction, encoding)


class Flow(Output):
    """The velocity of voxels of moving classes."""

    topic = "~/flow"
    message_type = OccupancyFlow
    when = "available"

    def message(self, step: Step, parameters: NodeParameters) -> OccupancyFlow | None:
        """Predictions with flow."""
        if step.prediction.flow is None:
            return None
        return flow_message(step.prediction, parameters.flow_min_speed)


class Points(Output):
    """The centres of occupied voxels, for RViz and Foxglove."""

    topic = "~/occupancy_points"
    message_type = PointCloud2
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> PointCloud2:
        """Every prediction."""
        return points_message(step.prediction)


class Costmap(Output):
    """The cost of every column of the grid, for planners such as Nav2."""

    topic = "~/costmap"
    message_type = OccupancyGrid
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> OccupancyGrid:
        """Every prediction."""
        return costmap_message(step.prediction, step.ground.costs)


class ObstaclePoints(Output):
    """The centres of obstacle voxels, without the ground and what hangs above the vehicle."""

    topic = "~/obstacle_points"
    message_type = PointCloud2
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> PointCloud2:
        """Every prediction."""
        return obstacles_message(step.prediction, step.obstacles)


class FlowMarkers(Output):
    """Arrows of moving objects, for RViz and Foxglove."""

    topic = "~/flow_markers"
    message_type = MarkerArray
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> MarkerArray | None:
        """Predictions with flow."""
        if step.prediction.flow is None:
            return None
        return flow_markers_message(step.prediction)


class Overlay(Output):
    """The prediction over the camera images, all cameras in one image.

    The name ends as image_transport expects it, so RViz and rqt find the image ``debug/overlay``.
    """

    topic = "~/debug/overlay/compressed"
    message_type = CompressedImage
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> CompressedImage:
        """Every prediction, where numba is installed."""
        return overlay_message(step.frame, step.prediction)


class MapPoints(Output):
    """The map of the drive so far, in the world frame."""

    topic = "~/map_points"
    message_type = PointCloud2
    when = "subscribed"

    def message(self, step: Step, _parameters: NodeParameters) -> PointCloud2 | None:
        """Every ``map.period_s`` of stream time."""
        if step.world_map is None:
            return None
        return map_message(step.prediction, step.world_map.frame_id, step.world_map.voxels())


class VoxelGrid(Output):
    """Coloured voxels for Foxglove.

    Args:
        message_type: foxglove_msgs/VoxelGrid.
    """

    topic = "~/voxel_grid"
    when = "subscribed"

    def __init__(self, message_type: type[Any]) -> None:
        self.message_type = message_type

    def message(self, step: Step, _parameters: NodeParameters) -> Any:
        """Every prediction."""
        return voxel_grid_message(step.prediction)


def foxglove_outputs() -> tuple[Output, ...]:
    """The output that needs foxglove_msgs; none where that package is not installed."""
    kind, field = (message_class_of(name) for name in (VOXEL_GRID_TYPE, FIELD_TYPE))
    return () if kind is None or field is None else (VoxelGrid(kind),)


OUTPUTS: tuple[Output, ...] = (
    Occupancy(),
    Flow(),
    Costmap(),
    ObstaclePoints(),
    Points(),
    FlowMarkers(),
    Overlay(),
    MapPoints(),
    *foxglove_outputs(),
)
"""All outputs, in the order of publishing."""


class Outputs:
    """The publishers of :data:`OUTPUTS` and of the latency; used by the worker thread."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: dict[str, Publisher[Any]] = {}
        for output in OUTPUTS:
            if output.when != "available":
                self._advertise(output.topic, output.message_type)
        self._advertise(LATENCY_TOPIC, Latency)
        self._lock = threading.Lock()
        self._published: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._last_refusal = ""
        self._failed: Counter[str] = Counter()
        self._failing: dict[str, str] = {}
        self._last_failure = ""
        self._traced: set[tuple[str, str]] = set()

    @property
    def are_open(self) -> bool:
        """False once rclpy shuts down; a signal can cause that at any time."""
        return bool(self._node.context.ok())

    def publish(self, step: Step, parameters: NodeParameters) -> None:
        """Publish the messages for one step; an output that fails does not stop the others.

        Raises:
            Exception: the first error of an output that is published without being asked for.
        """
        errors = [self._error_of(output, step, parameters) for output in OUTPUTS]
        for error in errors:
            if error is not None:
                raise error

    def _error_of(self, output: Output, step: Step, parameters: NodeParameters) -> Exception | None:
        """Publish one output; returns the error that its frame set is to be dropped with."""
        is_asked_for = output.when == "subscribed"
        try:
            if not is_asked_for or self._has_subscriber(output):
                self._make(output, step, parameters)
        except Exception as error:
            if not is_asked_for:
                return error
            self._report(output.topic, error)
            return None
        if is_asked_for:
            with self._lock:
                self._failing.pop(output.topic, None)
        return None

    def _make(self, output: Output, step: Step, parameters: NodeParameters) -> None:
        message = output.message(step, parameters)
        if message is None:
            return
        if output.topic not in self._publishers:
            self._advertise(output.topic, output.message_type)
        self._send(output.topic, message)

    def _report(self, topic: str, error: Exception) -> None:
        """Count an output that was asked for and failed; the diagnostics say it."""
        if not self.are_open:
            return
        sentence = sentence_for(error)
        kind = (topic, type(error).__name__)
        if sentence is None and kind not in self._traced:
            # A defect: once with its traceback, which the diagnostics have no room for.
            self._traced.add(kind)
            trace = "".join(traceback.format_exception(error))
            self._node.get_logger().error(f"{topic} failed: {trace}")
        first = (sentence or f"{kind[1]}: {error}").splitlines()[0]
        with self._lock:
            self._failed[topic] += 1
            self._failing[topic] = self._last_failure = f"{topic} cannot be made: {first}"

    @property
    def failing(self) -> str:
        """Which outputs are asked for and failed when they were last tried, and why; or ""."""
        with self._lock:
            return "; ".join(self._failing.values())

    def publish_latency(
        self, prediction: OccupancyPrediction, milliseconds: Mapping[str, float]
    ) -> None:
        """Publish how long each stage of a prediction took."""
        self._send(LATENCY_TOPIC, latency_message(prediction, milliseconds))

    def figures(self) -> dict[str, int | str]:
        """Number of messages published, not made and refused by DDS, for diagnostics."""
        with self._lock:
            return {
                **_by_topic("published", self._published),
                **_by_topic("failed", self._failed),
                "last_failed_output": self._last_failure,
                "refused_by_dds": self._refused.total(),
                "last_refusal": self._last_refusal,
            }

    def close(self) -> None:
        """Withdraw all topics."""
        for publisher in self._publishers.values():
            self._node.destroy_publisher(publisher)
        self._publishers.clear()

    def _advertise(self, topic: str, message_type: type[Any]) -> None:
        self._publishers[topic] = self._node.create_publisher(message_type, topic, _OUTPUT_QOS)

    def _has_subscriber(self, output: Output) -> bool:
        return self._publishers[output.topic].get_subscription_count() > 0

    def _send(self, topic: str, message: Any) -> None:
        # A reliable writer with a full queue refuses a message. That must not end the node.
        try:
            self._publishers[topic].publish(message)
        except rclpy_implementation.RCLError as error:
            if not self.are_open:
                return
            with self._lock:
                self._refused[topic] += 1
                self._last_refusal = str(error)
            return
        with self._lock:
            self._published[topic] += 1


def _by_topic(what: str, counts: Counter[str]) -> dict[str, int]:
    return {f"{what}_{topic.removeprefix('~/')}": count for topic, count in counts.items()}
