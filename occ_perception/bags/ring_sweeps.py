"""Lidar sweeps at the stamps of the camera rings: the vehicle's motion in between is undone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from occ_perception.bags.calibrating import choose_layout
from occ_perception.bags.following import Follower
from occ_perception.bags.lidar import LidarSweep, LidarSweeps
from occ_perception.bags.reading import RingReading
from occ_perception.bags.recording import BagProblem, Recording
from occ_perception.geometry import invert_transform, transform_points
from occ_perception.sensing.assembly import FrameError
from occ_perception.sensing.ego_pose import EgoPoses, PoseUnavailable
from occ_perception.sensing.rings import Ring

_FARTHEST_SWEEP_NS = 60_000_000


class RingSweeps:
    """Of every ring the nearest sweep, its points in ego at the ring's reference stamp.

    What stands still then lies where it lay for the reference camera; the vehicle's motion during
    the sweep itself is not undone. Iterate to get them, as often as needed.

    Args:
        path: recording with cameras, ego pose and lidar.
        topic: of sensor_msgs/PointCloud2, where the recording has several.

    Raises:
        BagError: it cannot be read, no layout fits its cameras, or it is not clear which topic is
            meant.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._recording = Recording(path)
        try:
            self._layout = choose_layout(self._recording, None)
            self._sweeps = LidarSweeps(path, self._layout.pose.ego_frame, topic)
        except BaseException:
            self._recording.close()
            raise

    def close(self) -> None:
        """Close the recording."""
        self._sweeps.close()
        self._recording.close()

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why."""
        return self._recording.problems + self._sweeps.problems

    def __iter__(self) -> Iterator[LidarSweep]:
        reading = RingReading(
            self._recording, self._layout, _Mover(self._sweeps, self._layout.reference_camera)
        )
        for message in self._recording.messages(reading.topics):
            yield from reading.take(message)
        yield from reading.finish()


class _Mover:
    """Takes the place of the frame assembler: moves points instead of decoding pictures."""

    def __init__(self, sweeps: LidarSweeps, reference_camera: str) -> None:
        self._sweeps = sweeps
        self._camera = reference_camera
        self.reset()

    def reset(self) -> None:
        """Time went back."""
        self._follower = Follower(self._sweeps, _FARTHEST_SWEEP_NS)

    def assemble(self, ring: Ring, poses: EgoPoses, sequence: str) -> LidarSweep:
        del sequence
        stamp = ring.reference_stamp_ns
        sweep = self._follower.at(stamp)
        if sweep is None:
            within = f"within {_FARTHEST_SWEEP_NS / 1e6:g} ms of a ring"
            raise FrameError("no_lidar", self._camera, f"no sweep on {self._sweeps.topic} {within}")
        try:
            now_T_sweep = invert_transform(poses.at(stamp)) @ poses.at(sweep.stamp_ns)
        except PoseUnavailable as error:
            raise FrameError("pose_unavailable", self._camera, f"lidar sweep: {error}") from error
        return replace(sweep, stamp_ns=stamp, points=transform_points(now_T_sweep, sweep.points))
