"""Conversion of one recording to one part of a data set."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.atomic import atomic_path
from occ_perception.bags.drive import RecordedDrive, open_recording
from occ_perception.bags.predictions import GROUND_TRUTH, occupancy_topics
from occ_perception.bags.reading import RecordedCloud
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.stamp_join import nearest_stamp
from occ_perception.sensing.assembly import FrameError
from occ_training.convert_frames import Draft, FrameWriter, spaced
from occ_training.convert_labels import (
    SAME_TIME_NS,
    GroundTruthTopics,
    LabelFolder,
    LabelSource,
    NoLabels,
    WantedFrame,
)
from occ_training.convert_lidar import LidarMadeLabels, PointWriter, has_lidar
from occ_training.data.index import DatasetIndex
from occ_training.data.records import DatasetHeader, FrameRecord, LidarRecord

_SAME_SWEEP_NS = 5_000_000
_NEAREST_SWEEP_NS = 100_000_000


@dataclass(frozen=True)
class ConvertOptions:
    """How bags are converted; a finished part is checked against it.

    Attributes:
        labels: ``auto``, ``ground-truth``, ``lidar``, ``none``, or a folder of label files.
        label_kind: of the files in that folder: ``occ3d``, ``openocc`` or ``waymo``.
        samples: table of tokens and times for that folder.
        layout, rig: as for ``occ run``; None = layout recognised, calibration as recorded.
        spacing_s: between frames, seconds; 0 takes every frame set. Not used if the labels have
            stamps: then the frames are those with labels.
        lidar_topic: of sensor_msgs/PointCloud2; None = the only one.
        boxes: topic or JSON-lines file of boxes, or ``none``; None = a usual topic if it exists.
        point_classes: JSON file, values of the points' class field -> names.
        sweep_period_s: least time between lidar sweeps that are used.
        keep_incomplete: also keep frame sets that lack cameras.
    """

    labels: str = "auto"
    label_kind: str = "occ3d"
    samples: str | None = None
    layout: str | None = None
    rig: str | None = None
    spacing_s: float = 0.5
    lidar_topic: str | None = None
    boxes: str | None = None
    point_classes: str | None = None
    sweep_period_s: float = 0.09
    keep_incomplete: bool = False


@dataclass
class BagReport:
    """The result of converting a bag.

    Attributes:
        bag: its path.
        name: of its part of the data set.
        frames: number of frames in the data set.
        labels: where their labels come from.
        images: ``as recorded``, or how they were converted.
        frame_sets: numbers of complete and incomplete frame sets in the bag.
        notes: what the calibration uses besides the bag.
        problems: reason -> texts of what was skipped.
        resumed: whether an earlier run had converted it.
    """

    bag: str
    name: str
    frames: int = 0
    labels: str = ""
    images: str = ""
    frame_sets: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)
    resumed: bool = False


@dataclass(frozen=True)
class BagJob:
    """One bag to convert, in any process.

    Attributes:
        bag: rosbag2 folder or file.
        name: of its part of the data set, and of its sequences.
        out: folder of the data set.
        options: how it is converted.
    """

    bag: str
    name: str
    out: str
    options: ConvertOptions


def part_file(out: Path, name: str) -> Path:
    """The index of one bag's part; it exists only when the part is complete."""
    return out / "parts" / f"{name}.jsonl"


def finished_bags(out: Path) -> dict[str, str]:
    """Path of every converted bag of the folder -> name of its part."""
    parts = {file.stem: DatasetIndex.load(file) for file in (out / "parts").glob("*.jsonl")}
    return {part.header.source["recipe"]["bag"]["path"]: name for name, part in parts.items()}


