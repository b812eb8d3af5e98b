"""The outputs of the node: one class per topic, listed in :data:`OUTPUTS`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from occ_msgs.msg import Latency, OccupancyFlow, SemanticOccupancy
from occ_perception.codec import encoding_from_name
from occ_perception.frames import OccupancyPrediction
from occ_perception.ros.messages import (
    flow_message,
    latency_message,
    occupancy_message,
    points_message,
)
from occ_perception.ros.parameters import NodeParameters

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
    """

    topic: ClassVar[str]
    message_type: ClassVar[type[Any]]
    when: ClassVar[Literal["always", "subscribed", "available"]] = "always"

    @abstractmethod
    def message(self, prediction: OccupancyPrediction, parameters: NodeParameters) -> Any:
        """The message for one prediction; None publishes nothing. Called by the worker thread.

        Args:
            prediction: output of the stream.
            parameters: current values; live parameters may change between two calls.
        """


class Occupancy(Output):
    """The class of every voxel, in the encoding that ``occupancy_encoding`` selects."""

    topic = "~/occupancy"
    message_type = SemanticOccupancy

    def message(
        self, prediction: OccupancyPrediction, parameters: NodeParameters
    ) -> SemanticOccupancy:
        """Every prediction."""
        return occupancy_message(prediction, encoding_from_name(parameters.occupancy_encoding))


class Flow(Output):
    """The velocity of voxels of moving classes."""

    topic = "~/flow"
    message_type = OccupancyFlow
    when = "available"

    def message(
        self, prediction: OccupancyPrediction, parameters: NodeParameters
    ) -> OccupancyFlow | None:
        """Predictions with flow."""
        if prediction.flow is None:
            return None
        return flow_message(prediction, parameters.flow_min_speed)


class Points(Output):
    """The centres of occupied voxels, for RViz and Foxglove."""

    topic = "~/occupancy_points"
    message_type = PointCloud2
    when = "subscribed"

    def message(self, prediction: OccupancyPrediction, _parameters: NodeParameters) -> PointCloud2:
        """Every prediction."""
        return points_message(prediction)


OUTPUTS: tuple[Output, ...] = (
    Occupancy(),
    Flow(),
    Points(),
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

    @property
    def are_open(self) -> bool:
        """False once rclpy shuts down; a signal can cause that at any time."""
        return bool(self._node.context.ok())

    def publish(self, prediction: OccupancyPrediction, parameters: NodeParameters) -> None:
        """Publish the messages for one prediction."""
        for output in OUTPUTS:
            if output.when == "subscribed" and not self._has_subscriber(output):
                continue
            message = output.message(prediction, parameters)
            if message is None:
                continue
            if output.topic not in self._publishers:
                self._advertise(output.topic, output.message_type)
            self._send(output.topic, message)

    def publish_latency(
        self, prediction: OccupancyPrediction, milliseconds: Mapping[str, float]
    ) -> None:
        """Publish how long each stage of a prediction took."""
        self._send(LATENCY_TOPIC, latency_message(prediction, milliseconds))

    def figures(self) -> dict[str, int | str]:
        """Number of messages published and refused by DDS, for diagnostics."""
        with self._lock:
            return {
                **{
                    f"published_{topic.removeprefix('~/')}": count
                    for topic, count in self._published.items()
                },
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
