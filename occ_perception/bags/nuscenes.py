"""Converts a nuScenes scene in the devkit's folder format into a rosbag2 recording.

The devkit is not needed: its tables are JSON files (nuScenes, Caesar et al., CVPR 2020).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from occ_perception.bags.writing import BagWriter, optical_frame
from occ_perception.errors import OccError
from occ_perception.frames import CameraCalibration
from occ_perception.geometry import Float64, matrix_from_pose
from occ_perception.sensing.images import EncodedImage, ImageError, check_compressed

Record = dict[str, Any]

LIDAR_CHANNEL = "LIDAR_TOP"
_LIDAR_COLUMNS = 5


class NuScenesError(OccError):
    """The folder does not have the devkit's format; the message says what is missing."""


@dataclass
class ConversionReport:
    """Result of a conversion.

    Attributes:
        path: the recording.
        scene: name of the scene.
        images: camera -> number of images written.
        sweeps: number of lidar sweeps written.
        poses: number of ego poses written.
        problems: files that were skipped and why.
    """

    path: Path
    scene: str
    images: dict[str, int] = field(default_factory=dict)
    sweeps: int = 0
    poses: int = 0
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class SensorReading:
    """One file of a sensor with the records that belong to it.

    Attributes:
        channel: e.g. ``CAM_FRONT``.
        stamp_ns: time of the reading.
        file: path of the data.
        ego_T_sensor: (4, 4) mounting pose.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
        K: (3, 3) intrinsics; None for a lidar.
        size: (width, height) of an image.
    """

    channel: str
    stamp_ns: int
    file: Path
    ego_T_sensor: Float64
    world_T_ego: Float64
    K: Float64 | None
    size: tuple[int, int]

    def calibration(self) -> CameraCalibration:
        """The calibration of an image; images of nuScenes are rectified."""
        assert self.K is not None
        return CameraCalibration(
            name=self.channel,
            width=self.size[0],
            height=self.size[1],
            K=self.K,
            ego_T_cam=self.ego_T_sensor,
            frame_id=optical_frame(self.channel),
        )


