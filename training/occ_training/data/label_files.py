"""Readers for the files of the public annotation sets, as label volumes with our class ids.

docs/conventions.md describes how each format encodes free space and orders its voxels. Sources:
Occ3D (arXiv 2304.14365), SurroundOcc (arXiv 2303.09551), OpenOccupancy (arXiv 2303.03991), OpenOcc
v2.1 (occupancy and flow challenge of CVPR 2024), nuScenes lidarseg.

Legend: X, Y, Z voxels, P points.
"""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.occ3d import OCC3D_GRID
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS, LabelSet
from occ_training.data.records import DatasetError, LabelFormat

SURROUNDOCC_GRID = VoxelGrid.from_ranges((-50, 50, 0.5), (-50, 50, 0.5), (-5, 3, 0.5))
OPENOCCUPANCY_GRID = VoxelGrid.from_ranges((-51.2, 51.2, 0.2), (-51.2, 51.2, 0.2), (-5, 3, 0.2))

LABEL_FORMATS: dict[str, LabelFormat] = {
    "occ3d": LabelFormat("occ3d", "occ3d", OCC3D_GRID),
    "openocc": LabelFormat("openocc", "openocc", OCC3D_GRID),
    "openocc_ray_mask": LabelFormat("ray_mask", "openocc", OCC3D_GRID),
    "surroundocc": LabelFormat("surroundocc", "surroundocc", SURROUNDOCC_GRID, "lidar"),
    "openoccupancy": LabelFormat("openoccupancy", "openoccupancy", OPENOCCUPANCY_GRID, "lidar"),
    "waymo": LabelFormat("waymo", "waymo", OCC3D_GRID),
}
"""The public annotation sets by their key in data sets."""

WAYMO_FREE_IN_FILE = 23
LIDARSEG_CLASSES = 32

# What numpy, zipfile and the parts of Python below them raise for damaged files. Memory runs out
# where a damaged header states a huge shape.
_DAMAGE = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError),
    *(OverflowError, RuntimeError, SyntaxError, struct.error, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


class DataFileError(DatasetError):
    """A file of a data set that is missing or damaged; the message starts with its path."""


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """The labels of one frame.

    Attributes:
        semantics_XYZ: uint8 class ids of the label set, 255 = unlabelled.
        camera_mask_XYZ, lidar_mask_XYZ: bool, voxels that cameras or the lidar see; None if the
            set has no such mask.
        flow_XYZ2: float32 (vx, vy) in m/s along the grid's axes, None if the set has none.
    """

    semantics_XYZ: NDArray[np.uint8]
    camera_mask_XYZ: NDArray[np.bool_] | None = None
    lidar_mask_XYZ: NDArray[np.bool_] | None = None
    flow_XYZ2: NDArray[np.float32] | None = None


def read_labels(path: Path, label_format: LabelFormat) -> FrameLabels:
    """Read a label file.

    Args:
        path: the file.
        label_format: its format, voxels and class ids.

    Raises:
        DataFileError: missing or damaged, of another shape, or with invalid class ids.
        DatasetError: no reader of that name.
    """
    reader = READERS.get(label_format.reader)
    if reader is None:
        raise DatasetError(
            f"no label reader {label_format.reader!r}; there are {', '.join(READERS)}"
        )
    try:
        return reader(path, label_format)
    except _DAMAGE as error:
        raise DataFileError(f"{path}: {_reason(error)}") from error


def read_ray_mask(path: Path, label_format: LabelFormat) -> NDArray[np.bool_]:
    """(X, Y, Z) bool, voxels that rays of the OpenOcc benchmark cross; errors as read_labels."""
    try:
        with np.load(path) as arrays:
            return _mask(path, arrays["ray_mask2"], label_format)
    except _DAMAGE as error:
        raise DataFileError(f"{path}: {_reason(error)}") from error


def read_points(path: Path, columns: tuple[str, ...]) -> NDArray[np.float32]:
    """Lidar points (P, columns) from little-endian float32 rows.

    Raises:
        DataFileError: missing, empty, or not a whole number of rows.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataFileError(f"{path}: {_reason(error)}") from error
    if not data or len(data) % (4 * len(columns)):
        raise DataFileError(
            f"{path}: {len(data)} bytes are not a whole number of points of {len(columns)} float32 "
            f"({', '.join(columns)})"
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, len(columns))


def read_point_classes(path: Path, ids: str, label_set: LabelSet, points: int) -> NDArray[np.uint8]:
    """Class ids (P,) of points, converted to a label set; 255 for classes that it does not have.

    Args:
        path: raw uint8, ``.npy``, or ``.npz`` with one array.
        ids: meaning of the ids in the file: ``lidarseg`` or the name of a label set.
        label_set: wanted classes, matched by name.
        points: P, number of points of the sweep.

    Raises:
        DataFileError: missing or damaged, of another number of points, or with invalid ids.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path) as arrays:
                classes = arrays["lidar_seg" if "lidar_seg" in arrays else arrays.files[0]]
        elif path.suffix == ".npy":
            classes = np.load(path)
        else:
            classes = np.fromfile(path, dtype=np.uint8)
        flat: NDArray[Any] = classes.ravel()
    except _DAMAGE as error:
        raise DataFileError(f"{path}: {_reason(error)}") from error
    if flat.size != points:
        raise DataFileError(f"{path}: {flat.size} classes for the {points} points of its sweep")
    table = point_class_table(ids, label_set)
    if flat.dtype.kind not in "iu":
        raise DataFileError(f"{path}: classes are {flat.dtype}, expected whole numbers")
    known = flat.size == 0 or (int(flat.min()) >= 0 and int(flat.max()) < len(table))
    if not known or (table[flat] == _NO_SUCH_ID).any():
        raise DataFileError(f"{path}: class ids up to {flat.max()} are not those of {ids}")
    mapped: NDArray[np.uint8] = table[flat].astype(np.uint8)
    return mapped


