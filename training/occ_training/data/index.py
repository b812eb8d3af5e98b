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
from occ_perception.geometry import Float64, VoxelGrid, require_rigid
from occ_perception.labels import LABEL_SETS
from occ_training.data.records import (
    CameraRecord,
    DatasetError,
    DatasetHeader,
    FrameRecord,
    LabelFormat,
    LidarRecord,
)

INDEX_FILE = "index.jsonl"
FORMAT = "occ-dataset"
FORMAT_VERSION = 1

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
            _check_frame(frame, self.header, checked)
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
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


def _check_frame(frame: FrameRecord, header: DatasetHeader, checked: set[int]) -> None:
    """Refuse an inconsistent frame; ``checked`` has the ids of mounts that were checked before."""
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


# -- JSON ----------------------------------------------------------------------------------------


def _rows(matrix: Float64) -> list[float]:
    return [float(value) for value in np.asarray(matrix)[:3].ravel()]


def _matrix(values: Sequence[float], columns: int, shared: dict[bytes, Float64]) -> Float64:
    """A square matrix from JSON rows; equal matrices share an object (mounts repeat)."""
    matrix = np.eye(columns)
    matrix[:3] = np.array(values, dtype=np.float64).reshape(3, columns)
    return shared.setdefault(matrix.tobytes(), matrix)


def header_to_json(header: DatasetHeader, root: str) -> dict[str, Any]:
    """The first line; ``root`` is the path from the index to the files."""
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": header.name,
        "cameras": list(header.cameras),
        "ego_frame": header.ego_frame,
        "root": root,
        "label_sets": {
            key: {
                "reader": label_format.reader,
                "classes": label_format.classes,
                "frame": label_format.frame,
                "time": label_format.time,
                "lower": list(label_format.grid.lower),
                "voxel_size": list(label_format.grid.voxel_size),
                "dims": list(label_format.grid.dims),
            }
            for key, label_format in header.label_sets.items()
        },
        "source": dict(header.source),
    }


def header_from_json(value: Any) -> DatasetHeader:
    """Inverse of :func:`header_to_json`.

    Raises:
        DatasetError: another format or version.
        KeyError, ValueError, TypeError: a field is missing or invalid.
    """
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DatasetError(f"is not a data set index: its first line is no {FORMAT} header")
    if value["version"] != FORMAT_VERSION:
        raise DatasetError(
            f"has format version {value['version']}, this program reads {FORMAT_VERSION}; "
            "make the data set again"
        )
    label_formats = {
        key: LabelFormat(
            reader=label_format["reader"],
            classes=label_format["classes"],
            frame=label_format["frame"],
            time=label_format["time"],
            grid=VoxelGrid(
                tuple(label_format["lower"]),
                tuple(label_format["voxel_size"]),
                tuple(label_format["dims"]),
            ),
        )
        for key, label_format in value["label_sets"].items()
    }
    return DatasetHeader(
        name=value["name"],
        cameras=tuple(value["cameras"]),
        label_sets=label_formats,
        ego_frame=value["ego_frame"],
        root=value["root"],
        source=value["source"],
    )


def frame_to_json(frame: FrameRecord) -> dict[str, Any]:
    """A line after the first."""
    lidar = frame.lidar
    return {
        "token": frame.token,
        "sequence": frame.sequence,
        "stamp_ns": frame.stamp_ns,
        "reference_camera": frame.reference_camera,
        "cameras": {
            name: {
                "image": camera.image,
                "stamp_ns": camera.stamp_ns,
                "size": [camera.width, camera.height],
                "K": _rows(camera.K),
                "ego_T_cam": _rows(camera.ego_T_cam),
                "world_T_ego": _rows(camera.world_T_ego),
            }
            for name, camera in frame.cameras.items()
        },
        "lidar": lidar
        and {
            "points": lidar.points,
            "columns": list(lidar.columns),
            "stamp_ns": lidar.stamp_ns,
            "ego_T_lidar": _rows(lidar.ego_T_lidar),
            "world_T_ego": _rows(lidar.world_T_ego),
            "semantics": lidar.semantics,
            "semantics_ids": lidar.semantics_ids,
        },
        "labels": dict(frame.labels),
        "source": dict(frame.source),
    }


def frame_from_json(value: dict[str, Any], shared: dict[bytes, Float64]) -> FrameRecord:
    """Inverse of :func:`frame_to_json`.

    Args:
        value: the parsed line.
        shared: matrices read so far; equal ones become one object.

    Raises:
        KeyError, ValueError, TypeError: a field is missing or invalid.
    """
    cameras = {
        name: CameraRecord(
            image=camera["image"],
            stamp_ns=int(camera["stamp_ns"]),
            K=_matrix(camera["K"], 3, shared),
            width=int(camera["size"][0]),
            height=int(camera["size"][1]),
            ego_T_cam=_matrix(camera["ego_T_cam"], 4, shared),
            world_T_ego=_matrix(camera["world_T_ego"], 4, shared),
        )
        for name, camera in value["cameras"].items()
    }
    lidar = value["lidar"] and LidarRecord(
        points=value["lidar"]["points"],
        columns=tuple(value["lidar"]["columns"]),
        stamp_ns=int(value["lidar"]["stamp_ns"]),
        ego_T_lidar=_matrix(value["lidar"]["ego_T_lidar"], 4, shared),
        world_T_ego=_matrix(value["lidar"]["world_T_ego"], 4, shared),
        semantics=value["lidar"]["semantics"],
        semantics_ids=value["lidar"]["semantics_ids"],
    )
    return FrameRecord(
        token=value["token"],
        sequence=value["sequence"],
        stamp_ns=int(value["stamp_ns"]),
        reference_camera=value["reference_camera"],
        cameras=cameras,
        lidar=lidar or None,
        labels=value["labels"],
        source=value["source"],
    )
