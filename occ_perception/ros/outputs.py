"""The publishers of the node: occupancy, flow and points of every prediction."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import PointCloud2

from occ_msgs.msg import OccupancyFlow, SemanticOccupancy
from occ_perception.codec import encoding_from_name
from occ_perception.frames import OccupancyPrediction
from occ_perception.ros.messages import flow_message, occupancy_message, points_message

# A subscriber that stalls briefly still receives the last few grids.
_OUTPUT_QOS = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)


class Outputs:
    """The publishers of occupancy, flow and points; used by the worker thread.

    ~/flow is advertised with the first prediction that has flow.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._occupancy = node.create_publisher(SemanticOccupancy, "~/occupancy", _OUTPUT_QOS)
        self._points = node.create_publisher(PointCloud2, "~/occupancy_points", _OUTPUT_QOS)
        self._flow: Publisher[OccupancyFlow] | None = None
        self._lock = threading.Lock()
        self._published: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._last_refusal = ""

    @property
    def are_open(self) -> bool:
        """False once rclpy shuts down; a signal can cause that at any time."""
        return bool(self._node.context.ok())

    def publish(
        self, prediction: OccupancyPrediction, encoding: str, flow_min_speed: float
    ) -> None:
        """Publish one prediction; points only if they have a subscriber."""
        message = occupancy_message(prediction, encoding_from_name(encoding))
        self._send("occupancy", self._occupancy, message)
        if prediction.flow is not None:
            if self._flow is None:
                self._flow = self._node.create_publisher(OccupancyFlow, "~/flow", _OUTPUT_QOS)
            self._send("flow", self._flow, flow_message(prediction, flow_min_speed))
        if self._points.get_subscription_count():
            self._send("occupancy_points", self._points, points_message(prediction))

    def figures(self) -> dict[str, int | str]:
        """Number of messages published and refused by DDS, for diagnostics."""
        with self._lock:
            return {
                **{f"published_{name}": count for name, count in self._published.items()},
                "refused_by_dds": self._refused.total(),
                "last_refusal": self._last_refusal,
            }

    def _send(self, name: str, publisher: Publisher[Any], message: Any) -> None:
        # A reliable writer with a full queue refuses a message. That must not end the node.
        try:
            publisher.publish(message)
        except rclpy_implementation.RCLError as error:
            if not self.are_open:
                return
            with self._lock:
                self._refused[name] += 1
                self._last_refusal = str(error)
            return
        with self._lock:
            self._published[name] += 1