def convert_bag(job: BagJob) -> BagReport:
    """Convert a bag, or return the report of an earlier run that completed it.

    The folder of files appears when all files are written; the index of the part is written last.
    An interrupted bag is converted again from its beginning.

    Raises:
        BagError: nothing of the bag can be used, or it was converted with other options.
        YamlError: a layout or rig file is wrong.
    """
    out = Path(job.out)
    recipe = {"bag": _fingerprint(Path(job.bag)), "options": asdict(job.options)}
    finished = part_file(out, job.name)
    if finished.exists():
        return _earlier_report(finished, job, recipe)
    files = out / "frames" / job.name
    shutil.rmtree(files, ignore_errors=True)  # left by a process that was killed
    options = job.options
    with (
        open_recording(job.bag, options.layout, options.rig, sequence=job.name) as drive,
        atomic_path(files) as work,
    ):
        work.mkdir()
        report, header, frames = _Conversion(drive, job, work).run()
    source = {"recipe": recipe, "report": asdict(report)}
    DatasetIndex(out, replace(header, source=source), tuple(frames)).save(finished)
    return report


def _earlier_report(finished: Path, job: BagJob, recipe: Mapping[str, Any]) -> BagReport:
    source = DatasetIndex.load(finished).header.source
    if source["recipe"] != recipe:
        raise BagError(
            f"{finished.parent.parent} has {job.name} converted from {source['recipe']}, requested "
            f"is {dict(recipe)}; choose another folder, or delete {finished}"
        )
    return replace(BagReport(**source["report"]), resumed=True)


def _fingerprint(bag: Path) -> dict[str, Any]:
    """Identifies the bag that was converted: its files, their sizes and modification times."""
    files = sorted(bag.iterdir()) if bag.is_dir() else [bag]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    return {"path": str(bag.resolve()), "files": digest[:16]}


