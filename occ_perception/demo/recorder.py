"""A subscriber that keeps the node's outputs and their arrival times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import QoSProfile

from occ_msgs.msg import OccupancyFlow, SemanticOccupancy
from occ_perception.bags.recording import Recording
from occ_perception.frames import OccupancyPrediction
from occ_perception.ros.message_classes import header_stamp_of_bytes, message_class_of
from occ_perception.ros.messages import flow_from_message, prediction_from_message
from occ_perception.ros.player import playing_qos
from occ_perception.sensing.from_messages import stamp_ns
from occ_perception.sensing.layouts import TopicLayout

_QUEUED = 100


class Recorder:
    """Records grids, flow, diagnostics, and the arrival time of every image of the bag.

    Args:
        node: subscribes.
        recording: the bag that is played; its images are subscribed to, to measure latency.
        layout: layout of the bag.
        occupancy_node: name of the node whose output is recorded.
    """

    def __init__(
        self, node: Node, recording: Recording, layout: TopicLayout, occupancy_node: str
    ) -> None:
        self.grids: dict[int, SemanticOccupancy] = {}
        self.flows: dict[int, OccupancyFlow] = {}
        self._name = occupancy_node
        self._grid_arrived: dict[int, float] = {}
        self._image_arrived: dict[tuple[str, int], float] = {}
        self._diagnostics: dict[str, dict[str, str]] = {}
        node.create_subscription(
            SemanticOccupancy, f"/{occupancy_node}/occupancy", self._on_grid, _QUEUED
        )
        node.create_subscription(OccupancyFlow, f"/{occupancy_node}/flow", self._on_flow, _QUEUED)
        node.create_subscription(
            DiagnosticArray, "/diagnostics", self._on_diagnostics, QoSProfile(depth=10)
        )
        for camera in layout.cameras:
            message_class = message_class_of(recording.topics[camera.image].kind)
            assert message_class is not None, "sensor_msgs comes with rclpy"
            node.create_subscription(
                message_class,
                camera.image,
                lambda raw, name=camera.name: self._on_image(name, raw),
                playing_qos(recording, camera.image),
                raw=True,
            )

    def predictions(self) -> Iterator[OccupancyPrediction]:
        """The grids in the order of their stamps, with flow where the node sent it."""
        for stamp, message in sorted(self.grids.items()):
            prediction = prediction_from_message(message)
            if stamp in self.flows:
                prediction = replace(prediction, flow=flow_from_message(self.flows[stamp])[0])
            yield prediction

    def latencies_ms(self) -> list[float]:
        """Time from the arrival of a frame set's last image to the arrival of its grid.

        Both are measured in this process. Grids whose images carry no stamps are left out.
        """
        latencies = []
        for stamp, message in self.grids.items():
            images = [
                self._image_arrived.get((name, stamp_ns(time_)))
                for name, time_ in zip(message.camera_names, message.camera_stamps, strict=True)
            ]
            arrivals = [arrival for arrival in images if arrival is not None]
            if len(arrivals) == len(images):
                latencies.append(1e3 * (self._grid_arrived[stamp] - max(arrivals)))
        return latencies

    def figure(self, task: str, key: str) -> str:
        """A value of the last diagnostics; "?" if it was never reported."""
        return self._diagnostics.get(f"{self._name}: {task}", {}).get(key, "?")

    def _on_grid(self, message: SemanticOccupancy) -> None:
        stamp = stamp_ns(message.header.stamp)
        self.grids[stamp] = message
        self._grid_arrived[stamp] = time.monotonic()

    def _on_flow(self, message: OccupancyFlow) -> None:
        self.flows[stamp_ns(message.header.stamp)] = message

    def _on_image(self, camera: str, raw: Any) -> None:
        self._image_arrived[camera, header_stamp_of_bytes(raw)] = time.monotonic()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self._diagnostics[status.name] = {pair.key: pair.value for pair in status.values}
