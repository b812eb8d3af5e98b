"""The data set format: an index of frames in JSON lines, and the files it names.

The first line of ``index.jsonl`` is the header, every other line one frame. Paths are relative to
the header's root. The frames of a sequence are consecutive and in time order. Matrices are stored
as their first three rows, numbers without loss of precision, stamps in nanoseconds.

Every frame has two ego poses: the one at the reference camera's stamp, to which the grid of the
networks belongs, and the one at the lidar's stamp, to which the labels of the public sets belong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.atomic import atomic_path
from occ_perception.frames import CameraCalibration
from occ_perception.geometry import Float64, require_rigid
from occ_perception.labels import LABEL_SETS
from occ_training.data.index_lines import (
    frame_from_json,
    frame_to_json,
    header_from_json,
    header_to_json,
)
from occ_training.data.records import DatasetError, DatasetHeader, FrameRecord

INDEX_FILE = "index.jsonl"

# A pose whose error as a rotation is below this needs no further check.
_PLAINLY_RIGID = 1e-3


@dataclass(frozen=True)
class DatasetIndex:
    """A data set: its header and its frames, paths resolved against ``root``.

    Attributes:
        root: folder of the files.
        header: what the frames share.
        frames: sequence after sequence, each in time order.
    """

    root: Path
    header: DatasetHeader
    frames: tuple[FrameRecord, ...]

    def __post_init__(self) -> None:
        _check_header(self.header)
        tokens: set[str] = set()
        finished: set[str] = set()
        checked: set[int] = set()
        previous: FrameRecord | None = None
        for frame in self.frames:
            check_frame(frame, self.header, checked)
            if frame.token in tokens:
                raise DatasetError(f"token {frame.token!r} names two frames; tokens must be unique")
            tokens.add(frame.token)
            if previous is not None and previous.sequence == frame.sequence:
                if frame.stamp_ns <= previous.stamp_ns:
                    raise DatasetError(
                        f"frame {frame.token} of {frame.sequence} has stamp {frame.stamp_ns} ns, "
                        f"not later than {previous.stamp_ns} ns of frame {previous.token} before it"
                    )
            elif previous is not None:
                finished.add(previous.sequence)
            if frame.sequence in finished:
                raise DatasetError(
                    f"frame {frame.token}: sequence {frame.sequence} continues after another one; "
                    "its frames must be consecutive"
                )
            previous = frame

    def __len__(self) -> int:
        return len(self.frames)

    def path(self, relative: str) -> Path:
        """Path of a file of the data set."""
        return self.root / relative

    def sequences(self) -> dict[str, range]:
        """Sequence -> positions of its frames."""
        ranges: dict[str, range] = {}
        for position, frame in enumerate(self.frames):
            begun = ranges.get(frame.sequence, range(position, position))
            ranges[frame.sequence] = range(begun.start, position + 1)
        return ranges

    def select(self, sequences: Iterable[str]) -> DatasetIndex:
        """The same data set with only these sequences, in its original order.

        Raises:
            DatasetError: it has no such sequence.
        """
        wanted = set(sequences)
        unknown = wanted - set(self.sequences())
        if unknown:
            raise DatasetError(
                f"data set {self.header.name} has no sequence {', '.join(sorted(unknown))}; "
                f"it has {_some(list(self.sequences()))}"
            )
        frames = tuple(frame for frame in self.frames if frame.sequence in wanted)
        return DatasetIndex(self.root, self.header, frames)

    def save(self, path: str | Path) -> Path:
        """Write the index; the file appears under its name only when it is complete.

        Args:
            path: the file, or the folder for ``index.jsonl``. The header's root is written
                relative to it.

        Returns:
            The file.
        """
        file = _index_file(Path(path))
        root = os.path.relpath(self.root.resolve(), file.parent.resolve())
        with atomic_path(file) as unfinished, unfinished.open("w", encoding="utf-8") as lines:
            lines.write(_line(header_to_json(self.header, root)))
            lines.writelines(_line(frame_to_json(frame)) for frame in self.frames)
        return file

    @classmethod
    def load(cls, path: str | Path) -> DatasetIndex:
        """Read an index.

        Args:
            path: the file, or the folder of an ``index.jsonl``.

        Raises:
            DatasetError: there is no index, it has another format or version, or a line is damaged;
                the message names file and line.
        """
        file = _index_file(Path(path))
        try:
            with file.open(encoding="utf-8") as lines:
                return cls._read(file, lines)
        except FileNotFoundError:
            raise DatasetError(
                f"no data set at {file}; make one with `occ-train prepare` or `occ-train convert`"
            ) from None
        except UnicodeDecodeError as error:
            raise DatasetError(f"{file} is not text: {error}") from error

    @classmethod
    def _read(cls, file: Path, lines: Iterator[str]) -> DatasetIndex:
        shared: dict[bytes, Float64] = {}
        number = 1
        try:
            header = header_from_json(json.loads(next(lines, "null")))
            frames = []
            for line in lines:
                number += 1
                frames.append(frame_from_json(json.loads(line), shared))
            return cls(file.parent / header.root, header, tuple(frames))
        except DatasetError as error:
            raise DatasetError(f"{file}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise DatasetError(f"{file}, line {number}: {what}") from error


def _index_file(path: Path) -> Path:
    return path if path.suffix == ".jsonl" else path / INDEX_FILE


def _line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False) + "\n"


def _some(names: Sequence[str], most: int = 10) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _check_header(header: DatasetHeader) -> None:
    if not header.cameras or len(set(header.cameras)) != len(header.cameras):
        raise DatasetError(f"header: cameras must be unique names, got {header.cameras}")
    for key, label_format in header.label_sets.items():
        if label_format.classes not in LABEL_SETS:
            raise DatasetError(
                f"header: label set {key} has classes {label_format.classes!r}, "
                f"expected one of {', '.join(LABEL_SETS)}"
            )
        if label_format.frame not in ("ego", "lidar") or label_format.time not in (
            "lidar",
            "reference_camera",
        ):
            raise DatasetError(
                f"header: label set {key} lies in frame {label_format.frame!r} at the time of "
                f"{label_format.time!r}, expected ego or lidar at the time of lidar or "
                "reference_camera"
            )


def check_frame(frame: FrameRecord, header: DatasetHeader, checked: set[int]) -> None:
    """Refuse an inconsistent frame.

    Args:
        frame: the frame.
        header: of its data set.
        checked: ids of intrinsics and mounts that were checked before; added to.

    Raises:
        DatasetError: what contradicts what.
    """
    where = f"frame {frame.token} of {frame.sequence}"
    if not frame.token or not frame.sequence:
        raise DatasetError(f"{where}: a frame needs a token and a sequence")
    if frame.reference_camera not in frame.cameras:
        raise DatasetError(
            f"{where}: no image of its reference camera {frame.reference_camera}; "
            f"it has {', '.join(frame.cameras) or 'none'}"
        )
    unknown = [f"camera {name}" for name in frame.cameras if name not in header.cameras]
    unknown += [f"label set {key}" for key in frame.labels if key not in header.label_sets]
    if unknown:
        raise DatasetError(f"{where}: {', '.join(unknown)} is not in the header")
    try:
        for name, camera in frame.cameras.items():
            if id(camera.K) not in checked or id(camera.ego_T_cam) not in checked:
                CameraCalibration(name, camera.width, camera.height, camera.K, camera.ego_T_cam)
                checked |= {id(camera.K), id(camera.ego_T_cam)}
        poses = _poses(frame)
        if not _plainly_rigid(list(poses.values())):
            for name, pose in poses.items():
                require_rigid(pose, name)
        if frame.lidar is not None and frame.lidar.columns[:3] != ("x", "y", "z"):
            raise ValueError(f"lidar columns {frame.lidar.columns} do not begin with x, y, z")
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def _poses(frame: FrameRecord) -> dict[str, Float64]:
    poses = {f"camera {k}: world_T_ego": camera.world_T_ego for k, camera in frame.cameras.items()}
    if frame.lidar is not None:
        poses["ego_T_lidar"] = frame.lidar.ego_T_lidar
        poses["lidar: world_T_ego"] = frame.lidar.world_T_ego
    return poses


def _plainly_rigid(poses: list[Float64]) -> bool:
    """A quick check of all poses of a frame together; True is certain, False is not."""
    if any(np.shape(pose) != (4, 4) for pose in poses):
        return False
    stack = np.array(poses)
    R = stack[:, :3, :3]
    error = np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max()
    # A rotation's third row is the cross product of the others; NaN fails every comparison.
    hand = np.abs(np.cross(R[:, 0], R[:, 1]) - R[:, 2]).max()
    last_row = bool((stack[:, 3] == (0.0, 0.0, 0.0, 1.0)).all())
    return bool(error < _PLAINLY_RIGID and hand < _PLAINLY_RIGID and np.isfinite(stack).all()) and (
        last_row
    )
