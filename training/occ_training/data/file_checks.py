"""Checks for missing and damaged files of a data set.

A frame without a usable image of its reference camera is left out. For other files only the entry
is dropped (a camera, the sweep, the points' classes, a label set); a model that needs the entry
leaves the frame out when it uses the data set. Everything that is dropped is in the report.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from occ_perception.labels import LABEL_SETS
from occ_perception.sensing.images import EncodedImage, ImageError, check_compressed
from occ_training.data.images import read_image
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import (
    DataFileError,
    read_labels,
    read_point_classes,
    read_points,
    read_ray_mask,
)
from occ_training.data.records import FrameRecord

Check = Literal["present", "whole", "decode"]
"""How thoroughly files are checked: exist and not empty; also complete; decoded as in training."""


@dataclass
class CheckReport:
    """The result of a check.

    Attributes:
        problems: one line per file: frame, path, problem.
        left_out: tokens of frames that were removed from the data set.
        dropped: kind of entry (``CAM_BACK``, ``lidar``, ``occ3d`` ...) -> number of frames from
            which it was dropped.
        frames: number of frames checked.
    """

    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    frames: int = 0

    def drop(self, sequence: str, token: str, kind: str, problem: str) -> None:
        """An entry of a frame cannot be used."""
        self.problems.append(f"{sequence} {token}, {kind}: {problem}")
        self.dropped[kind] = self.dropped.get(kind, 0) + 1

    def leave_out(self, token: str) -> None:
        """A frame is removed."""
        self.left_out.append(token)

    def summary(self) -> str:
        """The result in one line of text."""
        kept = self.frames - len(self.left_out)
        text = f"{kept} of {self.frames} frames are usable"
        if self.dropped:
            parts = ", ".join(f"{kind} in {count}" for kind, count in sorted(self.dropped.items()))
            text += f"; missing or damaged: {parts}"
        return text


@dataclass(frozen=True)
class _File:
    """A file of a frame, and how it is read."""

    kind: str
    path: Path
    read: Callable[[], object]
    whole: Callable[[], None]


def check_files(
    index: DatasetIndex,
    check: Check = "whole",
    threads: int = 4,
    progress: Callable[[int, int], None] | None = None,
    report: CheckReport | None = None,
) -> tuple[DatasetIndex, CheckReport]:
    """Check every file of a data set.

    Args:
        index: the data set.
        check: how thoroughly.
        threads: frames checked in parallel; the time is spent on reading, not on computing.
        progress: called with (frames done, frames in all).
        report: of the index, which is continued.

    Returns:
        The data set without unusable frames and entries, and the report.
    """
    report = CheckReport(frames=len(index)) if report is None else report
    kept = []
    with ThreadPoolExecutor(max_workers=threads) as pool:
        found = pool.map(lambda frame: _problems(index, frame, check), index.frames)
        for done, (frame, problems) in enumerate(zip(index.frames, found, strict=True), start=1):
            for kind, problem in problems.items():
                report.drop(frame.sequence, frame.token, kind, problem)
            if frame.reference_camera in problems:
                report.leave_out(frame.token)
            else:
                kept.append(_without(frame, set(problems)))
            if progress is not None:
                progress(done, len(index))
    return replace(index, frames=tuple(kept)), report


def _problems(index: DatasetIndex, frame: FrameRecord, check: Check) -> dict[str, str]:
    """Kind of file -> problem."""
    found = {file.kind: _problem(file, check) for file in _files(index, frame)}
    problems = {kind: problem for kind, problem in found.items() if problem}
    if "lidar" in problems:
        problems.pop("point classes", None)  # they cannot be checked without their sweep
    return problems


def _problem(file: _File, check: Check) -> str:
    try:
        if not file.path.stat().st_size:
            return f"{file.path}: is empty"
        if check == "whole":
            file.whole()
        elif check == "decode":
            file.read()
    except OSError as error:
        return f"{file.path}: {error.strerror or error}"
    except ValueError as error:  # a path that no file can have
        return f"{file.path}: {error}"
    except DataFileError as error:
        return str(error)
    return ""


def _files(index: DatasetIndex, frame: FrameRecord) -> Iterator[_File]:
    for name, camera in frame.cameras.items():
        path, size = index.path(camera.image), (camera.width, camera.height)
        yield _File(name, path, partial(read_image, path, size), partial(_whole_image, path))
    lidar = frame.lidar
    if lidar is not None and lidar.points is not None:
        sweep, columns = index.path(lidar.points), lidar.columns
        whole = partial(_whole_points, sweep, len(columns))
        yield _File("lidar", sweep, partial(read_points, sweep, columns), whole)
        if lidar.semantics is not None:
            path, rows = index.path(lidar.semantics), partial(_rows_of, sweep, 4 * len(columns))
            read = partial(_read_classes, path, lidar.semantics_ids, rows)
            yield _File("point classes", path, read, partial(_whole_classes, path, rows))
    for key, relative in frame.labels.items():
        path, label_format = index.path(relative), index.header.label_sets[key]
        reader = read_ray_mask if label_format.reader == "ray_mask" else read_labels
        yield _File(key, path, partial(reader, path, label_format), partial(_whole_arrays, path))


def _read_classes(path: Path, ids: str, rows: Callable[[], int]) -> None:
    read_point_classes(path, ids, LABEL_SETS["occ3d"], rows())


def _whole_image(path: Path) -> None:
    try:
        check_compressed(EncodedImage(path.suffix, path.read_bytes()))
    except ImageError as error:
        raise DataFileError(f"{path}: {error}") from error


def _whole_points(path: Path, columns: int) -> None:
    size = path.stat().st_size
    if size % (4 * columns):
        raise DataFileError(
            f"{path}: {size} bytes are not a whole number of points of {columns} float32"
        )


def _rows_of(path: Path, row_bytes: int) -> int:
    return path.stat().st_size // row_bytes


def _whole_classes(path: Path, rows: Callable[[], int]) -> None:
    """Raw files have one byte per point."""
    _whole_arrays(path)
    size, points = path.stat().st_size, rows()
    if path.suffix not in (".npz", ".npy") and size != points:
        raise DataFileError(f"{path}: {size} classes for the {points} points of its sweep")


def _whole_arrays(path: Path) -> None:
    """A zip file has its table of contents at the end; an .npy file has its size in the header."""
    try:
        if path.suffix == ".npz":
            np.load(path).close()
        elif path.suffix == ".npy":
            np.load(path, mmap_mode="r")
    except Exception as error:  # numpy and zipfile fail in many ways on damaged files
        raise DataFileError(f"{path}: is not a complete {path.suffix} file ({error})") from error


def _without(frame: FrameRecord, kinds: set[str]) -> FrameRecord:
    """The frame without entries whose file is unusable. The lidar's pose is always kept."""
    if not kinds:
        return frame
    lidar = frame.lidar
    if lidar is not None and "lidar" in kinds:
        lidar = replace(lidar, points=None, semantics=None)
    if lidar is not None and "point classes" in kinds:
        lidar = replace(lidar, semantics=None)
    return replace(
        frame,
        cameras={k: v for k, v in frame.cameras.items() if k not in kinds},
        lidar=lidar,
        labels={k: v for k, v in frame.labels.items() if k not in kinds},
    )
