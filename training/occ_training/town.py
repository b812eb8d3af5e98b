"""Drives through the synthetic town as an ordinary data set, rendered once and stored on disk.

    DIR/NAME.jsonl          index of one set of clips: train, validation, test
    DIR/parts/CLIP.jsonl    one clip's frames and their provenance; written last
    DIR/frames/CLIP/...     its images, points and labels

A clip's folder appears only when it is complete. An interrupted run loses the clips that were being
rendered. Processes that render into the same folder share the work.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import atomic_path
from occ_perception.errors import OccError
from occ_perception.geometry import Float64, invert_transform, transform_points
from occ_perception.synthetic import OCC3D_GRID, SPLITS, Drive, DriveSensors, SensorOptions, Town
from occ_perception.synthetic.drive import KEYFRAME_PERIOD_S, drive_name
from occ_perception.synthetic.provenance import provenance_of
from occ_perception.synthetic.recording import encode_jpeg
from occ_perception.synthetic.render import View
from occ_perception.synthetic.rig import CAMERAS, REFERENCE_CAMERA
from occ_perception.synthetic.seeds import random_for
from occ_training.data.index import DatasetIndex
from occ_training.data.index_lines import header_from_json
from occ_training.data.records import (
    CameraRecord,
    DatasetError,
    DatasetHeader,
    FrameRecord,
    LabelFormat,
    LidarRecord,
)
from occ_training.parallel import run_all

FRAMES_VERSION = 1
"""Incremented when the files of a frame change although its scene does not."""

LABELS = "occ3d"
_LABEL_FORMAT = LabelFormat("occ3d", "occ3d", OCC3D_GRID, time="reference_camera")
_DRIVE_KEYFRAMES = 41
_SKY = 17
_BLOCK = 8

Split = Literal["train", "validation", "test"]


class RenderError(OccError):
    """Frames of the town could not be rendered; the message says which, and why."""


@dataclass(frozen=True)
class Clip:
    """Consecutive key frames of one drive, 0.5 s apart.

    Attributes:
        town, drive: seeds.
        first: number of the first key frame.
        frames: how many.
    """

    town: int
    drive: int
    first: int
    frames: int

    @property
    def name(self) -> str:
        """Name of its part of a data set, and of its sequence."""
        return f"{drive_name(self.town, self.drive)}-{self.first:02d}-{self.frames:02d}"

    def times(self) -> list[float]:
        """Lidar times, seconds since the start of the drive."""
        return [n * KEYFRAME_PERIOD_S for n in range(self.first, self.first + self.frames)]


@dataclass(frozen=True, kw_only=True)
class TownData:
    """The town data of a run. Training, validation and test use different towns.

    Attributes:
        towns: number of towns of the training split.
        drives: per town.
        drive_clips: clips per drive, one in each of as many equal parts of it. Making a drive takes
            as long as two key frames, and clips far apart see other places.
        clip_frames: key frames per clip.
        validation_towns, test_towns: number of towns for scoring, one drive each.
        scored_frames: key frames of each of those drives.
        size: width and height of the images. The smallest size without loss is the native aspect
            ratio of a model at the width of its input.
        jitter_rig: mounts and intrinsics differ a little from drive to drive.
        points: ``lidar`` stores the lidar's points; ``surfaces`` instead stores the nearest surface
            in every block of 8x8 pixels of every image.
        seed: of the choice of towns and key frames.
    """

    towns: int = 400
    drives: int = 2
    drive_clips: int = 1
    clip_frames: int = 10
    validation_towns: int = 8
    test_towns: int = 50
    scored_frames: int = 8
    size: tuple[int, int] = (704, 396)
    jitter_rig: bool = True
    points: Literal["lidar", "surfaces"] = "surfaces"
    seed: int = 0

    def clips(self, split: Split) -> list[Clip]:
        """The clips of one split; the clips of a town and of a drive are consecutive.

        Raises:
            RenderError: the clips do not fit into a drive.
        """
        if split == "train":
            order = random_for("demo clips", self.seed).permutation(len(SPLITS[split]))
            return [
                clip
                for town in order[: self.towns]
                for drive in range(self.drives)
                for clip in self._clips(int(town), drive)
            ]
        towns = self.validation_towns if split == "validation" else self.test_towns
        chosen = np.linspace(0, len(SPLITS[split]) - 1, towns).round().astype(int)
        return [Clip(SPLITS[split][n], 0, 8, self.scored_frames) for n in chosen]

    def _clips(self, town: int, drive: int) -> list[Clip]:
        rng = random_for("demo clip", self.seed, town, drive)
        ends = [_DRIVE_KEYFRAMES * n // self.drive_clips for n in range(self.drive_clips + 1)]
        clips = []
        for begin, end in pairwise(ends):
            room = end - begin - self.clip_frames
            if room < 0:
                raise RenderError(
                    f"{self.drive_clips} clips of {self.clip_frames} key frames do not fit into a "
                    f"drive of {_DRIVE_KEYFRAMES}; give fewer or shorter ones"
                )
            first = begin + int(rng.integers(room + 1))
            clips.append(Clip(town, drive, first, self.clip_frames))
        return clips

    def source(self, clip: Clip) -> dict[str, Any]:
        """Provenance of a clip: everything that determines its files."""
        return provenance_of(
            self.sensors(),
            clip.frames,
            town=clip.town,
            drive=clip.drive,
            first=clip.first,
            points=self.points,
            version=FRAMES_VERSION,
        )

    def sensors(self) -> SensorOptions:
        """How a drive is recorded, with one thread: rendering is parallel over processes."""
        return SensorOptions(size=self.size, jitter_rig=self.jitter_rig, threads=1)


def town_dataset(
    folder: Path,
    name: str,
    clips: Sequence[Clip],
    data: TownData,
    jobs: int | None = None,
    log: Callable[[str], None] = print,
) -> DatasetIndex:
    """The clips as a data set; clips that the folder lacks are rendered.

    Args:
        folder: of the data set; can contain other clips, and other processes can render into it.
        name: of the index that is written.
        clips: wanted clips.
        data: how they are rendered.
        jobs: processes that render; None = one per CPU of this process.
        log: called with each line of progress.

    Raises:
        RenderError: a clip could not be rendered; the others are complete.
        DatasetError: the folder has a clip with another provenance.
    """
    missing = [clip for clip in clips if not _is_rendered(folder, clip, data)]
    if missing:
        _render(folder, missing, data, jobs or len(os.sched_getaffinity(0)), log)
    frames = tuple(
        frame for clip in clips for frame in DatasetIndex.load(_part(folder, clip)).frames
    )
    source = {"town": [clip.name for clip in clips]}
    index = DatasetIndex(folder, replace(_header(f"town {name}"), source=source), frames)
    index.save(folder / f"{name}.jsonl")
    return index


@dataclass(frozen=True)
class _Job:
    """The clips of one town, which is built once for them."""

    folder: Path
    clips: tuple[Clip, ...]
    data: TownData


def _render(
    folder: Path, clips: Sequence[Clip], data: TownData, jobs: int, log: Callable[[str], None]
) -> None:
    """Render clips in parallel, with a progress bar."""
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    work = [_Job(folder, tuple(group), data) for _, group in groupby(clips, lambda c: c.town)]
    jobs = min(jobs, len(work))
    frames = sum(clip.frames for clip in clips)
    log(f"rendering {frames} frames of {len(work)} towns into {folder}, {jobs} towns at a time")
    begun = time.monotonic()
    failures = []
    columns = (*Progress.get_default_columns(), TimeElapsedColumn(), MofNCompleteColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("rendering", total=frames)
        for outcome in run_all(_render_town, work, jobs):
            progress.advance(task, sum(clip.frames for clip in outcome.item.clips))
            if outcome.error:
                failures.append(f"town {outcome.item.clips[0].town}: {outcome.error}")
    if failures:
        raise RenderError(
            f"{len(failures)} of {len(work)} towns could not be rendered, the first: "
            f"{failures[0]}; the same command renders what is missing"
        )
    log(f"rendered {frames} frames in {time.monotonic() - begun:.0f} s")


def _render_town(job: _Job) -> None:
    town = Town(job.clips[0].town)
    for number, clips in groupby(job.clips, lambda clip: clip.drive):
        drive = Drive(town, number)  # made on first use
        for clip in clips:
            with _alone(job.folder, clip):
                if not _is_rendered(job.folder, clip, job.data):
                    _render_clip(drive, clip, job.data, job.folder)


def _render_clip(drive: Drive, clip: Clip, data: TownData, folder: Path) -> None:
    """Write a clip's files, then its index."""
    place = Path("frames") / clip.name
    shutil.rmtree(folder / place, ignore_errors=True)  # left by a process that was killed
    sensors = DriveSensors(drive, data.sensors())
    with atomic_path(folder / place) as unfinished:
        unfinished.mkdir()
        frames = [_Frame(sensors, t, data, clip, unfinished).write(place) for t in clip.times()]
    header = replace(_header(clip.name), source=data.source(clip))
    DatasetIndex(folder, header, tuple(frames)).save(_part(folder, clip))


