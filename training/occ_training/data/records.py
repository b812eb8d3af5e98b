"""The data set format: an index of frames in JSON lines beside the files it names.

The first line of ``index.jsonl`` is the header, every other line one frame. Paths are relative to
the header's root. Frames of a sequence follow each other in the order of time; sequences are not
mixed. Matrices are written as their first three rows, twelve numbers; stamps are nanoseconds.

Two ego poses matter to every frame: the one at the reference camera's stamp, where the grid of the
networks lies, and the one at the lidar's stamp, where published labels lie. Both are in the record.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraCalibration
from occ_perception.geometry import VoxelGrid, require_rigid
from occ_perception.labels import LABEL_SETS

FORMAT = "occ-dataset"
FORMAT_VERSION = 1
INDEX_FILE = "index.jsonl"

Float64 = NDArray[np.float64]


class DatasetError(ValueError):
    """A data set that cannot be used; the message says which file or line, and what to do."""


@dataclass(frozen=True, eq=False)
class CameraRecord:
    """One picture of a frame.

    Attributes:
        image: path of the file, relative to the root; rectified, JPEG or PNG.
        stamp_ns: exposure.
        K: (3, 3) intrinsics at the size of the file.
        width, height: that size, pixels.
        ego_T_cam: (4, 4) mounting.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
    """

    image: str
    stamp_ns: int
    K: Float64
    width: int
    height: int
    ego_T_cam: Float64
    world_T_ego: Float64

    @property
    def world_T_cam(self) -> Float64:
        """(4, 4) pose of the camera at its own exposure."""
        return self.world_T_ego @ self.ego_T_cam


@dataclass(frozen=True, eq=False)
class LidarRecord:
    """The lidar at a frame: its pose, and its points where there are any.

    Attributes:
        points: path of little-endian float32 rows, lidar frame; None where only the pose is known.
        columns: names of the columns, beginning with ``x, y, z``.
        stamp_ns: time of the sweep.
        ego_T_lidar: (4, 4) mounting.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
        semantics: path of one class id per point: raw uint8 (any suffix), ``.npy`` or ``.npz``
            (its only array, or ``lidar_seg``); None where there is none.
        semantics_ids: what the ids mean: ``lidarseg`` (nuScenes general classes) or the name of
            a label set.
    """

    points: str | None
    columns: tuple[str, ...]
    stamp_ns: int
    ego_T_lidar: Float64
    world_T_ego: Float64
    semantics: str | None = None
    semantics_ids: str = "occ3d"

    @property
    def world_T_lidar(self) -> Float64:
        """(4, 4) pose of the lidar at its own stamp."""
        return self.world_T_ego @ self.ego_T_lidar


@dataclass(frozen=True, eq=False)
class FrameRecord:
    """One moment: the pictures around it, the lidar, the labels.

    Attributes:
        token: unique name of the frame in its data set.
        sequence: name of the recording or scene.
        stamp_ns: time that frames of a sequence are ordered by (of the sweep where there is one).
        reference_camera: the camera whose stamp the grid belongs to.
        cameras: camera name -> picture; may lack cameras of the header.
        lidar: None where there is none.
        labels: key of the header's ``label_sets`` -> path of the file.
        source: where it came from, as JSON: stamps, ids, names of the original.
    """

    token: str
    sequence: str
    stamp_ns: int
    reference_camera: str
    cameras: Mapping[str, CameraRecord]
    lidar: LidarRecord | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def world_T_reference_ego(self) -> Float64:
        """(4, 4) ego pose at the reference camera's stamp."""
        return self.cameras[self.reference_camera].world_T_ego

    @property
    def world_T_lidar_ego(self) -> Float64:
        """(4, 4) ego pose at the lidar's stamp; at the reference camera's without a lidar."""
        return self.world_T_reference_ego if self.lidar is None else self.lidar.world_T_ego


