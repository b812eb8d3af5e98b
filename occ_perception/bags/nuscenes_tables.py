"""The JSON tables of a data set in the format of the nuScenes devkit, record by record.

The devkit is not needed (nuScenes, Caesar et al., CVPR 2020). Data sets of other vehicles use the
format as well (nuImages, Tier IV, own converters) and differ in details; what can be used is used,
everything else is refused with the names of the table, the record and the field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from occ_perception.errors import OccError
from occ_perception.geometry import Float64, matrix_from_pose, require_rigid

LIDAR_CHANNEL = "LIDAR_TOP"
_CHANNEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MICROSECONDS = (1e14, 1e16)  # the years 1973 to 2286
_OTHER_UNITS = {"seconds": 1e6, "milliseconds": 1e3, "nanoseconds": 1e-3}
# Lens model by the number of coefficients, which are in the order of OpenCV.
_LENS_MODELS = {4: "plumb_bob", 5: "plumb_bob", 8: "rational_polynomial"}


class NuScenesError(OccError):
    """The folder does not have the devkit's format; the message says what is missing."""


class Record(dict[str, Any]):
    """One record of a table.

    Its methods return fields with their meaning. They raise NuScenesError for a field that is
    missing or cannot be used; the message names table, record and field.

    Args:
        file: the table.
        fields: name -> value.
    """

    def __init__(self, file: Path, fields: Mapping[str, Any]) -> None:
        super().__init__(fields)
        self._file = file

    def wrong(self, name: str, why: str) -> NuScenesError:
        """The error of a field that cannot be used."""
        return NuScenesError(f"{self._file}, record {self.get('token', '?')}: {name} {why}")

    def text(self, name: str) -> str:
        """A text that is not empty: a name, path or token."""
        value = self.get(name)
        if not isinstance(value, str) or not value or "\0" in value:
            raise self.wrong(name, f"is {_shown(value)}, expected a text")
        return value

    def reference(self, name: str) -> str:
        """The token of another record; empty if there is none."""
        value = self.get(name)
        return value if isinstance(value, str) else ""

    def stamp_ns(self) -> int:
        """``timestamp``, which is in microseconds, in nanoseconds."""
        value: Any = self.get("timestamp")
        if not _is_number(value):
            raise self.wrong("timestamp", f"is {_shown(value)}, expected microseconds since 1970")
        first, last = _MICROSECONDS
        if not first <= value < last:
            units = [u for u, factor in _OTHER_UNITS.items() if first <= value * factor < last]
            guess = f" (these may be {units[0]})" if units else ""
            raise self.wrong("timestamp", f"{value} is no time in microseconds since 1970{guess}")
        fraction: float = value % 1
        return int(value) * 1000 + round(fraction * 1000)

    def pose(self) -> Float64:
        """(4, 4) pose from ``translation`` (metres) and ``rotation``.

        The rotation is a quaternion (w, x, y, z) or a 3x3 matrix.
        """
        translation, rotation = self._numbers("translation"), self._numbers("rotation")
        if translation.shape != (3,):
            raise self.wrong("translation", f"has shape {translation.shape}, expected 3 numbers")
        if rotation.shape not in ((4,), (3, 3)):
            raise self.wrong(
                "rotation",
                f"has shape {rotation.shape}, expected a quaternion (w, x, y, z) or a 3x3 matrix",
            )
        try:
            if rotation.shape == (4,):
                return matrix_from_pose(translation, np.roll(rotation, -1))
            matrix = np.eye(4)
            matrix[:3, :3], matrix[:3, 3] = rotation, translation
            require_rigid(matrix, "it")
        except ValueError as error:
            raise self.wrong("rotation", f"or translation cannot be used: {error}") from error
        return matrix

    def intrinsics(self) -> Float64:
        """(3, 3) ``camera_intrinsic``, pixels."""
        K = self._numbers("camera_intrinsic")
        if K.shape != (3, 3) or not np.isfinite(K).all():
            raise self.wrong("camera_intrinsic", f"has shape {K.shape}, expected a 3x3 matrix")
        return K

    def distortion(self) -> tuple[str, tuple[float, ...]]:
        """Lens model and coefficients from ``camera_distortion``; both empty if there is none."""
        if self.get("camera_distortion") is None:
            return "", ()
        values = self._numbers("camera_distortion").ravel()
        if not values.any():
            return "", ()
        if values.size not in _LENS_MODELS or not np.isfinite(values).all():
            raise self.wrong(
                "camera_distortion",
                f"is {_shown(values.tolist())}, expected the 4, 5 or 8 coefficients of OpenCV",
            )
        return _LENS_MODELS[values.size], tuple(values.tolist())

    def size(self) -> tuple[int, int] | None:
        """``width`` and ``height``, pixels; None if they are not given (missing, null or 0)."""
        width, height = self.get("width"), self.get("height")
        if not width or not height:
            return None
        for name, value in (("width", width), ("height", height)):
            if not _is_number(value) or value != int(value) or value < 0:
                raise self.wrong(name, f"is {_shown(value)}, expected a number of pixels")
        return int(width), int(height)

    def _numbers(self, name: str) -> Float64:
        try:
            return np.array(self[name], dtype=np.float64)
        except KeyError:
            raise self.wrong(name, "is missing") from None
        except (TypeError, ValueError, OverflowError):
            raise self.wrong(name, f"is {_shown(self[name])}, expected numbers") from None


