"""Sources of labels for a converted bag: its own topics, or a folder of files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.predictions import (
    GROUND_TRUTH,
    GROUND_TRUTH_IN_VIEW,
    BagPredictions,
    occupancy_topics,
)
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.stamp_join import StampJoin, nearest_stamp
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS, LabelSet
from occ_perception.synthetic.labels import OPENOCC_OF_OCC3D
from occ_training.data.label_files import LABEL_FORMATS, DataFileError, read_labels
from occ_training.data.records import LabelFormat
from occ_training.lidar_labels.labelling import LabelledFrame
from occ_training.lidar_labels.visibility import camera_mask

Mask = NDArray[np.bool_]

# `others` becomes free, unknown stays unknown.
_OPENOCC_IDS = np.full(256, UNKNOWN_CLASS, np.uint8)
_OPENOCC_IDS[: len(OPENOCC_OF_OCC3D)] = OPENOCC_OF_OCC3D

SAME_TIME_NS = 50_000_000
"""Labels belong to the frame set nearest to them, if its reference stamp is this close. Those of
nuScenes are of the lidar's time, 35 ms after the front camera."""

_AT_CAMERA_TIME_NS = 1_000_000


@dataclass(frozen=True)
class WantedFrame:
    """A frame that needs labels.

    Attributes:
        token: name of the frame and of its files.
        frame: its time and poses.
    """

    token: str
    frame: LabelledFrame


@dataclass(frozen=True)
class WrittenLabels:
    """Files written for a frame.

    Attributes:
        token: the frame's name.
        files: key of the label set -> name of the file in the given folder.
    """

    token: str
    files: Mapping[str, str]


class LabelSource(Protocol):
    """Writes labels for frames.

    Attributes:
        description: for the report.
        formats: key -> format of the files; known after :meth:`write` has run.
    """

    description: str
    formats: Mapping[str, LabelFormat]

    def stamps_ns(self) -> list[int] | None:
        """Stamps of the labels in order; None if any time can have labels."""

    def write(self, frames: Sequence[WantedFrame], folder: Path) -> Iterator[WrittenLabels]:
        """Write files for the frames that have labels; frames are in time order."""


class NoLabels:
    """Images and poses alone."""

    description = "none"
    formats: Mapping[str, LabelFormat] = {}

    def stamps_ns(self) -> list[int] | None:
        """None: every frame is kept."""
        return None

    def write(self, frames: Sequence[WantedFrame], folder: Path) -> Iterator[WrittenLabels]:
        """Write nothing."""
        del folder
        yield from (WrittenLabels(frame.token, {}) for frame in frames)


@dataclass
class CollectedFormats:
    """The label format of each key; all files of a key must have the same."""

    known: dict[str, LabelFormat] = field(default_factory=dict)

    def add(self, key: str, label_format: LabelFormat) -> None:
        """Add the format of a file; raises BagError if an earlier file had another."""
        if self.known.setdefault(key, label_format) != label_format:
            raise BagError(
                f"labels of {key} change within the recording: {self.known[key]}, then "
                f"{label_format}; a data set has one grid and one class list per label set"
            )


