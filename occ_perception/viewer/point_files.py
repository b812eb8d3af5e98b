"""Writes voxels and lidar points as PLY files, for Open3D, MeshLab, CloudCompare and others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import write_whole
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import transform_points
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.views import colours_of_ids

# Type names in the header. Some readers require x, y and z as float.
_TYPES = {"f4": "float", "u1": "uchar", "u2": "ushort", "i4": "int"}


def write_ply(path: str | Path, columns: Mapping[str, NDArray[Any]], comment: str = "") -> None:
    """Write points atomically as binary little-endian PLY; parent folders are created.

    Args:
        path: the file.
        columns: property -> (n,) float32, uint8, uint16 or int32.
        comment: a line for the header.

    Raises:
        ValueError: a column has a type that PLY lacks, or the lengths differ.
        OutputError: the file cannot be written.
    """
    kinds = {name: column.dtype.str[1:] for name, column in columns.items()}
    unknown = [f"{name} is {kinds[name]}" for name in kinds if kinds[name] not in _TYPES]
    if unknown:
        raise ValueError(f"{path}: {', '.join(unknown)}; PLY has {', '.join(_TYPES)}")
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"{path}: columns of lengths {sorted(lengths)}, expected one length")
    count = lengths.pop() if lengths else 0
    rows = np.empty(count, dtype=[(name, "<" + kind) for name, kind in kinds.items()])
    for name, column in columns.items():
        rows[name] = column
    header = ["ply", "format binary_little_endian 1.0"]
    header += [f"comment {comment}"] if comment else []
    header += [f"element vertex {count}"]
    header += [f"property {_TYPES[kind]} {name}" for name, kind in kinds.items()]
    write_whole(path, "\n".join([*header, "end_header", ""]).encode("ascii") + rows.tobytes())


def voxel_columns(prediction: OccupancyPrediction) -> dict[str, NDArray[Any]]:
    """Centres of occupied voxels in ego, colours, class ids, and flow if the prediction has it."""
    labels = prediction.labels
    voxels = np.argwhere((labels != prediction.empty_class) & (labels != UNKNOWN_CLASS))
    centres = transform_points(prediction.ego_T_grid, prediction.grid.centers(voxels))
    ids = labels[tuple(voxels.T)]
    columns: dict[str, NDArray[Any]] = _positions(centres)
    colours = colours_of_ids(prediction.class_names)[ids]
    columns |= {name: colours[:, i] for i, name in enumerate(("red", "green", "blue"))}
    columns["label"] = ids
    if prediction.flow is not None:
        flow = prediction.flow[tuple(voxels.T)]
        columns |= {"vx": flow[:, 0], "vy": flow[:, 1]}
    return columns


def lidar_columns(
    points: NDArray[np.floating[Any]], intensity: NDArray[np.floating[Any]] | None = None
) -> dict[str, NDArray[Any]]:
    """Positions (n, 3) and, if known, intensities (n,) of lidar points."""
    columns = _positions(points)
    if intensity is not None:
        columns["intensity"] = intensity.astype(np.float32)
    return columns


def _positions(points: NDArray[np.floating[Any]]) -> dict[str, NDArray[Any]]:
    return {name: points[:, i].astype(np.float32) for i, name in enumerate("xyz")}
