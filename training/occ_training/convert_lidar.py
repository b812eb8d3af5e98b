"""A recording's lidar in a data set: labels made from its sweeps, and its points."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from occ_perception.bags.discovery import topic_of_points
from occ_perception.bags.drive import RecordedDrive
from occ_perception.bags.occ3d import OCC3D_GRID
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.stamp_join import nearest_stamp
from occ_perception.geometry import invert_transform, transform_points
from occ_perception.labels import LABEL_SETS
from occ_perception.sensing.layouts import POINTS_TYPE, TopicLayout
from occ_training.convert_frames import Draft
from occ_training.convert_labels import (
    CollectedFormats,
    WantedFrame,
    WrittenLabels,
    write_labels,
)
from occ_training.data.label_files import DataFileError
from occ_training.data.records import LabelFormat, LidarRecord
from occ_training.lidar_labels.boxes import BoxTracks, box_topic, read_box_file, read_box_topic
from occ_training.lidar_labels.labelling import LidarLabeller
from occ_training.lidar_labels.sweeps import NO_CLASS, Sweep, WorldSweeps


def has_lidar(recording: Recording) -> bool:
    """Whether the recording has a topic of points."""
    return any(topic.kind == POINTS_TYPE for topic in recording.topics.values())


class LidarMadeLabels:
    """Labels made from the recording's own lidar, see docs/lidar-labels.md.

    Args:
        drive: the recording.
        topic: of the sweeps; None for the recording's only one.
        boxes: topic or file of boxes; None looks for a usual topic, ``none`` uses none.
        point_classes: JSON file, value of the points' class field -> class name.
        period_s: least time between sweeps that are used.

    Raises:
        BagError: no such topic.
        BoxFileError, DataFileError: a file that cannot be read.
    """

    def __init__(
        self,
        drive: RecordedDrive,
        topic: str | None,
        boxes: str | None,
        point_classes: Path | None,
        period_s: float,
    ) -> None:
        classes = LABEL_SETS["occ3d"]
        self._classes = classes
        tracks, boxes_from = _boxes(drive.recording, drive.layout, boxes)
        topic = topic_of_points(drive.recording, topic)
        self._sweeps = world_sweeps(drive, topic, point_classes, period_ns=round(period_s * 1e9))
        self._labeller = LidarLabeller(OCC3D_GRID, classes, tracks)
        self._collected = CollectedFormats()
        self.formats: Mapping[str, LabelFormat] = self._collected.known
        self.description = f"lidar {topic}, {boxes_from}"

    def stamps_ns(self) -> list[int] | None:
        """None: any time can have labels."""
        return None

    def write(self, frames: Sequence[WantedFrame], folder: Path) -> Iterator[WrittenLabels]:
        """Write labels for the frames that have a sweep near them."""
        tokens = {id(wanted.frame): wanted.token for wanted in frames}
        for frame, labels in self._labeller.label([w.frame for w in frames], self._sweeps):
            if labels is not None:
                yield write_labels(
                    folder, tokens[id(frame)], labels.semantics, labels.mask_lidar,
                    labels.mask_camera, labels.flow, self._classes, OCC3D_GRID, self._collected,
                )  # fmt: skip


def _boxes(
    recording: Recording, layout: TopicLayout, wanted: str | None
) -> tuple[BoxTracks | None, str]:
    if wanted == "none":
        return None, "no boxes"
    if wanted is not None and Path(wanted).is_file():
        tracks = read_box_file(Path(wanted))
        return tracks, f"{len(tracks)} tracks of boxes of {wanted}"
    topic = box_topic(recording, wanted)
    if topic is None:
        return None, "no boxes"
    tracks = read_box_topic(recording, topic, layout.pose.world_frame)
    return tracks, f"{len(tracks)} tracks of boxes of {topic}"


def read_class_table(path: Path) -> dict[int, int]:
    """Occ3D class id of each value of the points' class field, from a JSON file.

    Raises:
        DataFileError: it is not such a file, or contains an unknown class name.
    """
    classes = LABEL_SETS["occ3d"]
    try:
        table = {int(value): str(name) for value, name in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise DataFileError(
            f'{path} is not a JSON object like {{"24": "driveable_surface"}}: {error}'
        ) from error
    strange = sorted(set(table.values()) - set(classes.class_names))
    if strange or min(table, default=0) < 0:
        raise DataFileError(
            f"{path}: {', '.join(strange) or 'negative values'}; expected names of "
            f"{', '.join(classes.class_names)}"
        )
    return {value: classes.class_names.index(name) for value, name in table.items()}


class PointWriter:
    """Writes the points of the sweep nearest to each frame.

    Args:
        drive: the recording.
        wanted: topic of the sweeps; None for the recording's only one.
        point_classes: JSON file, value of the points' class field -> class name.
        work: folder to write to.
        place: final folder of the files, relative to the data set.

    Attributes:
        topic: of the sweeps; "" if there is none or the choice is ambiguous.
    """

    def __init__(
        self,
        drive: RecordedDrive,
        wanted: str | None,
        point_classes: Path | None,
        work: Path,
        place: Path,
    ) -> None:
        self._drive = drive
        self._point_classes = point_classes
        self._work = work
        self._place = place
        self.topic = ""
        if has_lidar(drive.recording):
            try:
                self.topic = topic_of_points(drive.recording, wanted)
            except BagError as error:
                drive.recording.note("lidar", f"no points are stored: {error}")

    def write(
        self, drafts: Iterable[Draft], sweep_stamps: Iterable[int], farthest_ns: int
    ) -> dict[str, LidarRecord]:
        """Write the points of the frames that have a sweep near the stamp of their labels.

        Args:
            drafts: the frames.
            sweep_stamps: of all sweeps of the topic.
            farthest_ns: largest time between a sweep and the labels.

        Returns:
            Token of a frame -> record of its lidar.
        """
        stamps = sorted(set(sweep_stamps))
        frames: defaultdict[int, list[Draft]] = defaultdict(list)
        for draft in drafts:
            at = nearest_stamp(stamps, draft.label_ns)
            if at is not None and abs(stamps[at] - draft.label_ns) <= farthest_ns:
                frames[stamps[at]].append(draft)
        if not frames:
            return {}
        only = frozenset(frames)
        sweeps = world_sweeps(self._drive, self.topic, self._point_classes, only_ns=only)
        return {
            draft.record.token: self._written(draft.record.token, sweep)
            for sweep in sweeps
            for draft in frames[sweep.stamp_ns]
            if draft.wanted.time_line == sweep.time_line
        }

    def _written(self, token: str, sweep: Sweep) -> LidarRecord:
        """Write the points in the lidar frame at the sweep's stamp, motion-compensated."""
        folder = self._work / "lidar"
        folder.mkdir(exist_ok=True)
        lidar_T_world = invert_transform(sweep.world_T_ego @ sweep.ego_T_lidar)
        points = transform_points(lidar_T_world, sweep.points)
        (folder / f"{token}.bin").write_bytes(points.astype("<f4").tobytes())
        semantics = None
        if (sweep.classes != NO_CLASS).any():
            (folder / f"{token}.classes").write_bytes(sweep.classes.tobytes())
            semantics = str(self._place / "lidar" / f"{token}.classes")
        return LidarRecord(
            str(self._place / "lidar" / f"{token}.bin"),
            ("x", "y", "z"),
            sweep.stamp_ns,
            sweep.ego_T_lidar,
            sweep.world_T_ego,
            semantics,
            "occ3d",
        )


def world_sweeps(
    drive: RecordedDrive,
    topic: str,
    point_classes: Path | None,
    period_ns: int = 0,
    only_ns: frozenset[int] | None = None,
) -> WorldSweeps:
    """Sweeps whose points have class ids of Occ3D; arguments as for :class:`WorldSweeps`."""
    class_ids = None if point_classes is None else read_class_table(point_classes)
    num_classes = LABEL_SETS["occ3d"].empty_class
    return WorldSweeps(drive, topic, class_ids, num_classes, period_ns, only_ns)