# -- point classes -------------------------------------------------------------------------------

# Occ3D class of each general class of nuScenes lidarseg, as in the reference training data.
# Class 0 is "noise" there: animals, debris, objects of no other class, the ego vehicle.
_LIDARSEG_MEMBERS = {
    0: (0, 1, 5, 7, 8, 10, 11, 13, 19, 20, 29, 31),
    1: (9,),
    2: (14,),
    3: (15, 16),
    4: (17,),
    5: (18,),
    6: (21,),
    7: (2, 3, 4, 6),
    8: (12,),
    9: (22,),
    10: (23,),
    11: (24,),
    12: (25,),
    13: (26,),
    14: (27,),
    15: (28,),
    16: (30,),
}
_NO_SUCH_ID = -1


def lidarseg_to_occ3d() -> NDArray[np.uint8]:
    """(32,) Occ3D class id of each nuScenes lidarseg general class."""
    table = np.full(LIDARSEG_CLASSES, UNKNOWN_CLASS, dtype=np.uint8)
    for target, members in _LIDARSEG_MEMBERS.items():
        table[list(members)] = target
    return table


def point_class_table(ids: str, label_set: LabelSet) -> NDArray[np.int16]:
    """(256,) class of the label set for each id of a file, 255 for none, -1 for unused ids."""
    table = np.full(256, _NO_SUCH_ID, dtype=np.int16)
    table[UNKNOWN_CLASS] = UNKNOWN_CLASS
    occ3d = LABEL_SETS["occ3d"].class_names
    if ids == "lidarseg":
        names = [occ3d[k] for k in lidarseg_to_occ3d()]
    elif ids in LABEL_SETS:
        names = list(LABEL_SETS[ids].class_names)
    else:
        raise DatasetError(f"no point classes {ids!r}; there are lidarseg, {', '.join(LABEL_SETS)}")
    targets = {name: k for k, name in enumerate(label_set.class_names)}
    targets.pop(label_set.class_names[label_set.empty_class])  # free space has no points
    table[: len(names)] = [targets.get(name, UNKNOWN_CLASS) for name in names]
    return table


# -- volumes -------------------------------------------------------------------------------------


def _occ3d(path: Path, label_format: LabelFormat) -> FrameLabels:
    with np.load(path) as arrays:
        masks = {
            name: _mask(path, arrays[name], label_format) if name in arrays else None
            for name in ("mask_camera", "mask_lidar")
        }
        return FrameLabels(
            _semantics(path, arrays["semantics"], label_format),
            camera_mask_XYZ=masks["mask_camera"],
            lidar_mask_XYZ=masks["mask_lidar"],
            flow_XYZ2=_flow(path, arrays["flow"], label_format) if "flow" in arrays else None,
        )


