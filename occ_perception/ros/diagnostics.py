"""Diagnostics of the node: one status per task on /diagnostics, once per second.

The timer runs on the steady clock, so that reports continue when inputs or /clock stop.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

_PERIOD_S = 1.0

# The level field is of type bytes in Python, like these constants. A plain integer is serialized
# as garbage.
OK: bytes = DiagnosticStatus.OK
WARN: bytes = DiagnosticStatus.WARN
ERROR: bytes = DiagnosticStatus.ERROR
STALE: bytes = DiagnosticStatus.STALE


@dataclass(frozen=True)
class Status:
    """State of one task.

    Attributes:
        task: name of the task, e.g. ``camera CAM_FRONT``.
        level: OK, WARN, ERROR or STALE.
        message: one sentence; names a problem and the remedy if there is one.
        values: key-value pairs; floats are written with three decimals.
    """

    task: str
    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class DiagnosticsPublisher:
    """Publishes the statuses that ``report`` returns.

    Args:
        node: owner; its name, with its namespace, leads every status name.
        hardware_id: e.g. model and device.
        report: returns the statuses; called once per second.
        on_report: called with what was published.
    """

    def __init__(
        self,
        node: Node,
        hardware_id: str,
        report: Callable[[], Sequence[Status]],
        on_report: Callable[[Sequence[Status]], None],
    ) -> None:
        self._node = node
        self._hardware_id = hardware_id
        self._report = report
        self._on_report = on_report
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", QoSProfile(depth=10)
        )
        self._timer = node.create_timer(
            _PERIOD_S, self.publish, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )

    def close(self) -> None:
        """Stop reporting."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_publisher(self._publisher)

    def publish(self) -> None:
        """Publish one report now."""
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        name = self._node.get_fully_qualified_name().removeprefix("/")
        statuses = self._report()
        for status in statuses:
            message.status.append(
                DiagnosticStatus(
                    level=status.level,
                    name=f"{name}: {status.task}",
                    message=status.message,
                    hardware_id=self._hardware_id,
                    values=[
                        KeyValue(key=key, value=_text(value))
                        for key, value in status.values.items()
                    ],
                )
            )
        self._publisher.publish(message)
        self._on_report(statuses)


class LatencyWindow:
    """The last few durations of every stage; written by the worker, read by the report."""

    def __init__(self, size: int = 100) -> None:
        self._size = size
        self._lock = threading.Lock()
        self._stages: dict[str, deque[float]] = {}

    def add(self, milliseconds: Mapping[str, float]) -> None:
        """Add the durations of one frame."""
        with self._lock:
            for stage, value in milliseconds.items():
                self._stages.setdefault(stage, deque(maxlen=self._size)).append(value)

    def figures(self) -> dict[str, float]:
        """p50, p90, p99 and max of every stage, under keys such as ``<stage>_ms_p50``."""
        with self._lock:
            stages = {stage: list(values) for stage, values in self._stages.items()}
        figures: dict[str, float] = {}
        for stage, values in stages.items():
            for name, percent in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100)):
                figures[f"{stage}_ms_{name}"] = float(np.percentile(values, percent))
        return figures


class RateMeter:
    """Messages per second between two readings of a counter."""

    def __init__(self) -> None:
        self._count = 0
        self._at: float | None = None

    def rate_hz(self, count: int, now_s: float) -> float:
        """Rate since the last call; 0 at the first."""
        since, self._at = self._at, now_s
        arrived, self._count = count - self._count, count
        return arrived / (now_s - since) if since is not None and now_s > since else 0.0


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
