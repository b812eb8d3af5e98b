"""Ego poses in text files: TUM, KITTI, and CSV with a header.

A pose is ``world_T_ego``: the ego frame (x forward, y left, z up, origin on the ground under the
rear axle) in a fixed frame with z up.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from occ_perception.bags.recording import BagError
from occ_perception.geometry import Float64, matrix_from_pose, require_rigid

_TUM, _KITTI = 8, 12
_POSE_COLUMNS = ("x", "y", "z", "qx", "qy", "qz", "qw")
_STAMP_COLUMNS = ("stamp_ns", "stamp_s")
_TIMES_FILE = "times.txt"
_UNITS_NS = {19: 1, 16: 10**3, 13: 10**6, 10: 10**9}
"""Digits of an integer time since 1970 -> nanoseconds of its unit: ns, us, ms, s."""


@dataclass(frozen=True, eq=False)
class PoseFile:
    """The poses of a file, in its order.

    Attributes:
        path: the file.
        world_T_ego: (4, 4) each.
        stamps_ns: of each; empty if the file states none.
        images: relative path of an image -> number of the pose at its exposure; empty unless the
            file names images.
    """

    path: Path
    world_T_ego: tuple[Float64, ...]
    stamps_ns: tuple[int, ...] = ()
    images: dict[str, int] = field(default_factory=dict)


def read_poses(path: str | Path, rate_hz: float | None = None) -> PoseFile:
    """Read ego poses.

    The form is recognised from the first row:

    - TUM: ``time x y z qx qy qz qw``, time in seconds;
    - KITTI: the upper 3x4 of the matrix, row by row, 12 numbers. Times in seconds are read from
      ``times.txt`` in the same folder, or follow from ``rate_hz``;
    - CSV with a header: ``x, y, z, qx, qy, qz, qw``, one of ``stamp_ns`` and ``stamp_s``, and
      optionally ``image``, the path of the image that was taken at this pose, relative to the
      folder of images. Other columns are ignored.

    Lines that begin with ``#`` are comments.

    Args:
        path: the file.
        rate_hz: poses per second where the file states no times.

    Raises:
        BagError: the file does not exist or has another form; the message names the line.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BagError(f"poses {path} cannot be read: {error}") from error
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise BagError(f"poses {path}: the file has no pose")
    if not _is_number(re.split(r"[,\s]+", lines[0][1].strip())[0]):
        return _read_csv(path, lines)
    rows = [(number, _numbers(path, number, line)) for number, line in lines]
    columns = len(rows[0][1])
    if columns not in (_TUM, _KITTI):
        raise BagError(
            f"poses {path}, line {rows[0][0]}: {columns} numbers, expected {_TUM} (TUM: time x y z "
            f"qx qy qz qw) or {_KITTI} (KITTI: 3x4 matrix), or a header (CSV)"
        )
    for number, row in rows:
        if len(row) != columns:
            raise BagError(f"poses {path}, line {number}: {len(row)} numbers, expected {columns}")
    if columns == _TUM:
        stamps = [_nanoseconds(line.split()[0]) for _, line in lines]
        poses = [_pose(path, number, row[1:]) for number, row in rows]
    else:
        stamps = _kitti_stamps(path, len(rows), rate_hz)
        poses = [_matrix(path, number, row) for number, row in rows]
    _check_order(path, [number for number, _ in rows], stamps)
    return PoseFile(path, tuple(poses), tuple(stamps))


def stamp_of_name(stem: str) -> int | None:
    """Nanoseconds from the number at the end of a file's name; None if it is no time since 1970.

    Seconds have a point and decimals, or 10 digits; 13 digits are milliseconds, 16 microseconds,
    19 nanoseconds.
    """
    found = re.search(r"(\d+)(\.\d+)?$", stem)
    if found is None:
        return None
    if found[2]:
        return _nanoseconds(found[0])
    unit = _UNITS_NS.get(len(found[1]))
    return None if unit is None else int(found[1]) * unit


