"""Lidar sweeps from a recording, in the ego frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.discovery import (
    choose_layout,
    discover_mount,
    take_transforms,
    tf_topics,
    topic_of_points,
)
from occ_perception.bags.reading import Reading, RecordedFrameSet
from occ_perception.bags.recording import BagProblem, RecordedMessage, Recording
from occ_perception.bags.stamp_join import StampJoin
from occ_perception.errors import OccError
from occ_perception.geometry import Float64, invert_transform, transform_points
from occ_perception.sensing.assembly import FrameError
from occ_perception.sensing.ego_pose import EgoPoses, PoseUnavailable
from occ_perception.sensing.from_messages import points_from_message, stamp_ns
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.layouts import PoseSource, TopicLayout
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError
from occ_perception.sensing.vehicle import VehicleInputs

_FARTHEST_SWEEP_NS = 60_000_000

# Input plan for a recording whose cameras fit no layout.
_MOUNT_ALONE = InputPlan(
    TopicLayout("lidar alone", (), PoseSource("tf", "/tf", "map", "base_link"), "")
)


@dataclass(frozen=True, eq=False)
class LidarSweep:
    """The points of one message.

    Attributes:
        stamp_ns: header stamp.
        points: (n, 3) float64 in ego at the time of the sweep, metres; not compensated for the
            vehicle's motion during the sweep.
        intensity: (n,) float32 as the driver sends it; None if it sends none.
    """

    stamp_ns: int
    points: NDArray[np.float64]
    intensity: NDArray[np.float32] | None


class LidarSweeps:
    """The sweeps of one topic; iterate to get them, as often as needed.

    Args:
        path: the recording.
        topic: topic of sensor_msgs/PointCloud2; by default the recording's only one, or the one
            with "lidar" in its name.
        plan: defines the ego frame, and may hold the lidar's mount; by default the mount comes
            from tf, and the ego frame is ``base_link``.

    Raises:
        BagError: the recording cannot be read, or the choice of the topic is ambiguous.
    """

    def __init__(
        self, path: str | Path, topic: str | None = None, plan: InputPlan = _MOUNT_ALONE
    ) -> None:
        self.recording = Recording(path)
        self._plan = plan
        try:
            self.topic = topic_of_points(self.recording, topic)
        except BaseException:
            self.recording.close()
            raise

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why."""
        return self.recording.problems

    def __iter__(self) -> Iterator[LidarSweep]:
        vehicle = VehicleInputs(self._plan)
        discover_mount(self.recording, vehicle, self.topic)
        static, moving = (tf_topics(self.recording, is_static) for is_static in (True, False))
        for message in self.recording.messages({self.topic} | static | moving):
            if message.topic == self.topic:
                yield from self._read(message, vehicle)
                continue
            with suppress(TimeJump):  # a moving frame is not a mount
                take_transforms(self.recording, vehicle, message)

    def _read(self, message: RecordedMessage, vehicle: VehicleInputs) -> Iterator[LidarSweep]:
        try:
            yield self._sweep(message, vehicle)
        except (OccError, ValueError, TransformError) as error:
            self.recording.note("lidar", f"{message.topic}: {error}", message.received_ns)

    def _sweep(self, message: RecordedMessage, vehicle: VehicleInputs) -> LidarSweep:
        cloud = self.recording.decode(message)
        rows = points_from_message(cloud)
        ego_T_lidar = vehicle.mount(cloud.header.frame_id)
        places = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
        measured = np.isfinite(places).all(axis=1)
        intensity = None
        if "intensity" in (rows.dtype.names or ()):
            intensity = rows["intensity"][measured].astype(np.float32)
        points = transform_points(ego_T_lidar, places[measured])
        return LidarSweep(stamp_ns(cloud.header.stamp), points, intensity)


class NearestSweeps:
    """Finds the nearest sweep for each frame set of one time line, in one pass.

    Args:
        sweeps: sweeps of the same recording.
        tolerance_ns: largest distance between a frame set and its sweep.
    """

    def __init__(self, sweeps: LidarSweeps, tolerance_ns: int = 100_000_000) -> None:
        # A lidar at 10 Hz has a sweep within 50 ms of every stamp.
        self._sweeps = StampJoin(sweeps, tolerance_ns)
        self._why_none = (
            f"no sweep on {sweeps.topic} within {tolerance_ns / 1e6:g} ms of the frame set"
        )

    def at(self, stamp_ns: int, camera: str, poses: EgoPoses) -> tuple[LidarSweep, Float64]:
        """The sweep nearest to a stamp, and (4, 4) ``world_T_ego`` at the sweep's own stamp.

        Args:
            stamp_ns: stamp of the reference camera; must not decrease between calls.
            camera: name of the reference camera.
            poses: poses around the stamp.

        Raises:
            FrameError: no sweep lies within the tolerance, or there is no pose at its stamp.
        """
        sweep = self._sweeps.at(stamp_ns)
        if sweep is None:
            raise FrameError("no_lidar", camera, self._why_none)
        try:
            return sweep, poses.at(sweep.stamp_ns)
        except PoseUnavailable as error:
            raise FrameError("pose_unavailable", camera, f"lidar sweep: {error}") from error


class FrameSetSweeps:
    """For every frame set the nearest sweep, with points in ego at the reference camera's stamp.

    This compensates the vehicle's motion between sweep and image, but not the motion during the
    sweep. Iterate to get the sweeps, as often as needed.

    Args:
        path: recording with cameras, ego pose and lidar.
        topic: topic of sensor_msgs/PointCloud2, if the recording has several.

    Raises:
        BagError: the recording cannot be read, no layout fits its cameras, or the choice of the
            topic is ambiguous.
    """

    def __init__(self, path: str | Path, topic: str | None = None) -> None:
        self._recording = Recording(path)
        try:
            self._plan = InputPlan(choose_layout(self._recording, None))
            self._sweeps = LidarSweeps(path, topic, self._plan)
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
        time_line = -1
        for item in Reading(self._recording, VehicleInputs(self._plan)).frame_sets():
            if item.time_line != time_line:
                time_line = item.time_line
                sweeps = NearestSweeps(self._sweeps, _FARTHEST_SWEEP_NS)
            try:
                yield self._moved(item, sweeps)
            except FrameError as error:
                self._recording.note(error.reason, str(error), item.frame_set.reference_stamp_ns)

    def _moved(self, item: RecordedFrameSet, sweeps: NearestSweeps) -> LidarSweep:
        """The sweep nearest to a frame set, its points moved to the frame set's stamp."""
        stamp, camera = item.frame_set.reference_stamp_ns, self._plan.reference_camera
        sweep, world_T_sweep = sweeps.at(stamp, camera, item.poses)
        try:
            now_T_sweep = invert_transform(item.poses.at(stamp)) @ world_T_sweep
        except PoseUnavailable as error:
            raise FrameError("pose_unavailable", camera, str(error)) from error
        return replace(sweep, stamp_ns=stamp, points=transform_points(now_T_sweep, sweep.points))