def _openocc(path: Path, label_format: LabelFormat) -> FrameLabels:
    with np.load(path) as arrays:
        semantics = _semantics(path, arrays["semantics"], label_format)
        return FrameLabels(semantics, flow_XYZ2=_flow(path, arrays["flow"], label_format))


def _waymo(path: Path, label_format: LabelFormat) -> FrameLabels:
    with np.load(path) as arrays:
        semantics = np.array(arrays["voxel_label"])
        seen = _mask(path, arrays["infov"], label_format)
        seen = seen & _mask(path, arrays["final_voxel_state"], label_format)
    empty = LABEL_SETS[label_format.classes].empty_class
    if (semantics == empty).any():
        raise DataFileError(f"{path}: id {empty} does not occur in Waymo files, free space is 23")
    semantics[semantics == WAYMO_FREE_IN_FILE] = empty
    return FrameLabels(_semantics(path, semantics, label_format), camera_mask_XYZ=seen)


def _surroundocc(path: Path, label_format: LabelFormat) -> FrameLabels:
    return _scattered(path, label_format, columns=(0, 1, 2))


def _openoccupancy(path: Path, label_format: LabelFormat) -> FrameLabels:
    return _scattered(path, label_format, columns=(2, 1, 0))


def _scattered(path: Path, label_format: LabelFormat, columns: tuple[int, int, int]) -> FrameLabels:
    """Rows of voxel index and class; voxels that are not listed, or listed as 0, are free."""
    rows = np.load(path)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise DataFileError(f"{path}: rows of shape {rows.shape}, expected (n, 4)")
    voxels = rows[:, columns].astype(np.int64)
    dims = label_format.grid.dims
    outside = ((voxels < 0) | (voxels >= dims)).any(axis=1)
    if outside.any():
        raise DataFileError(
            f"{path}: {int(outside.sum())} of {len(voxels)} voxels lie outside of {dims}, "
            f"e.g. {voxels[outside][0].tolist()}; is it a {label_format.reader} file?"
        )
    volume = np.zeros(dims, dtype=np.int64)
    volume[tuple(voxels.T)] = rows[:, 3]
    volume[volume == 0] = LABEL_SETS[label_format.classes].empty_class
    return FrameLabels(_semantics(path, volume, label_format))


READERS: dict[str, Callable[[Path, LabelFormat], FrameLabels]] = {
    "occ3d": _occ3d,
    "openocc": _openocc,
    "surroundocc": _surroundocc,
    "openoccupancy": _openoccupancy,
    "waymo": _waymo,
}
"""Readers by their name in the header of a data set. ``occ3d`` also reads files with flow."""


def _semantics(path: Path, volume: NDArray[Any], label_format: LabelFormat) -> NDArray[np.uint8]:
    _check_shape(path, "labels", volume.shape, label_format.grid.dims)
    label_set = LABEL_SETS[label_format.classes]
    wrong = ((volume < 0) | (volume >= label_set.num_classes)) & (volume != UNKNOWN_CLASS)
    if wrong.any():
        raise DataFileError(
            f"{path}: ids {np.unique(volume[wrong])[:8].tolist()} are not classes of "
            f"{label_set.name}, which has 0 to {label_set.num_classes - 1} and 255"
        )
    return np.ascontiguousarray(volume, dtype=np.uint8)


def _mask(path: Path, volume: NDArray[Any], label_format: LabelFormat) -> NDArray[np.bool_]:
    _check_shape(path, "mask", volume.shape, label_format.grid.dims)
    return np.ascontiguousarray(volume != 0)


def _flow(path: Path, volume: NDArray[Any], label_format: LabelFormat) -> NDArray[np.float32]:
    _check_shape(path, "flow", volume.shape, (*label_format.grid.dims, 2))
    return np.ascontiguousarray(volume, dtype=np.float32)


def _check_shape(path: Path, what: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise DataFileError(f"{path}: {what} of shape {shape}, expected {expected}")


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, KeyError):
        return f"is not a file of that format: {error.args[0]}"
    return str(getattr(error, "strerror", None) or error) or type(error).__name__