class _Frame:
    """Writer of one key frame."""

    def __init__(
        self, sensors: DriveSensors, t: float, data: TownData, clip: Clip, folder: Path
    ) -> None:
        self._sensors = sensors
        self._t = t
        self._data = data
        self._clip = clip
        self._folder = folder
        self._world_T_lidar = sensors.drive.pose(t) @ sensors.ego_T_lidar

    def write(self, place: Path) -> FrameRecord:
        """Write the files; their final folder is ``place`` below the data set's root."""
        sensors, number = self._sensors, round(self._t / KEYFRAME_PERIOD_S)
        stem = f"{number:02d}"
        cameras, surfaces = {}, []
        for name in sensors.rig.names:
            cameras[name], seen = self._camera(name, stem, place)
            surfaces.append(seen)
        points, classes = self._points(surfaces)
        (self._folder / f"{stem}.bin").write_bytes(points.astype("<f4").tobytes())
        (self._folder / f"{stem}.classes").write_bytes(classes.tobytes())
        truth, in_view = sensors.truth(self._t)
        assert truth.flow is not None
        np.savez_compressed(
            self._folder / f"{stem}.npz",
            semantics=truth.labels,
            mask_camera=in_view.astype(np.uint8),
            flow=truth.flow,
        )
        return FrameRecord(
            token=f"{self._clip.name}-{stem}",
            sequence=self._clip.name,
            stamp_ns=sensors.stamp_ns(self._t),
            reference_camera=REFERENCE_CAMERA,
            cameras=cameras,
            lidar=LidarRecord(
                points=str(place / f"{stem}.bin"),
                columns=("x", "y", "z"),
                stamp_ns=sensors.stamp_ns(self._t),
                ego_T_lidar=sensors.ego_T_lidar,
                world_T_ego=sensors.drive.pose(self._t),
                semantics=str(place / f"{stem}.classes"),
            ),
            labels={LABELS: str(place / f"{stem}.npz")},
        )

    def _camera(
        self, name: str, stem: str, place: Path
    ) -> tuple[CameraRecord, tuple[Float64, NDArray[np.uint8]]]:
        """The image of one camera, and the surfaces in it: (n, 3) in the lidar frame, classes."""
        sensors, file = self._sensors, f"{stem}-{name}.jpg"
        when = sensors.exposure(name, self._t)
        view = sensors.view(name, when)
        image = sensors.developed(view, name, when)
        (self._folder / file).write_bytes(encode_jpeg(image))
        mount = sensors.rig.camera(name)
        record = CameraRecord(
            image=str(place / file),
            stamp_ns=sensors.stamp_ns(when),
            K=mount.K,
            width=mount.width,
            height=mount.height,
            ego_T_cam=mount.ego_T_cam,
            world_T_ego=sensors.drive.pose(when),
        )
        in_camera, classes = nearest_surfaces(view, mount.K)
        lidar_T_cam = invert_transform(self._world_T_lidar) @ record.world_T_cam
        return record, (transform_points(lidar_T_cam, in_camera), classes)

    def _points(
        self, surfaces: Sequence[tuple[Float64, NDArray[np.uint8]]]
    ) -> tuple[Float64, NDArray[np.uint8]]:
        """(n, 3) points in the lidar frame, and their classes."""
        if self._data.points == "lidar":
            points = self._sensors.points(self._t)
            return points.points[:, :3].astype(np.float64), points.classes
        places, classes = zip(*surfaces, strict=True)
        return np.concatenate(places), np.concatenate(classes)