@dataclass(frozen=True)
class LabelLayout:
    """What the label files under one key are.

    Attributes:
        reader: name of the file format, see :mod:`occ_training.data.label_files`.
        classes: label set whose ids they hold after reading.
        grid: their cells.
        frame: ``ego`` or ``lidar``, the frame the grid lies in.
        time: whose stamp that frame is taken at: ``lidar`` or ``reference_camera``.
    """

    reader: str
    classes: str
    grid: VoxelGrid
    frame: Literal["ego", "lidar"] = "ego"
    time: Literal["lidar", "reference_camera"] = "lidar"


@dataclass(frozen=True)
class DatasetHeader:
    """What all frames of a data set share.

    Attributes:
        name: of the data set, for people.
        cameras: names of the cameras a complete frame has.
        label_sets: key -> what its files are.
        ego_frame: name of the ego frame where the data came from.
        root: folder that paths are relative to, itself relative to the index (or absolute).
        source: how it was made, as JSON.
    """

    name: str
    cameras: tuple[str, ...]
    label_sets: Mapping[str, LabelLayout] = field(default_factory=dict)
    ego_frame: str = "base_link"
    root: str = "."
    source: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetIndex:
    """A data set: its header and its frames, paths resolved against ``root``.

    Attributes:
        root: folder of the files.
        header: what the frames share.
        frames: sequence after sequence, each in the order of time.
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
                raise DatasetError(f"token {frame.token!r} names two frames; tokens are unique")
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
                    f"frame {frame.token}: sequence {frame.sequence} goes on after another one; "
                    "its frames must follow each other"
                )
            previous = frame

    def __len__(self) -> int:
        return len(self.frames)

    def path(self, relative: str) -> Path:
        """Where a file of the data set is."""
        return self.root / relative

    def sequences(self) -> dict[str, range]:
        """Sequence -> positions of its frames."""
        ranges: dict[str, range] = {}
        for position, frame in enumerate(self.frames):
            begun = ranges.get(frame.sequence, range(position, position))
            ranges[frame.sequence] = range(begun.start, position + 1)
        return ranges

    def select(self, sequences: Iterable[str]) -> DatasetIndex:
        """The same data set with only these sequences, in its own order.

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
        """Write the index; the file appears under its name only when it is whole.

        Args:
            path: the file, or the folder to write ``index.jsonl`` into. The header's root is
                written so that it leads from there to :attr:`root`.

        Returns:
            The file.
        """
        file = _index_file(Path(path))
        file.parent.mkdir(parents=True, exist_ok=True)
        root = os.path.relpath(self.root.resolve(), file.parent.resolve())
        unfinished = file.with_name(f".{file.name}.{os.getpid()}.unfinished")
        try:
            with unfinished.open("w", encoding="utf-8") as lines:
                lines.write(_line(_header_to_json(self.header, root)))
                lines.writelines(_line(_frame_to_json(frame)) for frame in self.frames)
                lines.flush()
                os.fsync(lines.fileno())
            unfinished.replace(file)
        finally:
            unfinished.unlink(missing_ok=True)
        return file

    @classmethod
    def load(cls, path: str | Path) -> DatasetIndex:
        """Read an index.

        Args:
            path: the file, or the folder that has an ``index.jsonl``.

        Raises:
            DatasetError: there is none, it is of another format or version, or a line is damaged;
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
            raise DatasetError(f"{file} is no text: {error}") from error

    @classmethod
    def _read(cls, file: Path, lines: Iterator[str]) -> DatasetIndex:
        shared: dict[bytes, Float64] = {}
        number = 1
        try:
            header = _header_from_json(json.loads(next(lines, "null")))
            frames = []
            for line in lines:
                number += 1
                frames.append(_frame_from_json(json.loads(line), shared))
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
    for key, layout in header.label_sets.items():
        if layout.classes not in LABEL_SETS:
            raise DatasetError(
                f"header: label set {key} has classes {layout.classes!r}, "
                f"expected one of {', '.join(LABEL_SETS)}"
            )
        if layout.frame not in ("ego", "lidar") or layout.time not in ("lidar", "reference_camera"):
            raise DatasetError(
                f"header: label set {key} lies in frame {layout.frame!r} at the time of "
                f"{layout.time!r}, expected ego or lidar at the time of lidar or reference_camera"
            )


def _check_frame(frame: FrameRecord, header: DatasetHeader, checked: set[int]) -> None:
    """Refuse what contradicts itself; ``checked`` holds ids of mounts seen before."""
    where = f"frame {frame.token} of {frame.sequence}"
    if not frame.token or not frame.sequence:
        raise DatasetError(f"{where}: a frame needs a token and a sequence")
    if frame.reference_camera not in frame.cameras:
        raise DatasetError(
            f"{where}: no picture of its reference camera {frame.reference_camera}; "
            f"it has {', '.join(frame.cameras) or 'none'}"
        )
    strangers = [f"camera {name}" for name in frame.cameras if name not in header.cameras]
    strangers += [f"label set {key}" for key in frame.labels if key not in header.label_sets]
    if strangers:
        raise DatasetError(f"{where}: {', '.join(strangers)} is not in the header")
    try:
        for name, camera in frame.cameras.items():
            if id(camera.K) not in checked or id(camera.ego_T_cam) not in checked:
                CameraCalibration(name, camera.width, camera.height, camera.K, camera.ego_T_cam)
                checked |= {id(camera.K), id(camera.ego_T_cam)}
            require_rigid(camera.world_T_ego, f"camera {name}: world_T_ego")
        if frame.lidar is not None:
            require_rigid(frame.lidar.ego_T_lidar, "ego_T_lidar")
            require_rigid(frame.lidar.world_T_ego, "lidar: world_T_ego")
            if frame.lidar.columns[:3] != ("x", "y", "z"):
                raise ValueError(f"lidar columns {frame.lidar.columns} do not begin with x, y, z")
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error


def _rows(matrix: Float64) -> list[float]:
    return [float(value) for value in np.asarray(matrix)[:3].ravel()]


def _matrix(values: Sequence[float], columns: int, shared: dict[bytes, Float64]) -> Float64:
    """Rows from JSON, square; equal matrices are one object (mounts repeat in every frame)."""
    rows = np.array(values, dtype=np.float64).reshape(3, columns)
    matrix = rows if columns == 3 else np.vstack([rows, (0.0, 0.0, 0.0, 1.0)])
    return shared.setdefault(matrix.tobytes(), matrix)


def _header_to_json(header: DatasetHeader, root: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "name": header.name,
        "cameras": list(header.cameras),
        "ego_frame": header.ego_frame,
        "root": root,
        "label_sets": {
            key: {
                "reader": layout.reader,
                "classes": layout.classes,
                "frame": layout.frame,
                "time": layout.time,
                "lower": list(layout.grid.lower),
                "voxel_size": list(layout.grid.voxel_size),
                "dims": list(layout.grid.dims),
            }
            for key, layout in header.label_sets.items()
        },
        "source": dict(header.source),
    }


def _header_from_json(value: Any) -> DatasetHeader:
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise DatasetError(f"is no data set index: its first line is no {FORMAT} header")
    if value["version"] != FORMAT_VERSION:
        raise DatasetError(
            f"is format version {value['version']}, this program reads {FORMAT_VERSION}; "
            "make the data set again"
        )
    layouts = {
        key: LabelLayout(
            reader=layout["reader"],
            classes=layout["classes"],
            frame=layout["frame"],
            time=layout["time"],
            grid=VoxelGrid(
                tuple(layout["lower"]), tuple(layout["voxel_size"]), tuple(layout["dims"])
            ),
        )
        for key, layout in value["label_sets"].items()
    }
    return DatasetHeader(
        name=value["name"],
        cameras=tuple(value["cameras"]),
        label_sets=layouts,
        ego_frame=value["ego_frame"],
        root=value["root"],
        source=value["source"],
    )


def _frame_to_json(frame: FrameRecord) -> dict[str, Any]:
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


def _frame_from_json(value: dict[str, Any], shared: dict[bytes, Float64]) -> FrameRecord:
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
