"""Lidar sweeps out of a recording, in the ego frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.calibrating import add_transforms, tf_topics
from occ_perception.bags.following import Follower
from occ_perception.bags.recording import BagError, BagProblem, RecordedMessage, Recording
from occ_perception.frames import CameraFrame, LidarPoints
from occ_perception.geometry import transform_points
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.ego_pose import EgoPoses, PoseUnavailable
from occ_perception.sensing.message_fields import stamp_ns
from occ_perception.sensing.point_fields import POINTS_TYPE, points_from_message
from occ_perception.sensing.rings import Ring
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree

# A lidar at 10 Hz has a sweep within 50 ms of every ring.
_SWEEP_TOLERANCE_NS = 100_000_000


@dataclass(frozen=True, eq=False)
class LidarSweep:
    """The points of one message.

    Attributes:
        stamp_ns: header stamp.
        points: (n, 3) float64 in ego at the time of the sweep, metres; the vehicle's motion during
            the sweep is not undone.
        intensity: (n,) float32 as the driver gives it, None where it gives none.
    """

    stamp_ns: int
    points: NDArray[np.float64]
    intensity: NDArray[np.float32] | None


class LidarSweeps:
    """The sweeps of one topic; iterate to get them, as often as needed.

    Args:
        path: the recording.
        ego_frame: frame of the points.
        topic: of sensor_msgs/PointCloud2; by default the recording's only one, or the one with
            "lidar" in its name.

    Raises:
        BagError: the recording cannot be read, or it is not clear which topic is meant.
    """

    def __init__(
        self, path: str | Path, ego_frame: str = "base_link", topic: str | None = None
    ) -> None:
        self.recording = Recording(path)
        try:
            self.topic = topic or _only_topic(self.recording)
            self._mounts = _mounts(self.recording)
        except BaseException:
            self.recording.close()
            raise
        self._ego_frame = ego_frame

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why."""
        return self.recording.problems

    def __iter__(self) -> Iterator[LidarSweep]:
        for message in self.recording.messages({self.topic}):
            yield from self._sweep(message)

    def _sweep(self, message: RecordedMessage) -> Iterator[LidarSweep]:
        try:
            cloud = self.recording.decode(message)
            rows = points_from_message(cloud)
            ego_T_lidar = self._mounts.static_transform(self._ego_frame, cloud.header.frame_id)
        except (ValueError, TransformError) as error:
            self.recording.note("lidar", f"{message.topic}: {error}", message.received_ns)
            return
        places = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
        measured = np.isfinite(places).all(axis=1)
        intensity = None
        if "intensity" in (rows.dtype.names or ()):
            intensity = rows["intensity"][measured].astype(np.float32)
        points = transform_points(ego_T_lidar, places[measured])
        yield LidarSweep(stamp_ns(cloud.header.stamp), points, intensity)


class LidarAssembler:
    """Makes frames of rings and gives each the sweep nearest to it, for models given depth.

    Args:
        frames: makes the frames.
        sweeps: of the same recording.
    """

    def __init__(self, frames: FrameAssembler, sweeps: LidarSweeps) -> None:
        self._frames = frames
        self._sweeps = sweeps
        self._follower: Follower[LidarSweep] | None = None

    def reset(self) -> None:
        """Time went back, or the recording is read again."""
        self._frames.reset()
        self._follower = None

    def assemble(self, ring: Ring, poses: EgoPoses, sequence: str) -> CameraFrame:
        """The ring's frame.

        Raises:
            FrameError: as :meth:`FrameAssembler.assemble`, or no sweep or no pose of a sweep is
                near.
        """
        frame = self._frames.assemble(ring, poses, sequence)
        self._follower = self._follower or Follower(self._sweeps, _SWEEP_TOLERANCE_NS)
        sweep = self._follower.at(frame.stamp_ns)
        if sweep is None:
            within = f"within {_SWEEP_TOLERANCE_NS / 1e6:g} ms of the ring"
            raise FrameError(
                "no_lidar", frame.reference_camera, f"no sweep on {self._sweeps.topic} {within}"
            )
        try:
            world_T_ego = poses.at(sweep.stamp_ns)
        except PoseUnavailable as error:
            raise FrameError(
                "pose_unavailable", frame.reference_camera, f"lidar sweep: {error}"
            ) from error
        return replace(frame, lidar=LidarPoints(sweep.stamp_ns, sweep.points, world_T_ego))


def _only_topic(recording: Recording) -> str:
    topics = [name for name, topic in recording.topics.items() if topic.kind == POINTS_TYPE]
    likely = [name for name in topics if "lidar" in name.lower()] if len(topics) > 1 else topics
    if not topics:
        raise BagError(f"{recording.path} has no topic of type {POINTS_TYPE}")
    if len(likely) != 1:
        raise BagError(
            f"{recording.path} has several topics of {POINTS_TYPE}: {', '.join(sorted(topics))}; "
            "choose one"
        )
    return likely[0]


def _mounts(recording: Recording) -> TransformTree:
    """Everything that tf says, for the mounts among it."""
    tree = TransformTree()
    for static in (True, False):
        for message in recording.messages(tf_topics(recording, static)):
            with suppress(TimeJump):  # what moves is no mount
                add_transforms(recording, message, tree, static)
    return tree
