"""Converts scenes in the format of the nuScenes devkit into rosbag2 recordings."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from occ_perception.bags.nuscenes_tables import (
    LIDAR_CHANNEL,
    NuScenesError,
    NuScenesTables,
    Record,
    Sensors,
)
from occ_perception.bags.occ3d import Occ3dError, read_truth
from occ_perception.bags.predictions import GROUND_TRUTH, GROUND_TRUTH_IN_VIEW
from occ_perception.bags.writing import BagWriter, optical_frame
from occ_perception.frames import CameraCalibration
from occ_perception.geometry import Float64
from occ_perception.sensing.images import EncodedImage, ImageError, check_compressed

_LIDAR_COLUMNS = 5


@dataclass
class ConversionReport:
    """Result of a conversion.

    Attributes:
        path: the recording.
        scene: name of the scene.
        images: camera -> number of images written.
        sweeps: number of lidar sweeps written.
        poses: number of ego poses written.
        truths: number of frames whose ground truth was written.
        distorted: whether the images are distorted and go to the topics ``image_raw``.
        problems: records and files that were skipped and why.
    """

    path: Path
    scene: str
    images: dict[str, int] = field(default_factory=dict)
    sweeps: int = 0
    poses: int = 0
    truths: int = 0
    distorted: bool = False
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class SensorReading:
    """One file of a sensor with the records that belong to it.

    Attributes:
        sensor: e.g. ``CAM_FRONT``.
        stamp_ns: time of the reading.
        file: path of the data.
        ego_T_sensor: (4, 4) mounting pose.
        world_T_ego: (4, 4) ego pose at ``stamp_ns``.
        K: (3, 3) intrinsics; None for a lidar.
        size: (width, height) of an image; None if the tables do not state it.
        lens: lens model and its coefficients; empty for a rectified image.
    """

    sensor: str
    stamp_ns: int
    file: Path
    ego_T_sensor: Float64
    world_T_ego: Float64
    K: Float64 | None = None
    size: tuple[int, int] | None = None
    lens: tuple[str, tuple[float, ...]] = ("", ())

    def calibration(self, image: bytes) -> CameraCalibration:
        """The calibration of an image; ``image`` states the size where the tables do not."""
        from PIL import Image

        assert self.K is not None
        width, height = self.size or Image.open(io.BytesIO(image)).size
        model, coefficients = self.lens
        return CameraCalibration(
            name=self.sensor,
            width=width,
            height=height,
            K=self.K,
            ego_T_cam=self.ego_T_sensor,
            frame_id=optical_frame(self.sensor),
            distortion_model=model,
            distortion=coefficients,
        )


@dataclass(frozen=True, eq=False)
class TruthFile:
    """Labels of a key frame.

    Attributes:
        stamp_ns: time of the key frame, which is that of the lidar.
        file: path of the Occ3D labels.
    """

    stamp_ns: int
    file: Path


class SceneReader:
    """The scenes of a folder in the devkit's format.

    A record that cannot be used is listed as a problem of its scene and skipped.

    Args:
        root: folder with the tables folder and ``samples`` (and ``sweeps``, ``gts``).
        version: name of the tables folder, e.g. ``v1.0-mini``.
        scenes: names, e.g. ``scene-0103``; None = all.
        sweeps: whether to read all images (12 Hz) or only the annotated keyframes (2 Hz).
        lidar: whether to read the lidar too.

    Attributes:
        scenes: names of the scenes.
        problems: records that belong to no scene.

    Raises:
        NuScenesError: unknown version or scene (the message lists the known ones), or a table that
            is missing or damaged.
    """

    def __init__(
        self,
        root: str | Path,
        version: str,
        scenes: Iterable[str] | None = None,
        sweeps: bool = True,
        lidar: bool = False,
    ) -> None:
        self.root = Path(root)
        tables = NuScenesTables(self.root, version)
        tokens = tables.scenes()
        self.scenes = tuple(tokens if scenes is None else scenes)
        unknown = [name for name in self.scenes if name not in tokens]
        if unknown or not self.scenes:
            raise NuScenesError(
                f"no scene {', '.join(map(repr, unknown))} in {tables.folder}; it has "
                f"{', '.join(sorted(tokens)) or 'none'}"
            )
        wanted = {tokens[name] for name in self.scenes}
        self._sensors = Sensors(tables)
        if lidar and self._sensors.lidar is None:
            raise NuScenesError(
                f"{tables.folder} has no lidar {LIDAR_CHANNEL}, and not one other; it has "
                f"{', '.join(self._sensors.lidars) or 'none'}"
            )
        self._with_lidar = lidar
        samples = tables.by_token("sample", where=lambda r: r.reference("scene_token") in wanted)
        self._names = {token: name for name, token in tokens.items()}
        self._samples: dict[str, list[Record]] = defaultdict(list)
        for sample in samples.values():
            self._samples[self._names[sample["scene_token"]]].append(sample)

        def is_wanted(row: Record) -> bool:
            """Whether a row belongs to a wanted scene, or to none."""
            token = row.reference("sample_token")
            belongs = token in samples or not token or scenes is None
            return belongs and (sweeps or bool(row.get("is_key_frame")))

        rows = tables.read("sample_data", is_wanted)
        self.problems: list[str] = []
        self._rows: dict[str, list[Record]] = defaultdict(list)
        for row in rows:
            self._add(row, samples)
        used = {row.reference("ego_pose_token") for row in rows}
        self._poses = tables.by_token("ego_pose", where=lambda r: r.reference("token") in used)

    def _add(self, row: Record, samples: Mapping[str, Record]) -> None:
        try:
            sample = samples[row.text("sample_token")]
        except NuScenesError as error:
            self.problems.append(str(error))
        else:
            self._rows[self._names[sample["scene_token"]]].append(row)

    def readings(self, scene: str, problems: list[str]) -> list[SensorReading]:
        """The readings of a scene in the order of time; unusable records go to ``problems``."""
        found = [self._reading(row, problems) for row in self._rows[scene]]
        return sorted(filter(None, found), key=lambda r: (r.stamp_ns, r.sensor))

    def truths(self, scene: str, problems: list[str]) -> list[TruthFile]:
        """Label files of a scene below ``gts``, in the order of time."""
        found = []
        for sample in self._samples[scene]:
            file = self.root / "gts" / scene / sample["token"] / "labels.npz"
            if file.is_file():
                try:
                    found.append(TruthFile(sample.stamp_ns(), file))
                except NuScenesError as error:
                    problems.append(str(error))
        return sorted(found, key=lambda truth: truth.stamp_ns)

    def _reading(self, row: Record, problems: list[str]) -> SensorReading | None:
        """None for a sensor that is not wanted, and for an unusable record, which is listed."""
        try:
            return self._joined(row)
        except NuScenesError as error:
            problems.append(str(error))
            return None

    def _joined(self, row: Record) -> SensorReading | None:
        sensor, mount = self._sensors.of(row)
        is_camera = sensor in self._sensors.cameras
        if not is_camera and not (self._with_lidar and sensor == self._sensors.lidar):
            return None
        return SensorReading(
            sensor=sensor if is_camera else LIDAR_CHANNEL,
            stamp_ns=row.stamp_ns(),
            file=self.root / row.text("filename"),
            ego_T_sensor=mount.pose(),
            world_T_ego=self._poses[row.text("ego_pose_token")].pose(),
            K=mount.intrinsics() if is_camera else None,
            size=row.size() if is_camera else None,
            lens=mount.distortion() if is_camera else ("", ()),
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
    """Write one scene as a rosbag2 folder; see :func:`convert_scene`.

    Args:
        root, version, sweeps, lidar: see :class:`SceneReader`.
        scene: name of the scene, e.g. ``scene-0103``.
        out, storage, progress: see :func:`convert_scene`.

    Raises:
        NuScenesError: see :class:`SceneReader` and :func:`convert_scene`.
        OutputError: ``out`` exists or cannot be written.
    """
    reader = SceneReader(root, version, [scene], sweeps, lidar)
    report = convert_scene(reader, scene, out, storage, progress)
    report.problems[:0] = reader.problems
    return report


def convert_scene(
    reader: SceneReader,
    scene: str,
    out: str | Path,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Write one scene as a rosbag2 folder in the topic layout ``occ_perception``.

    Every image is written with its camera_info and the ego pose of the data set at its stamp, as
    odometry and as tf. Mounts are written to /tf_static. JPEG bytes are copied unchanged; where a
    camera has distortion coefficients, all images go to topics ``image_raw`` (layout
    ``occ_raw``). Occ3D labels below ``gts`` become ``/ground_truth``.

    Args:
        reader: the folder.
        scene: one of its scenes.
        out: the folder to create; an existing one is not overwritten, and a failed conversion
            leaves no folder.
        storage: container format.
        progress: called with (files done, number of files).

    Raises:
        NuScenesError: no image can be used; the message has the first reasons.
        OutputError: ``out`` exists or cannot be written.
    """
    report = ConversionReport(Path(out), scene)
    readings = reader.readings(scene, report.problems)
    truths = reader.truths(scene, report.problems)
    report.distorted = any(any(reading.lens[1]) for reading in readings)
    files: list[SensorReading | TruthFile] = [*readings, *truths]
    items = sorted(files, key=lambda item: item.stamp_ns)
    with BagWriter(out, storage, rectified=not report.distorted) as writer:
        if readings:
            _write_mounts(writer, readings)
        for done, item in enumerate(items, start=1):
            if isinstance(item, TruthFile):
                _write_truth(writer, item, report)
            elif _write_reading(writer, item, report):
                _write_pose(writer, item)
                report.poses += 1
            if progress is not None:
                progress(done, len(items))
        if not report.images:
            problems = report.problems or ["no record of a camera belongs to it"]
            rest = f"; and {len(problems) - 1} more problems" if len(problems) > 1 else ""
            unpacked = f". Is the sensor data unpacked in {reader.root}?" if readings else ""
            raise NuScenesError(
                f"{scene} has no image that can be used: {problems[0]}{rest}{unpacked}"
            )
    return report