class GroundTruthTopics:
    """The ground truth of a recording on ``/ground_truth`` topics (occ_msgs).

    The camera mask comes from ``/ground_truth_in_view`` if it exists; otherwise camera rays are
    cast into the labels.

    Raises:
        BagError: the recording has no such topic.
    """

    def __init__(self, recording: Recording) -> None:
        topics = occupancy_topics(recording, GROUND_TRUTH)
        if not topics:
            raise BagError(f"{recording.path} has no occupancy topic below {GROUND_TRUTH}")
        self._recording = recording
        self._topic = topics[0]
        self._seen_topic = next(iter(occupancy_topics(recording, GROUND_TRUTH_IN_VIEW)), None)
        self._collected = CollectedFormats()
        self.formats: Mapping[str, LabelFormat] = self._collected.known
        self.description = f"topic {self._topic}"

    def stamps_ns(self) -> list[int] | None:
        """Header stamps of the messages."""
        messages = self._recording.messages({self._topic})
        return sorted({self._recording.header_stamp_ns(message) for message in messages})

    def write(self, frames: Sequence[WantedFrame], folder: Path) -> Iterator[WrittenLabels]:
        """Decode the messages one by one; inconsistent ones are listed as problems."""
        waiting = _ByStamp(frames)
        truths = BagPredictions(self._recording.path, self._topic)
        seen_topic = self._seen_topic
        seen = BagPredictions(self._recording.path, seen_topic) if seen_topic else None
        try:
            in_view = StampJoin(seen or ())
            for truth in truths:
                wanted = waiting.pop(truth.stamp_ns)
                if wanted is not None:
                    visible = in_view.at(truth.stamp_ns)
                    yield self._written(truth, visible, wanted, folder)
        finally:
            for part in filter(None, (truths, seen)):
                for problem in part.problems:
                    self._recording.note(problem.reason, problem.text, problem.stamp_ns)
                part.close()

    def _written(
        self,
        truth: OccupancyPrediction,
        visible: OccupancyPrediction | None,
        wanted: WantedFrame,
        folder: Path,
    ) -> WrittenLabels:
        if not np.allclose(truth.ego_T_grid, np.eye(4)):
            raise BagError(
                f"{self._topic}: the grid is not aligned with the ego frame: expected an identity "
                f"ego_T_grid, got {truth.ego_T_grid.tolist()}"
            )
        classes = _label_set(truth, self._topic)
        if visible is not None:
            seen = visible.labels != UNKNOWN_CLASS
        else:
            occupied = truth.labels != truth.empty_class
            seen = camera_mask(occupied, wanted.frame.rig, wanted.frame.ego_T_cam, truth.grid)
        known = truth.labels != UNKNOWN_CLASS
        apart = abs(truth.stamp_ns - wanted.frame.stamp_ns)
        return write_labels(
            folder, wanted.token, truth.labels, known, seen & known, truth.flow, classes,
            truth.grid, self._collected, "reference_camera" if apart <= _AT_CAMERA_TIME_NS
            else "lidar",
        )  # fmt: skip


class LabelFolder:
    """Label files of a folder, matched by stamp or by token.

    The name of a file, or of its folder if all files are called ``labels.npz``, is a stamp in
    nanoseconds or microseconds, or a token whose time is in ``samples``. Files are copied
    unchanged.

    Args:
        recording: whose frames need labels; damaged files become its problems.
        root: searched recursively.
        kind: of the files, a key of LABEL_FORMATS.
        samples: nuScenes ``sample.json``, or any JSON list of objects with ``token`` and
            ``timestamp`` (microseconds) or ``stamp_ns``.

    Raises:
        BagError: no file name gives a time, or there is no such kind of files.
    """

    def __init__(self, recording: Recording, root: Path, kind: str, samples: Path | None) -> None:
        self._recording = recording
        times = {} if samples is None else _token_times(samples)
        self._files: dict[int, Path] = {}
        for file in sorted(root.rglob("*.npz")):
            name = file.parent.name if file.stem == "labels" else file.stem
            stamp = times.get(name, _stamp_in(name))
            if stamp is not None:
                self._files[stamp] = file
        if not self._files:
            raise BagError(
                f"{root} has no .npz files named by stamp (16 or 19 digits)"
                f"{' or by a token of ' + str(samples) if samples else ''}; tokens need --samples"
            )
        if kind not in LABEL_FORMATS or LABEL_FORMATS[kind].frame != "ego":
            known = [
                name for name, label_format in LABEL_FORMATS.items() if label_format.frame == "ego"
            ]
            raise BagError(
                f"--label-kind {kind}: there is no such kind of label files; expected one of "
                f"{', '.join(known)}"
            )
        self._kind = kind
        self.formats: Mapping[str, LabelFormat] = {}
        self.description = f"folder {root}"

    def stamps_ns(self) -> list[int] | None:
        """Stamps of the files."""
        return sorted(self._files)

    def stamp_of(self, reference_ns: int) -> int:
        """The label stamp nearest to a reference stamp."""
        return min(self._files, key=lambda stamp: abs(stamp - reference_ns))

    def write(self, frames: Sequence[WantedFrame], folder: Path) -> Iterator[WrittenLabels]:
        """Copy the files that can be read."""
        apart = [abs(self.stamp_of(f.frame.stamp_ns) - f.frame.stamp_ns) for f in frames]
        at_camera_time = not apart or max(apart) <= _AT_CAMERA_TIME_NS
        time: Literal["reference_camera", "lidar"] = (
            "reference_camera" if at_camera_time else "lidar"
        )
        self.formats = {self._kind: replace(LABEL_FORMATS[self._kind], time=time)}
        for wanted in frames:
            yield from self._copied(wanted, folder)

    def _copied(self, wanted: WantedFrame, folder: Path) -> Iterator[WrittenLabels]:
        source = self._files[self.stamp_of(wanted.frame.stamp_ns)]
        try:
            read_labels(source, LABEL_FORMATS[self._kind])
        except DataFileError as error:
            self._recording.note("label_file", str(error), wanted.frame.stamp_ns)
            return
        name = f"{wanted.token}.npz"
        shutil.copyfile(source, folder / name)
        yield WrittenLabels(wanted.token, {self._kind: name})