def convert_nuscenes(
    root: str | Path,
    version: str,
    scene: str,
    out: str | Path,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    sweeps: bool = True,
    lidar: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Write one scene as a rosbag2 folder in the topic layout ``occ_perception``.

    Every image is written with its camera_info and the nuScenes ego pose at its stamp, as odometry
    and as tf. Mounts are written to /tf_static. JPEG bytes are copied unchanged.

    Args:
        root: folder with the tables folder and ``samples`` (and ``sweeps``).
        version: name of the tables folder, e.g. ``v1.0-mini``.
        scene: name of the scene, e.g. ``scene-0103``.
        out: the folder to create; an existing one is not overwritten, and a failed conversion
            leaves no folder.
        storage: container format.
        sweeps: whether to write all images (12 Hz) or only the annotated keyframes (2 Hz).
        lidar: whether to write the lidar sweeps whose files exist.
        progress: called with (readings done, number of readings).

    Raises:
        NuScenesError: unknown version or scene (the message lists the known ones), incomplete
            tables, or no image.
        OutputError: ``out`` exists or cannot be written.
    """
    readings = list(read_scene(root, version, scene, sweeps=sweeps, lidar=lidar))
    report = ConversionReport(Path(out), scene)
    with BagWriter(out, storage) as writer:
        if readings:
            _write_mounts(writer, readings)
        for done, reading in enumerate(readings, start=1):
            if _write_reading(writer, reading, report):
                _write_pose(writer, reading)
                report.poses += 1
            if progress is not None:
                progress(done, len(readings))
        if not report.images:
            raise NuScenesError(
                f"none of the {len(readings)} files of {scene} could be used: "
                f"{'; '.join(report.problems[:3])}. Is the sensor data unpacked in {root}?"
            )
    return report


def read_scene(
    root: str | Path, version: str, scene: str, sweeps: bool = True, lidar: bool = False
) -> Iterator[SensorReading]:
    """The readings of a scene in the order of time.

    Arguments and errors as in :func:`convert_nuscenes`.
    """
    tables = NuScenesTables(Path(root), version)
    samples = tables.samples(scene)
    sensors = tables.by_token("sensor")
    mounts = tables.by_token("calibrated_sensor")

    def channel(data: Record) -> str:
        return str(sensors[mounts[data["calibrated_sensor_token"]]["sensor_token"]]["channel"])

    wanted = [
        data
        for data in tables.read("sample_data", where=lambda r: r.get("sample_token") in samples)
        if (sweeps or data["is_key_frame"])
        and (channel(data).startswith("CAM_") or (lidar and channel(data) == LIDAR_CHANNEL))
    ]
    tokens = {data["ego_pose_token"] for data in wanted}
    poses = tables.by_token("ego_pose", where=lambda r: r["token"] in tokens)
    for data in sorted(wanted, key=lambda r: (r["timestamp"], channel(r))):
        mount, pose = mounts[data["calibrated_sensor_token"]], poses[data["ego_pose_token"]]
        K = np.array(mount["camera_intrinsic"], dtype=np.float64)
        yield SensorReading(
            channel=channel(data),
            stamp_ns=int(data["timestamp"]) * 1000,
            file=Path(root) / data["filename"],
            ego_T_sensor=pose_of(mount),
            world_T_ego=pose_of(pose),
            K=K if K.size else None,
            size=(int(data["width"] or 0), int(data["height"] or 0)),
        )


class NuScenesTables:
    """The JSON tables of one version.

    Args:
        root: folder of the data set.
        version: name of the tables folder.

    Raises:
        NuScenesError: the tables do not exist; the message lists the versions that do.
    """

    def __init__(self, root: Path, version: str) -> None:
        self._folder = root / version
        if not (self._folder / "scene.json").is_file():
            versions = sorted(file.parent.name for file in root.glob("*/scene.json"))
            raise NuScenesError(
                f"no nuScenes tables in {self._folder}; "
                f"{root} has {', '.join(versions) or 'no folder with a scene.json'}"
            )

    def samples(self, scene: str) -> set[str]:
        """Tokens of a scene's keyframes; every sweep refers to one of them."""
        scenes = {record["name"]: record["token"] for record in self.read("scene")}
        if scene not in scenes:
            raise NuScenesError(
                f"no scene {scene!r} in {self._folder}; it has {', '.join(sorted(scenes))}"
            )
        token = scenes[scene]
        return {r["token"] for r in self.read("sample", where=lambda r: r["scene_token"] == token)}

    def by_token(
        self, table: str, where: Callable[[Record], bool] | None = None
    ) -> Mapping[str, Record]:
        """The records of a table by token.

        Raises:
            NuScenesError: the table is missing or damaged. The returned dict raises it too, for a
                token that the table lacks.
        """
        records = {record["token"]: record for record in self.read(table, where)}
        return _Records(self._folder / f"{table}.json", records)

    def read(self, table: str, where: Callable[[Record], bool] | None = None) -> list[Record]:
        """The records of a table, optionally filtered by ``where``.

        Other records are dropped while parsing, because the tables of the whole data set do not
        fit into the memory of a small machine.
        """

        def keep(record: Record) -> Record | None:
            return record if where is None or "token" not in record or where(record) else None

        file = self._folder / f"{table}.json"
        try:
            records: Iterable[Record | None] = json.loads(file.read_bytes(), object_hook=keep)
            return [record for record in records if record is not None]
        except FileNotFoundError:
            raise NuScenesError(f"table {file} is missing") from None
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise NuScenesError(f"table {file} is damaged: {error!r}") from error


class _Records(dict[str, Record]):
    """Records by token; a missing token raises NuScenesError."""

    def __init__(self, file: Path, records: Record) -> None:
        super().__init__(records)
        self._file = file

    def __missing__(self, token: str) -> Record:
        raise NuScenesError(
            f"table {self._file} has no record {token!r}, to which another table refers; "
            "unpack all tables again, from one release"
        )


def pose_of(record: Record) -> Float64:
    """(4, 4) transform of a record with a translation and a rotation (w, x, y, z)."""
    w, x, y, z = record["rotation"]
    return matrix_from_pose(record["translation"], (x, y, z, w))


def _write_mounts(writer: BagWriter, readings: list[SensorReading]) -> None:
    first = {reading.channel: reading for reading in reversed(readings)}
    mounts = [
        (writer.ego_frame, _frame(channel), reading.ego_T_sensor)
        for channel, reading in sorted(first.items())
    ]
    writer.write_transforms(readings[0].stamp_ns, mounts, static=True)


def _frame(channel: str) -> str:
    return channel.lower() if channel == LIDAR_CHANNEL else optical_frame(channel)


def _write_pose(writer: BagWriter, reading: SensorReading) -> None:
    writer.write_odometry(reading.stamp_ns, reading.world_T_ego)
    transform = (writer.world_frame, writer.ego_frame, reading.world_T_ego)
    writer.write_transforms(reading.stamp_ns, [transform])


def _write_reading(writer: BagWriter, reading: SensorReading, report: ConversionReport) -> bool:
    """Write an image or sweep; a missing or damaged file is listed and False returned."""
    try:
        data = reading.file.read_bytes()
    except OSError as error:
        report.problems.append(f"{reading.file}: {error.strerror or error}")
        return False
    if reading.channel == LIDAR_CHANNEL:
        return _write_sweep(writer, reading, data, report)
    try:
        check_compressed(EncodedImage(reading.file.suffix, data))
    except ImageError as error:
        report.problems.append(f"{reading.file}: {error}")
        return False
    writer.write_camera_info(reading.calibration(), reading.stamp_ns)
    writer.write_camera(reading.channel, reading.stamp_ns, data)
    report.images[reading.channel] = report.images.get(reading.channel, 0) + 1
    return True


def _write_sweep(
    writer: BagWriter, reading: SensorReading, data: bytes, report: ConversionReport
) -> bool:
    if not data or len(data) % (4 * _LIDAR_COLUMNS):
        report.problems.append(
            f"{reading.file}: {len(data)} bytes are not a whole number of points of "
            f"{_LIDAR_COLUMNS} float32"
        )
        return False
    points = np.frombuffer(data, dtype="<f4").reshape(-1, _LIDAR_COLUMNS)
    writer.write_points(
        f"/{LIDAR_CHANNEL.lower()}", reading.stamp_ns, _frame(LIDAR_CHANNEL), points
    )
    report.sweeps += 1
    return True