def _write_mounts(writer: BagWriter, readings: list[SensorReading]) -> None:
    first = {reading.sensor: reading for reading in reversed(readings)}
    mounts = [
        (writer.ego_frame, _frame(sensor), reading.ego_T_sensor)
        for sensor, reading in sorted(first.items())
    ]
    writer.write_transforms(readings[0].stamp_ns, mounts, static=True)


def _frame(sensor: str) -> str:
    return sensor.lower() if sensor == LIDAR_CHANNEL else optical_frame(sensor)


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
    if reading.sensor == LIDAR_CHANNEL:
        return _write_sweep(writer, reading, data, report)
    try:
        check_compressed(EncodedImage(reading.file.suffix, data))
        calibration = reading.calibration(data)
    except (
        ImageError,
        OSError,
        ValueError,
    ) as error:  # a ValueError names a wrong number
        report.problems.append(f"{reading.file}: {error}")
        return False
    writer.write_camera_info(calibration, reading.stamp_ns)
    writer.write_camera(reading.sensor, reading.stamp_ns, data)
    report.images[reading.sensor] = report.images.get(reading.sensor, 0) + 1
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


def _write_truth(writer: BagWriter, truth: TruthFile, report: ConversionReport) -> None:
    try:
        labels, in_view = read_truth(truth.file, truth.stamp_ns, writer.ego_frame)
    except Occ3dError as error:
        report.problems.append(str(error))
        return
    writer.write_occupancy(labels, namespace=GROUND_TRUTH)
    if in_view is not None:
        writer.write_occupancy(in_view, namespace=GROUND_TRUTH_IN_VIEW)
    report.truths += 1