def nearest_surfaces(view: View, K: Float64) -> tuple[Float64, NDArray[np.uint8]]:
    """The nearest surface in every block of 8x8 pixels, counted from the lower left corner.

    Returns:
        (n, 3) points in the camera's frame, metres, each on the ray of its pixel; (n,) classes.
        Blocks of sky alone have none.
    """
    height, width = view.classes.shape
    rows, columns = height // _BLOCK, width // _BLOCK
    top, right = height - rows * _BLOCK, columns * _BLOCK

    def blocks(image: NDArray[Any]) -> NDArray[Any]:
        cut = image[top:, :right].reshape(rows, _BLOCK, columns, _BLOCK)
        return np.asarray(cut.transpose(0, 2, 1, 3).reshape(rows * columns, _BLOCK * _BLOCK))

    depth = view.depth(K).astype(np.float64)
    depth[(depth <= 0.0) | (view.classes == _SKY)] = np.inf
    chosen = blocks(depth).argmin(axis=1)[:, None]
    z = np.take_along_axis(blocks(depth), chosen, axis=1)[:, 0]
    classes = np.take_along_axis(blocks(view.classes), chosen, axis=1)[:, 0]
    block = np.arange(rows * columns)
    v = top + block // columns * _BLOCK + chosen[:, 0] // _BLOCK
    u = block % columns * _BLOCK + chosen[:, 0] % _BLOCK
    solid = np.isfinite(z)
    pixels = np.stack([u, v, np.ones_like(u)], axis=1)[solid].astype(np.float64)
    return pixels @ np.linalg.inv(K).T * z[solid, None], classes[solid]


