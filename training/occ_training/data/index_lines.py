"""The lines of an index file as JSON: the header, and frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from occ_perception.geometry import Float64, VoxelGrid
from occ_training.data.records import (
    CameraRecord,
    DatasetError,
    DatasetHeader,
    FrameRecord,
    LabelFormat,
    LidarRecord,
)

FORMAT = "occ-dataset"
FORMAT_VERSION = 1


def _rows(matrix: Float64) -> list[float]:
    return [float(value) for value in np.asarray(matrix)[:3].ravel()]


def _matrix(values: Sequence[float], columns: int, shared: dict[bytes, Float64]) -> Float64:
    """A square matrix from JSON rows; equal matrices share an object (mounts repeat)."""
    matrix = np.eye(columns)
    matrix[:3] = np.array(values, dtype=np.float64).reshape(3, columns)
    return shared.setdefault(matrix.tobytes(), matrix)


def _text(record: dict[str, Any], name: str, or_null: bool = False) -> Any:
    """A text, or null where that is possible; anything else raises ValueError."""
    value = record[name]
    if not isinstance(value, str) and not (or_null and value is None):
        raise ValueError(f"{name} is {value!r}, expected a text")
    return value


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


def _size(camera: dict[str, Any]) -> tuple[int, int]:
    """Width and height of a camera's images."""
    size = camera["size"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"size {size!r} is not [width, height]")
    return int(size[0]), int(size[1])


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
            image=_text(camera, "image"),
            stamp_ns=int(camera["stamp_ns"]),
            K=_matrix(camera["K"], 3, shared),
            width=_size(camera)[0],
            height=_size(camera)[1],
            ego_T_cam=_matrix(camera["ego_T_cam"], 4, shared),
            world_T_ego=_matrix(camera["world_T_ego"], 4, shared),
        )
        for name, camera in value["cameras"].items()
    }
    lidar = value["lidar"] and LidarRecord(
        points=_text(value["lidar"], "points", or_null=True),
        columns=tuple(value["lidar"]["columns"]),
        stamp_ns=int(value["lidar"]["stamp_ns"]),
        ego_T_lidar=_matrix(value["lidar"]["ego_T_lidar"], 4, shared),
        world_T_ego=_matrix(value["lidar"]["world_T_ego"], 4, shared),
        semantics=_text(value["lidar"], "semantics", or_null=True),
        semantics_ids=_text(value["lidar"], "semantics_ids"),
    )
    return FrameRecord(
        token=_text(value, "token"),
        sequence=_text(value, "sequence"),
        stamp_ns=int(value["stamp_ns"]),
        reference_camera=_text(value, "reference_camera"),
        cameras=cameras,
        lidar=lidar or None,
        labels={key: _text(value["labels"], key) for key in value["labels"]},
        source=value["source"],
    )