class _Conversion:
    """The conversion of one bag: frame sets, then labels, then the lidar's points."""

    def __init__(self, drive: RecordedDrive, job: BagJob, work: Path) -> None:
        self._drive = drive
        self._recording = drive.recording
        self._job = job
        self._options = job.options
        self._work = work
        self._report = BagReport(job.bag, job.name, notes=[*drive.notes, *drive.doubts])
        self._labels = _label_source(drive, job.options)
        self._report.labels = self._labels.description
        table = _path(self._options.point_classes)
        self._points = PointWriter(drive, job.options.lidar_topic, table, work, self._place)

    def run(self) -> tuple[BagReport, DatasetHeader, list[FrameRecord]]:
        drafts, sweep_stamps = self._images()
        self._check_some(drafts, "no frame set could be used")
        drafts = self._with_labels(drafts)
        self._check_some(drafts, "no frame has labels")
        frames = self._with_lidar(drafts, sweep_stamps)
        report = self._report
        report.frames = len(frames)
        for problem in self._recording.problems:
            report.problems.setdefault(problem.reason, []).append(str(problem))
        header = DatasetHeader(
            name=self._job.name,
            cameras=self._drive.layout.camera_names,
            label_sets=self._labels.formats,
            ego_frame=self._drive.layout.pose.ego_frame,
            root="..",
        )
        return report, header, frames

    def _check_some(self, drafts: Sequence[Draft], what: str) -> None:
        if not drafts:
            reasons = "; ".join(str(problem) for problem in self._recording.problems[:5])
            raise BagError(f"{self._recording.path}: {what}: {reasons or 'it has none'}")

    def _images(self) -> tuple[list[Draft], list[int]]:
        """Write the images of the wanted frame sets; also returns the stamps of the sweeps."""
        label_stamps = _label_stamps(self._drive, self._options, self._labels)
        writer = FrameWriter(self._drive, self._options.keep_incomplete, self._work, self._place)
        drafts: list[Draft] = []
        sweep_stamps: list[int] = []
        for item in self._drive.frame_sets_and_clouds(self._points.topic):
            if isinstance(item, RecordedCloud):
                sweep_stamps.append(item.stamp_ns)
                continue
            stamp = item.frame_set.reference_stamp_ns
            if label_stamps is not None and stamp not in label_stamps:
                continue
            try:
                label_ns = stamp if label_stamps is None else label_stamps[stamp]
                drafts.append(writer.write(item, label_ns))
            except FrameError as error:
                self._recording.note(error.reason, str(error), stamp)
        counters = self._drive.counters
        self._report.frame_sets = {"complete": counters.complete, "incomplete": counters.incomplete}
        self._report.images = writer.images
        return drafts, sweep_stamps

    def _with_labels(self, drafts: list[Draft]) -> list[Draft]:
        """The frames that have labels; the images of the others are deleted."""
        folder = self._work / "labels"
        folder.mkdir()
        wanted = [WantedFrame(draft.record.token, draft.wanted) for draft in drafts]
        files = {done.token: done.files for done in self._labels.write(wanted, folder)}
        kept = []
        for draft in drafts:
            token = draft.record.token
            if token not in files:
                self._recording.note(
                    "no_labels", f"frame {token} has no labels", draft.wanted.stamp_ns
                )
                for camera in draft.record.cameras.values():
                    (self._work / Path(camera.image).relative_to(self._place)).unlink()
                continue
            labels = {key: str(self._place / "labels" / name) for key, name in files[token].items()}
            kept.append(replace(draft, record=replace(draft.record, labels=labels)))
        return kept

    @property
    def _place(self) -> Path:
        """Folder of the files, relative to the data set."""
        return Path("frames") / self._job.name

    def _with_lidar(self, drafts: list[Draft], sweep_stamps: list[int]) -> list[FrameRecord]:
        """The frames with the lidar's pose and points, if there is a sweep at their time.

        Labels at lidar time need at least its pose.
        """
        at_lidar_time = any(given.time == "lidar" for given in self._labels.formats.values())
        farthest = _SAME_SWEEP_NS if at_lidar_time else _NEAREST_SWEEP_NS
        written = self._points.write(drafts, sweep_stamps, farthest)
        mount = self._drive.recorded_rig.ego_T_lidar
        ego_T_lidar = np.eye(4) if mount is None else mount
        frames = []
        for draft in drafts:
            lidar = written.get(draft.record.token)
            if lidar is None and at_lidar_time:
                columns = ("x", "y", "z")
                pose = draft.world_T_label_ego
                lidar = LidarRecord(None, columns, draft.label_ns, ego_T_lidar, pose)
            frames.append(replace(draft.record, lidar=lidar))
        return frames


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _label_source(drive: RecordedDrive, options: ConvertOptions) -> LabelSource:
    kind = options.labels
    if kind == "auto":
        kind = _best_source(drive.recording)
    if kind == "none":
        return NoLabels()
    if kind == "ground-truth":
        return GroundTruthTopics(drive.recording)
    if kind == "lidar":
        return LidarMadeLabels(
            drive,
            options.lidar_topic,
            options.boxes,
            _path(options.point_classes),
            options.sweep_period_s,
        )
    return LabelFolder(drive.recording, Path(kind), options.label_kind, _path(options.samples))


def _best_source(recording: Recording) -> str:
    if occupancy_topics(recording, GROUND_TRUTH):
        return "ground-truth"
    if has_lidar(recording):
        return "lidar"
    raise BagError(
        f"{recording.path} has neither {GROUND_TRUTH} topics nor a lidar to make labels from; "
        "use --labels FOLDER, or --labels none for images and poses alone"
    )


def _label_stamps(
    drive: RecordedDrive, options: ConvertOptions, labels: LabelSource
) -> dict[int, int] | None:
    """Reference stamps of the frame sets to keep -> stamp of their labels; None keeps all.

    These are the frame sets that have labels. If any time can have labels, they are frame sets at
    the wanted spacing.
    """
    wanted = labels.stamps_ns()
    if wanted is None and options.spacing_s <= 0:
        return None
    stamps = drive.reference_stamps()
    if wanted is None:
        return {stamp: stamp for stamp in spaced(stamps, round(options.spacing_s * 1e9))}
    chosen = {}
    for stamp in wanted:
        at = nearest_stamp(stamps, stamp)
        if at is not None and abs(stamps[at] - stamp) <= SAME_TIME_NS:
            chosen[stamps[at]] = stamp
        else:
            drive.recording.note(
                "label_without_frame_set", "labels without a frame set at their time", stamp
            )
    return chosen