class NuScenesTables:
    """The tables of one version.

    Args:
        root: folder of the data set.
        version: name of the tables folder.

    Raises:
        NuScenesError: the tables do not exist; the message lists the versions that do.
    """

    def __init__(self, root: Path, version: str) -> None:
        self.folder = root / version
        if not (self.folder / "scene.json").is_file():
            versions = sorted(file.parent.name for file in root.glob("*/scene.json"))
            raise NuScenesError(
                f"no nuScenes tables in {self.folder}; "
                f"{root} has {', '.join(versions) or 'no folder with a scene.json'}"
            )

    def scenes(self) -> dict[str, str]:
        """Name -> token of every scene, in the order of the table; folders are named after them."""
        tokens = {}
        for record in self.read("scene"):
            name = record.text("name")
            if name != Path(name).name or name == "..":
                raise record.wrong("name", f"is {name!r}, expected the name of a folder")
            tokens[name] = record.text("token")
        return tokens

    def by_token(
        self, table: str, where: Callable[[Record], bool] | None = None
    ) -> Mapping[str, Record]:
        """The records of a table by token; one without a token cannot be referred to.

        Raises:
            NuScenesError: the table is missing or damaged. The returned dict raises it too, for a
                token that the table lacks.
        """
        records = {
            record["token"]: record
            for record in self.read(table, where)
            if isinstance(record.get("token"), str)
        }
        return _Records(self.folder / f"{table}.json", records)

    def read(self, table: str, where: Callable[[Record], bool] | None = None) -> list[Record]:
        """The records of a table, optionally filtered by ``where``.

        Other records are dropped while parsing, because the tables of the whole data set do not
        fit into the memory of a small machine.

        Raises:
            NuScenesError: the table is missing or damaged.
        """
        file = self.folder / f"{table}.json"

        def keep(fields: dict[str, Any]) -> dict[str, Any] | None:
            if where is None or "token" not in fields:
                return fields
            record = Record(file, fields)
            return record if where(record) else None

        try:
            records = json.loads(file.read_bytes(), object_hook=keep)
        except FileNotFoundError:
            raise NuScenesError(f"table {file} is missing") from None
        except (ValueError, RecursionError) as error:
            raise NuScenesError(f"table {file} is damaged: {error!r}") from error
        if not isinstance(records, list):
            raise NuScenesError(f"table {file} is a {type(records).__name__}, expected a list")
        strangers = [entry for entry in records if not isinstance(entry, dict | None)]
        if strangers:
            raise NuScenesError(
                f"table {file} has an entry {_shown(strangers[0])}, expected records only"
            )
        return [
            entry if isinstance(entry, Record) else Record(file, entry)
            for entry in records
            if entry is not None
        ]


class Sensors:
    """The sensors of a data set and their mounts.

    Cameras may be called ``CAMERA_FRONT`` instead of ``CAM_FRONT``; here they have the names of the
    networks' cameras. The lidar is LIDAR_TOP, or else the only one.

    Attributes:
        cameras: names of the cameras, in the order of the table.
        lidars: channels of the lidars.
        lidar: channel of the one that is used; None if there is none, or it is unclear which.
    """

    def __init__(self, tables: NuScenesTables) -> None:
        self._sensors = tables.by_token("sensor")
        self._mounts = tables.by_token("calibrated_sensor")
        self._table = tables.folder / "sensor.json"
        kinds: dict[str, list[str]] = {"camera": [], "lidar": []}
        for sensor in self._sensors.values():
            channel = str(sensor.get("channel"))
            kind = str(sensor.get("modality") or channel.split("_")[0].lower())
            kind = "camera" if kind == "cam" else kind
            if kind in kinds and _name(channel) not in kinds[kind]:
                kinds[kind].append(_name(channel))
        self.cameras, self.lidars = tuple(kinds["camera"]), tuple(kinds["lidar"])
        only = self.lidars[0] if len(self.lidars) == 1 else None
        self.lidar = LIDAR_CHANNEL if LIDAR_CHANNEL in self.lidars else only
        if not self.cameras:
            channels = ", ".join(str(sensor.get("channel")) for sensor in self._sensors.values())
            raise NuScenesError(
                f"{self._table} has no camera: no modality camera; its channels are "
                f"{channels or 'none'}"
            )

    def of(self, reading: Record) -> tuple[str, Record]:
        """Name of the sensor of a ``sample_data`` record, and its calibrated_sensor record."""
        mount = self._mounts[reading.text("calibrated_sensor_token")]
        sensor = self._sensors[mount.text("sensor_token")]
        channel = sensor.text("channel")
        if not _CHANNEL.fullmatch(channel):
            raise sensor.wrong("channel", f"is {channel!r}, expected letters, digits and _")
        return _name(channel), mount


class _Records(dict[str, Record]):
    """Records by token; a missing token raises NuScenesError."""

    def __init__(self, file: Path, records: Mapping[str, Record]) -> None:
        super().__init__(records)
        self._file = file

    def __missing__(self, token: str) -> Record:
        raise NuScenesError(
            f"table {self._file} has no record {token!r}, to which another table refers; "
            "unpack all tables again, from one release"
        )


def _name(channel: str) -> str:
    return f"CAM_{channel[7:]}" if channel.startswith("CAMERA_") else channel


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _shown(value: Any) -> str:
    text = repr(value)
    return "missing or null" if value is None else text[:60] + ("..." if len(text) > 60 else "")
