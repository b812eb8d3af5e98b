"""Tracks of boxes around movable objects, from annotation topics or a file."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.errors import OccError
from occ_perception.geometry import (
    Float64,
    interpolate_transform,
    invert_transform,
    matrix_from_pose,
)
from occ_perception.sensing.from_messages import stamp_ns

MARKERS, DETECTIONS = "visualization_msgs/msg/MarkerArray", "vision_msgs/msg/Detection3DArray"
BOX_TYPES = (MARKERS, DETECTIONS)
USUAL_TOPICS = ("/ground_truth/boxes", "/markers/annotations")
"""Topics that are used by default; the second is that of nuScenes converters."""

_CUBE = 1
_LONGEST_GAP_NS = 1_200_000_000
_BEYOND_ENDS_NS = 60_000_000
_MOVED_M = 0.5


class BoxFileError(OccError):
    """A file of boxes has a line that is not a box; the message has its number."""


@dataclass(frozen=True, eq=False)
class Box:
    """A box at one time.

    Attributes:
        track: identity of the object.
        name: its class, "" if unknown.
        world_T_box: (4, 4) pose of its centre, x along its length.
        size: (3,) length, width, height, metres.
        velocity: (2,) over ground in world axes, m/s.
    """

    track: str
    name: str
    world_T_box: Float64
    size: Float64
    velocity: Float64

    def holds(self, points: NDArray[Any], margin: float) -> NDArray[np.bool_]:
        """(n,) whether world points (n, 3) lie inside.

        ``margin`` (metres) widens all sides except the bottom, which is raised by it, so that the
        ground is not part of the object.
        """
        from occ_training.lidar_labels.kernels import points_in_box

        half = np.stack([-self.size / 2 - margin, self.size / 2 + margin])
        half[0, 2] = -self.size[2] / 2 + margin
        held = np.zeros(len(points), bool)
        points_in_box(points, invert_transform(self.world_T_box)[:3], half, held)
        return held


@dataclass
class _Track:
    name: str = ""
    stamps: list[int] = field(default_factory=list)
    poses: list[Float64] = field(default_factory=list)
    sizes: list[Float64] = field(default_factory=list)

    def moves(self) -> bool:
        places = np.array([pose[:3, 3] for pose in self.poses])
        return bool(np.ptp(places, axis=0).max() > _MOVED_M)

    def at(self, key: str, stamp: int) -> Box | None:
        """The box between two sightings, or at most 60 ms before the first or after the last."""
        stamps = self.stamps
        after = bisect_left(stamps, stamp)
        if after < len(stamps) and stamps[after] == stamp:
            pose = self.poses[after]
        elif 0 < after < len(stamps):
            if stamps[after] - stamps[after - 1] > _LONGEST_GAP_NS:
                return None
            part = (stamp - stamps[after - 1]) / (stamps[after] - stamps[after - 1])
            pose = interpolate_transform(self.poses[after - 1], self.poses[after], part)
        else:
            nearest = min(after, len(stamps) - 1)
            if abs(stamps[nearest] - stamp) > _BEYOND_ENDS_NS:
                return None
            pose = self.poses[nearest].copy()
            pose[:2, 3] += self._velocity(nearest) * (stamp - stamps[nearest]) * 1e-9
        nearest = min(after, len(stamps) - 1)
        return Box(key, self.name, pose, self.sizes[nearest], self._velocity(nearest))

    def _velocity(self, at: int) -> Float64:
        """(2,) m/s, from the neighbouring sightings."""
        first, last = max(at - 1, 0), min(at + 1, len(self.stamps) - 1)
        seconds = (self.stamps[last] - self.stamps[first]) * 1e-9
        if seconds <= 0 or seconds > 2e-9 * _LONGEST_GAP_NS:
            return np.zeros(2)
        velocity: Float64 = (self.poses[last][:2, 3] - self.poses[first][:2, 3]) / seconds
        return velocity


class BoxTracks:
    """All boxes of a recording, by track."""

    def __init__(self) -> None:
        self._tracks: dict[str, _Track] = defaultdict(_Track)

    def __len__(self) -> int:
        return len(self._tracks)

    def add(self, track: str, name: str, stamp: int, world_T_box: Float64, size: Float64) -> None:
        """Add a sighting, in any order; one with an equal stamp is ignored."""
        known = self._tracks[track]
        known.name = name or known.name
        at = bisect_left(known.stamps, stamp)
        if at < len(known.stamps) and known.stamps[at] == stamp:
            return
        known.stamps.insert(at, stamp)
        known.poses.insert(at, world_T_box)
        known.sizes.insert(at, size)

    def moving(self) -> BoxTracks:
        """The tracks that move by more than 0.5 m."""
        kept = BoxTracks()
        kept._tracks.update({key: one for key, one in self._tracks.items() if one.moves()})
        return kept

    def at(self, stamp: int) -> list[Box]:
        """The boxes at a time: interpolated between sightings at most 1.2 s apart."""
        found = (one.at(key, stamp) for key, one in self._tracks.items())
        return [box for box in found if box is not None]


def box_topic(recording: Recording, wanted: str | None) -> str | None:
    """The topic with the boxes: the wanted one, or a usual one; None if there is no usual one.

    Raises:
        BagError: the wanted topic does not exist, or has no boxes.
    """
    names = USUAL_TOPICS if wanted is None else (wanted,)
    for name in names:
        topic = recording.topics.get(name)
        if topic is not None and topic.kind in BOX_TYPES:
            return name
    if wanted is None:
        return None
    there = [name for name, topic in recording.topics.items() if topic.kind in BOX_TYPES]
    raise BagError(
        f"{recording.path} has no boxes on {wanted}; topics of {' or '.join(BOX_TYPES)}: "
        f"{', '.join(there) or 'none'}"
    )


def boxes_from_message(message: Any, world_frame: str) -> Iterator[tuple[str, str, int, Any, Any]]:
    """(track, class, stamp, ``world_T_box``, size) of each box of a message.

    For cubes of a MarkerArray the class is ``ns`` and the track ``ns`` with ``id``; for a
    Detection3DArray the track is ``id`` and the class that of the best hypothesis.

    Raises:
        ValueError: boxes in another frame than ``world_frame``, or invalid numbers.
    """
    if hasattr(message, "markers"):
        for marker in message.markers:
            if marker.type == _CUBE and marker.action == 0:
                key = f"{marker.ns}/{marker.id}"
                yield _box(key, marker.ns, marker.header, marker.pose, marker.scale, world_frame)
        return
    for detection in message.detections:
        ranked = sorted(detection.results, key=lambda result: -result.hypothesis.score)
        name = ranked[0].hypothesis.class_id if ranked else ""
        header = detection.header if detection.header.frame_id else message.header
        yield _box(
            detection.id, name, header, detection.bbox.center, detection.bbox.size, world_frame
        )


def _box(
    key: str, name: str, header: Any, pose: Any, size: Any, world_frame: str
) -> tuple[str, str, int, Float64, Float64]:
    frame = header.frame_id.lstrip("/")
    if frame != world_frame.lstrip("/"):
        raise ValueError(
            f"box {key} is given in {frame!r}, expected the world frame {world_frame!r} of the "
            "layout's poses"
        )
    place, turn = pose.position, pose.orientation
    world_T_box = matrix_from_pose((place.x, place.y, place.z), (turn.x, turn.y, turn.z, turn.w))
    return key, name, stamp_ns(header.stamp), world_T_box, _size(key, (size.x, size.y, size.z))


def _size(key: str, values: Any) -> Float64:
    size = np.asarray(values, dtype=np.float64)
    if size.shape != (3,) or not np.isfinite(size).all() or (size <= 0).any():
        raise ValueError(f"box {key}: size is {values}, expected three positive lengths in metres")
    return size


def read_box_topic(recording: Recording, topic: str, world_frame: str) -> BoxTracks:
    """All boxes of a topic; unusable messages become problems of the recording."""
    tracks = BoxTracks()
    for message in recording.messages({topic}):
        _take(tracks, recording, message, world_frame)
    return tracks


def _take(
    tracks: BoxTracks, recording: Recording, message: RecordedMessage, world_frame: str
) -> None:
    try:
        for box in boxes_from_message(recording.decode(message), world_frame):
            tracks.add(*box)
    except (BagError, ValueError) as error:
        recording.note("boxes", f"{message.topic}: {error}", message.received_ns)


def read_box_file(path: Path) -> BoxTracks:
    """Boxes from a file of JSON lines, one box at one time per line.

    ``{"stamp_ns": 1, "track": "7", "class": "car", "center": [x, y, z], "size": [length, width,
    height], "quaternion_xyzw": [0, 0, 0, 1]}``, in the world frame of the ego poses.

    Raises:
        BoxFileError: a line is not a box; the message has its number.
    """
    tracks = BoxTracks()
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                pose = matrix_from_pose(row["center"], row["quaternion_xyzw"])
                key = str(row["track"])
                size = _size(key, row["size"])
                tracks.add(key, str(row.get("class", "")), int(row["stamp_ns"]), pose, size)
            except (ValueError, KeyError, TypeError) as error:
                raise BoxFileError(f"{path}, line {number}: {error!r}") from error
    return tracks
