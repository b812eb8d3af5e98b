"""Playback of a recording, frame by frame: occupancy, ground truth and images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.drive import RecordedDrive, open_recording
from occ_perception.bags.predictions import (
    GROUND_TRUTH,
    GROUND_TRUTH_IN_VIEW,
    ArrayFolder,
    BagPredictions,
    is_ground_truth,
    occupancy_topics,
)
from occ_perception.bags.recording import BagError, BagProblem, Recording
from occ_perception.bags.stamp_join import StampJoin
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.sensing.input_plan import InputPlanError

_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")


@dataclass(frozen=True, eq=False)
class PlaybackFrame:
    """One frame of a playback.

    Attributes:
        prediction: occupancy to show.
        camera_frame: the camera images at its stamp; None if there are none.
        truth: ground truth at its stamp; None if there is none.
        is_truth: whether ``prediction`` is itself ground truth and not the output of a model.
        in_view_XYZ: (X, Y, Z) bool, the voxels of the ground truth that a camera sees; None if
            the source does not contain them.
    """

    prediction: OccupancyPrediction
    camera_frame: CameraFrame | None = None
    truth: OccupancyPrediction | None = None
    in_view_XYZ: NDArray[np.bool_] | None = None
    is_truth: bool = False


class Playback:
    """Occupancy of a source, joined by stamps with images and ground truth.

    Args:
        source: a bag with occupancy, a results folder of ``occ run``, or a folder of .npz files.
        cameras: bag with the images; by default the bag that ``occ run`` read, or the source.
        ground_truth: bag or folder of .npz files; by default the first of ``source`` and
            ``cameras`` that has topics below ``/ground_truth``.
        topic: the occupancy topic, if the source has several.
        layout: name or path of the topic layout of the bag with the images; recognised by
            default.
        with_cameras: whether images are read at all.

    Attributes:
        notes: what could not be joined and why.

    Raises:
        BagError: a source cannot be read or holds no occupancy.
    """

    def __init__(
        self,
        source: str | Path,
        cameras: str | Path | None = None,
        ground_truth: str | Path | None = None,
        topic: str | None = None,
        layout: str | None = None,
        with_cameras: bool = True,
    ) -> None:
        source, ran_on = _results_of_run(Path(source))
        camera_bag = Path(cameras) if cameras is not None else ran_on or source
        self.notes: list[str] = []
        self._layout = layout
        self._parts: list[RecordedDrive | BagPredictions | ArrayFolder] = []
        try:
            self._occupancy = self._open(source, topic)
            self._shows_truth = isinstance(self._occupancy, BagPredictions) and is_ground_truth(
                self._occupancy.topic
            )
            self._camera_frames = None
            if with_cameras:
                self._camera_frames = self._open_cameras(camera_bag, wanted=cameras is not None)
            self._truth: BagPredictions | ArrayFolder | None = None
            self._in_view: BagPredictions | None = None
            if ground_truth is not None:
                self._open_truth(Path(ground_truth))
            elif not self._shows_truth:
                self._find_truth(source, camera_bag)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Playback:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        for part in self._parts:
            part.close()

    @property
    def expected(self) -> int:
        """Upper limit of the number of frames."""
        return self._occupancy.expected

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why."""
        return [problem for part in self._parts for problem in part.problems]

    def __iter__(self) -> Iterator[PlaybackFrame]:
        frames = StampJoin(self._camera_frames or ())
        truths = StampJoin(self._truth or ())
        seen = StampJoin(self._in_view or ())
        for prediction in self._occupancy:
            stamp = prediction.stamp_ns
            in_view = seen.at(stamp)
            yield PlaybackFrame(
                prediction,
                frames.at(stamp),
                truths.at(stamp),
                None if in_view is None else in_view.labels != UNKNOWN_CLASS,
                self._shows_truth,
            )

    def _open(self, path: Path, topic: str | None = None) -> BagPredictions | ArrayFolder:
        part = open_occupancy(path, topic)
        self._parts.append(part)
        return part

    def _open_cameras(self, path: Path, wanted: bool) -> RecordedDrive | None:
        if not wanted and (_is_array_folder(path) or not _has_images(path)):
            return None
        try:
            frames = open_recording(path, self._layout)
        except (BagError, InputPlanError) as error:
            if wanted:
                raise
            self.notes.append(f"no images: {error}")
            return None
        self._parts.append(frames)
        return frames

    def _find_truth(self, *paths: Path) -> None:
        for path in paths:
            if not _is_array_folder(path) and _truth_topics(path):
                self._open_truth(path)
                return

    def _open_truth(self, path: Path) -> None:
        if _is_array_folder(path):
            self._truth = self._open(path)
            return
        topics = _truth_topics(path)
        # In a recording with ground truth alone the topic may have any name.
        self._truth = self._open(path, topics[0] if topics else None)
        if len(topics) > 1:
            self._in_view = BagPredictions(path, topics[1])
            self._parts.append(self._in_view)


def open_occupancy(source: str | Path, topic: str | None = None) -> BagPredictions | ArrayFolder:
    """The occupancy of a :class:`Playback` alone; same arguments and errors."""
    path, _ = _results_of_run(Path(source))
    return ArrayFolder(path) if _is_array_folder(path) else BagPredictions(path, topic)


def recording_of(source: str | Path) -> Path:
    """The recording that occupancy was made from: the bag that ``occ run`` read, or the source."""
    path, ran_on = _results_of_run(Path(source))
    return ran_on or path


def _results_of_run(source: Path) -> tuple[Path, Path | None]:
    """The predictions in a results folder of ``occ run`` and the bag they were made from."""
    if not (source / "predictions").is_dir():
        return source, None
    try:
        bag = Path(json.loads((source / "summary.json").read_text())["bag"])
    except (OSError, ValueError, KeyError, TypeError):
        return source / "predictions", None
    return source / "predictions", bag if bag.exists() else None


def _is_array_folder(path: Path) -> bool:
    return path.is_dir() and next(path.glob("*.npz"), None) is not None


def _has_images(path: Path) -> bool:
    with Recording(path) as recording:
        return any(topic.kind in _IMAGE_TYPES for topic in recording.topics.values())


def _truth_topics(path: Path) -> list[str]:
    """The ground truth topic, and the one limited to what cameras see, if they exist."""
    with Recording(path) as recording:
        whole = occupancy_topics(recording, GROUND_TRUTH)[:1]
        return whole + occupancy_topics(recording, GROUND_TRUTH_IN_VIEW)[:1]
