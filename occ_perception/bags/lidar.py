"""Lidar sweeps out of a recording, in the ego frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.calibrating import add_transforms, tf_topics
from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.geometry import transform_points
from occ_perception.sensing.message_fields import stamp_ns
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree

POINTS_TYPE = "sensor_msgs/msg/PointCloud2"

# sensor_msgs/PointField.datatype
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


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


def points_from_message(message: Any) -> NDArray[np.void]:
    """The points (n,) of a sensor_msgs/PointCloud2 with its fields as named columns.

    Raises:
        ValueError: no x, y, z, a field of no known type, or less data than promised.
    """
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    if not {"x", "y", "z"} <= fields.keys():
        raise ValueError(f"points have fields {', '.join(fields) or 'none'}, expected x, y and z")
    strange = [name for name, f in fields.items() if f.datatype not in _NUMPY_TYPES]
    if strange:
        raise ValueError(f"fields {', '.join(strange)} of points have an unknown type")
    count = int(message.width) * int(message.height)
    if message.point_step * count > len(message.data):
        raise ValueError(
            f"{count} points of {message.point_step} bytes, but only {len(message.data)} bytes"
        )
    dtype = np.dtype(
        {
            "names": list(fields),
            "formats": [order + _NUMPY_TYPES[f.datatype] for f in fields.values()],
            "offsets": [int(f.offset) for f in fields.values()],
            "itemsize": int(message.point_step),
        }
    )
    points: NDArray[np.void] = np.frombuffer(message.data, dtype, count)
    return points


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