def _read_csv(path: Path, lines: Sequence[tuple[int, str]]) -> PoseFile:
    rows = csv.reader(line for _, line in lines)
    header = [name.strip() for name in next(rows)]
    stamp_column = next((name for name in _STAMP_COLUMNS if name in header), None)
    missing = [name for name in _POSE_COLUMNS if name not in header]
    if missing or stamp_column is None:
        missing += [] if stamp_column else [" or ".join(_STAMP_COLUMNS)]
        raise BagError(
            f"poses {path}, line {lines[0][0]}: no column {', '.join(missing)}; the header is "
            f"{', '.join(header)}"
        )
    stamps: list[int] = []
    poses: list[Float64] = []
    images: dict[str, int] = {}
    numbers = [number for number, _ in lines[1:]]
    for number, cells in zip(numbers, rows, strict=True):
        if len(cells) != len(header):
            raise BagError(
                f"poses {path}, line {number}: {len(cells)} columns, the header has {len(header)}"
            )
        row = dict(zip(header, (cell.strip() for cell in cells), strict=True))
        values = [_number(path, number, row[name]) for name in _POSE_COLUMNS]
        stamps.append(_csv_stamp(path, number, stamp_column, row[stamp_column]))
        poses.append(_pose(path, number, values))
        if row.get("image"):
            images[row["image"].replace("\\", "/")] = len(poses) - 1
    if not poses:
        raise BagError(f"poses {path}: the file has a header and no pose")
    if not images:
        _check_order(path, numbers, stamps)
    return PoseFile(path, tuple(poses), tuple(stamps), images)


def _csv_stamp(path: Path, number: int, column: str, value: str) -> int:
    """Nanoseconds; a float would round them."""
    if column == "stamp_s":
        _number(path, number, value)
        return _nanoseconds(value)
    if not value.isdecimal():
        raise BagError(f"poses {path}, line {number}: {column} {value!r} is not a whole number")
    return int(value)


def _kitti_stamps(path: Path, count: int, rate_hz: float | None) -> list[int]:
    times = path.with_name(_TIMES_FILE)
    if rate_hz is not None:
        if not rate_hz > 0.0:
            raise BagError(f"poses per second must be positive, got {rate_hz:g}")
        return [round(number * 1e9 / rate_hz) for number in range(1, count + 1)]
    if not times.is_file():
        raise BagError(
            f"poses {path} state no times (KITTI): put {_TIMES_FILE} with one time in seconds per "
            "pose beside it, or say how many poses a second has"
        )
    stated = times.read_text(encoding="utf-8").split()
    if len(stated) != count or not all(map(_is_number, stated)):
        raise BagError(f"{times} has {len(stated)} times, expected {count} numbers, one per pose")
    # A stamp of zero means none.
    return [_nanoseconds(value) + 1_000_000_000 for value in stated]


def _check_order(path: Path, numbers: Sequence[int], stamps: Sequence[int]) -> None:
    for k in range(1, len(stamps)):
        if stamps[k] <= stamps[k - 1]:
            raise BagError(
                f"poses {path}, line {numbers[k]}: time {stamps[k] / 1e9:.6f} s is not after the "
                f"one before, {stamps[k - 1] / 1e9:.6f} s; times must rise"
            )


def _pose(path: Path, number: int, values: Sequence[float]) -> Float64:
    return _checked(path, number, lambda: matrix_from_pose(values[:3], values[3:]))


def _matrix(path: Path, number: int, values: Sequence[float]) -> Float64:
    matrix = np.eye(4)
    matrix[:3] = np.reshape(values, (3, 4))

    def rigid() -> Float64:
        require_rigid(matrix, "pose")
        return matrix

    return _checked(path, number, rigid)


def _checked(path: Path, number: int, make: Callable[[], Float64]) -> Float64:
    try:
        return make()
    except ValueError as error:
        raise BagError(f"poses {path}, line {number}: {error}") from error


def _numbers(path: Path, number: int, line: str) -> list[float]:
    return [_number(path, number, value) for value in re.split(r"[,\s]+", line.strip())]


def _number(path: Path, number: int, value: str) -> float:
    if not _is_number(value):
        raise BagError(f"poses {path}, line {number}: {value!r} is not a number")
    return float(value)


def _is_number(value: str) -> bool:
    try:
        return math.isfinite(float(value))
    except ValueError:
        return False


def _nanoseconds(seconds: str) -> int:
    """Exact for plain decimals: a float has 240 ns between two of today's times."""
    plain = re.fullmatch(r"(\d+)(?:\.(\d*))?", seconds)
    if plain is None:
        return round(float(seconds) * 1e9)
    return int(plain[1]) * 10**9 + int(((plain[2] or "") + "0" * 9)[:9])
