"""The ego pose, shared between the callbacks that receive it and the worker that needs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from rclpy.node import Node

from occ_perception.geometry import Float64
from occ_perception.sensing.ego_pose import EgoPoses

# A /clock that stands still must not hold the worker for ever: wall time counts a tenth.
_WALL_TIME_FACTOR = 0.1
_RECHECK_S = 0.02


class SharedPoses:
    """An :class:`EgoPoses` that callbacks feed while the worker reads.

    Args:
        poses: the buffer or tf chain behind it; nobody else touches it.
        node: gives ROS time.
    """

    def __init__(self, poses: EgoPoses, node: Node) -> None:
        self._poses = poses
        self._clock = node.get_clock()
        self._condition = threading.Condition()
        self._abandoned = 0

    def change(self, update: Callable[[], None]) -> None:
        """Run ``update``, which feeds or resets what is behind, and wake the worker."""
        with self._condition:
            update()
            self._condition.notify_all()

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego`` at a stamp; raises PoseUnavailable."""
        with self._condition:
            return self._poses.at(stamp_ns)

    def settled(self, stamp_ns: int) -> bool:
        """Whether what :meth:`at` says about a stamp will not change with newer poses."""
        with self._condition:
            return self._poses.settled(stamp_ns)

    def abandon_waits(self) -> None:
        """Let a waiting worker go on: the time line it waits in has ended."""
        with self._condition:
            self._abandoned += 1
            self._condition.notify_all()

    def wait_until_settled(self, stamp_ns: int, limit_s: float) -> bool:
        """Wait until the poses reach a stamp, at most ``limit_s`` of ROS time."""
        ros_start, wall_start = self._clock.now(), time.monotonic()
        with self._condition:
            abandoned = self._abandoned
            while not self._poses.settled(stamp_ns):
                passed = max(
                    (self._clock.now() - ros_start).nanoseconds * 1e-9,
                    (time.monotonic() - wall_start) * _WALL_TIME_FACTOR,
                )
                if passed >= limit_s or self._abandoned != abandoned:
                    return False
                self._condition.wait(_RECHECK_S)
            return True