def _header(name: str) -> DatasetHeader:
    return DatasetHeader(name=name, cameras=CAMERAS, label_sets={LABELS: _LABEL_FORMAT})


def _part(folder: Path, clip: Clip) -> Path:
    return folder / "parts" / f"{clip.name}.jsonl"


def _is_rendered(folder: Path, clip: Clip, data: TownData) -> bool:
    """Whether a clip is complete.

    Raises:
        DatasetError: it has another provenance: another generator version, or other options.
    """
    part = _part(folder, clip)
    if not part.is_file():
        return False
    with part.open(encoding="utf-8") as lines:
        stored = dict(header_from_json(json.loads(next(lines))).source)
    wanted = data.source(clip)
    differences = [
        f"{name} {stored.get(name)} there, {wanted.get(name)} wanted"
        for name in sorted(stored.keys() | wanted.keys())
        if stored.get(name) != wanted.get(name)
    ]
    if differences:
        raise DatasetError(
            f"{part} was rendered with other options: {'; '.join(differences)}; delete {folder}, "
            "or use another folder for the frames"
        )
    return True


@contextmanager
def _alone(folder: Path, clip: Clip) -> Iterator[None]:
    """A lock on a clip, one process at a time; it is released when its process ends."""
    import fcntl

    locks = folder / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / clip.name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