def _label_set(truth: OccupancyPrediction, topic: str) -> LabelSet:
    for classes in LABEL_SETS.values():
        if (truth.class_names, truth.empty_class) == (classes.class_names, classes.empty_class):
            return classes
    raise BagError(
        f"{topic}: its classes {', '.join(truth.class_names)} match no known label set "
        f"({', '.join(LABEL_SETS)})"
    )


def write_labels(
    folder: Path,
    token: str,
    semantics: NDArray[np.uint8],
    mask_lidar: Mask,
    mask_camera: Mask,
    flow: NDArray[np.float32] | None,
    classes: LabelSet,
    grid: VoxelGrid,
    formats: CollectedFormats,
    time: Literal["reference_camera", "lidar"] = "reference_camera",
) -> WrittenLabels:
    """Write the files of one frame with Occ3D's keys; with flow also with OpenOcc's classes."""
    arrays = {} if flow is None else {"flow": flow.astype(np.float32)}
    arrays["mask_lidar"] = mask_lidar.astype(np.uint8)
    arrays["mask_camera"] = mask_camera.astype(np.uint8)
    files: dict[str, str] = {}

    def write(name: str, ids: NDArray[np.uint8], suffix: str) -> None:
        files[name] = f"{token}{suffix}.npz"
        np.savez_compressed(folder / files[name], semantics=ids, **arrays)  # type: ignore[arg-type]
        formats.add(name, LabelFormat("occ3d", name, grid, time=time))

    write(classes.name, semantics, "")
    if flow is not None and classes.name == "occ3d":
        write("openocc", _OPENOCC_IDS[semantics], ".openocc")
    return WrittenLabels(token, files)


class _ByStamp:
    """Frames that are looked up by a stamp near theirs, each once."""

    def __init__(self, frames: Iterable[WantedFrame]) -> None:
        self._frames = sorted(frames, key=lambda wanted: wanted.frame.stamp_ns)

    def pop(self, stamp_ns: int) -> WantedFrame | None:
        stamps = [wanted.frame.stamp_ns for wanted in self._frames]
        at = nearest_stamp(stamps, stamp_ns)
        if at is None or abs(stamps[at] - stamp_ns) > SAME_TIME_NS:
            return None
        return self._frames.pop(at)


def _token_times(path: Path) -> dict[str, int]:
    def time(row: dict[str, Any]) -> int:
        return int(row["stamp_ns"]) if "stamp_ns" in row else int(row["timestamp"]) * 1000

    try:
        return {str(row["token"]): time(row) for row in json.loads(path.read_text())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataFileError(
            f"{path} is not a list of samples with token and timestamp: {error!r}"
        ) from error


def _stamp_in(name: str) -> int | None:
    if not name.isdigit() or len(name) not in (16, 19):
        return None
    return int(name) * (1000 if len(name) == 16 else 1)
