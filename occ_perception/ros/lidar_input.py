"""The lidar input of the node, for models that take lidar depth."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from occ_perception.codec import MessageError
from occ_perception.frames import CameraFrame, LidarPoints
from occ_perception.geometry import transform_points
from occ_perception.ros.diagnostics import Status
from occ_perception.ros.pose_inputs import Meter
from occ_perception.ros.subscriptions import InputSubscription
from occ_perception.ros.vehicle_subscriptions import VehicleSubscriptions
from occ_perception.sensing.ego_pose import PoseUnavailable
from occ_perception.sensing.from_messages import positions_from_message, stamp_ns
from occ_perception.sensing.layouts import POINTS_TYPE
from occ_perception.sensing.transform_tree import TransformError

# Two seconds of a lidar at 10 Hz: on a slow machine the network is behind the newest sweep.
_KEPT = 20


class MissingSweepError(ValueError):
    """No sweep can be used for a frame set; the text says why."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """One lidar message: points in the frame of its header."""

    stamp_ns: int
    frame_id: str
    points: NDArray[np.float64]


class LidarInput:
    """Keeps the last sweeps of a lidar and adds the nearest one to a frame.

    Args:
        node: owner.
        topic: topic of sensor_msgs/PointCloud2.
        tolerance_ns: largest distance of a sweep from a frame set's reference stamp.
        reliability: see :class:`InputSubscription`.
    """

    def __init__(self, node: Node, topic: str, tolerance_ns: int, reliability: str) -> None:
        self._meter = Meter()
        self._tolerance_ns = tolerance_ns
        self._lock = threading.Lock()
        self._sweeps: deque[Sweep] = deque(maxlen=_KEPT)
        self._subscription = InputSubscription(
            node,
            [topic],
            {POINTS_TYPE: PointCloud2},
            self._take,
            depth=_KEPT,
            reliability=reliability,
        )

    def poll(self) -> None:
        """Look for a publisher."""
        self._subscription.poll()

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()

    def status(self, stale_after_s: float) -> Status:
        """The diagnostics status of the lidar."""
        return self._meter.report("lidar", self._subscription, stale_after_s)

    def reset(self) -> None:
        """Drop all sweeps, after a jump back in time."""
        with self._lock:
            self._sweeps.clear()

    def with_points(self, frame: CameraFrame, vehicle: VehicleSubscriptions) -> CameraFrame:
        """The frame with the sweep nearest to its reference stamp; any thread.

        Raises:
            MissingSweepError: no sweep lies within the tolerance, it has no ego pose, or the
                mount of its frame is unknown.
        """
        with self._lock:
            sweeps = list(self._sweeps)
        sweep = min(sweeps, key=lambda s: abs(s.stamp_ns - frame.stamp_ns), default=None)
        at = f"the frame set at {frame.stamp_ns * 1e-9:.3f} s"
        if sweep is None:
            raise MissingSweepError(f"no lidar sweep came on {self._subscription.topic} for {at}")
        apart_ns = abs(sweep.stamp_ns - frame.stamp_ns)
        if apart_ns > self._tolerance_ns:
            raise MissingSweepError(
                f"the lidar sweep nearest to {at} is {apart_ns / 1e6:.0f} ms away, at most "
                f"{self._tolerance_ns / 1e6:g} ms are allowed (lidar.tolerance_ms)"
            )
        try:
            world_T_ego = vehicle.poses.at(sweep.stamp_ns)
            ego_T_lidar = vehicle.mount(sweep.frame_id)
        except PoseUnavailable as error:
            raise MissingSweepError(f"no ego pose for the lidar sweep of {at}: {error}") from error
        except TransformError as error:
            raise MissingSweepError(f"no mount of the lidar sweep of {at}: {error}") from error
        points = transform_points(ego_T_lidar, sweep.points)
        return replace(frame, lidar=LidarPoints(sweep.stamp_ns, points, world_T_ego))

    def _take(self, message: Any) -> None:
        try:
            points = positions_from_message(message)
        except (MessageError, ValueError) as error:
            self._meter.reject((str(error),))
            return
        self._meter.newest_ns = stamp_ns(message.header.stamp)
        frame_id = message.header.frame_id.lstrip("/")
        with self._lock:
            self._sweeps.append(Sweep(self._meter.newest_ns, frame_id, points))
