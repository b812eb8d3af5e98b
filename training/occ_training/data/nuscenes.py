"""Index of the key frames of a folder in the format of the nuScenes devkit, from its tables.

The synthetic town writes such folders as well. :mod:`~occ_training.data.nuscenes_files` has the
places of the label files.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from PIL import Image

from occ_perception.bags.nuscenes_tables import NuScenesError, NuScenesTables, Record, Sensors
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex
from occ_training.data.index_builder import IndexBuilder
from occ_training.data.nuscenes_files import (
    LIDAR_COLUMNS,
    REFERENCE_CAMERA,
    FrameNames,
    LabelFolders,
)
from occ_training.data.records import CameraRecord, DatasetError, FrameRecord, LidarRecord

NATIVE_SIZE = (1600, 900)


def index_from_tables(
    root: str | Path,
    version: str,
    scenes: Iterable[str] | None = None,
    report: CheckReport | None = None,
) -> DatasetIndex:
    """Key frames of a devkit folder.

    Args:
        root: folder with the tables folder and ``samples``.
        version: name of the tables folder.
        scenes: names; None = all.
        report: takes records that cannot be used, and what is left out because of them; without
            one, the first is an error.

    Raises:
        NuScenesError: no such tables, a table is missing or damaged, or it has no front camera.
        DatasetError: a scene does not exist, or no frame can be used.
    """
    folder = Path(root)
    tables = NuScenesTables(folder, version)
    wanted = _wanted_scenes(tables.scenes(), scenes, folder / version)
    sensors = Sensors(tables)
    cameras = tuple(name for name in NUSCENES_CAMERAS if name in sensors.cameras)
    if REFERENCE_CAMERA not in cameras:
        raise NuScenesError(
            f"{folder / version}/sensor.json has no camera {REFERENCE_CAMERA}; its cameras are "
            f"{', '.join(sensors.cameras)}. The networks know {', '.join(NUSCENES_CAMERAS)}: "
            "rename the channels there (the files may keep their names)"
        )
    labels = LabelFolders(folder, version, _lidarseg(folder, version, tables), bool(sensors.lidar))
    name = f"nuScenes {version}"
    builder = IndexBuilder(name, folder, cameras, report, labels.formats)
    samples = tables.by_token("sample", where=lambda r: r.reference("scene_token") in wanted)
    if report is not None:
        report.frames = len(samples)
    frames = _Frames(folder, tables, sensors, samples, report)
    for token, sample in samples.items():
        scene = wanted[sample["scene_token"]]
        stamp = builder.entry("frame", scene, token, sample.stamp_ns)
        found = {
            camera: builder.entry(camera, scene, token, partial(frames.camera, token, camera))
            for camera in cameras
        }
        lidar = None
        if sensors.lidar is not None:
            lidar = builder.entry("lidar", scene, token, partial(frames.lidar, token))
        if stamp is None or found[REFERENCE_CAMERA] is None:
            builder.leave_out(scene, token)
            continue
        sweep = (lidar[0].points or "") if lidar else ""
        names = FrameNames(scene, token, sample["scene_token"], lidar[1] if lidar else "", sweep)
        builder.add(
            FrameRecord(
                token=token,
                sequence=scene,
                stamp_ns=stamp,
                reference_camera=REFERENCE_CAMERA,
                cameras={key: value for key, value in found.items() if value is not None},
                lidar=labels.with_point_classes(lidar[0], names) if lidar else None,
                labels=builder.entry("labels", scene, token, partial(labels.labels, names)) or {},
                source={"version": version, "lidar_token": names.lidar_token},
            )
        )
    return builder.index({"tables": version})


class _Frames:
    """The entries of key frames, joined from the tables.

    Args:
        root: folder that file names are relative to.
        tables, sensors: of the data set.
        samples: key frames by token.
        report: takes records whose frame or sensor is unknown.
    """

    def __init__(
        self,
        root: Path,
        tables: NuScenesTables,
        sensors: Sensors,
        samples: Mapping[str, Record],
        report: CheckReport | None,
    ) -> None:
        self._root, self._sensors, self._table = root, sensors, tables.folder / "sample_data.json"
        self._rows: dict[tuple[str, str], tuple[Record, Record]] = {}
        self._lost: dict[str, list[str]] = defaultdict(list)
        rows = tables.read(
            "sample_data",
            where=lambda r: (
                bool(r.get("is_key_frame", True))
                and (r.reference("sample_token") in samples or not r.reference("sample_token"))
            ),
        )
        for row in rows:
            self._add(row, report)
        used = {row.reference("ego_pose_token") for row in rows}
        self._poses = tables.by_token("ego_pose", where=lambda r: r.reference("token") in used)

    def camera(self, token: str, camera: str) -> CameraRecord:
        """The image of a camera; raises NuScenesError."""
        row, mount = self._row(token, camera)
        model, coefficients = mount.distortion()
        if model:
            raise mount.wrong(
                "camera_distortion",
                f"is {list(coefficients)}, but training reads rectified images; `occ convert "
                "nuscenes` and then `occ-train convert` rectify them",
            )
        width, height = row.size() or image_size(self._root / row.text("filename"))
        return CameraRecord(
            image=row.text("filename"),
            stamp_ns=row.stamp_ns(),
            K=mount.intrinsics(),
            width=width,
            height=height,
            ego_T_cam=mount.pose(),
            world_T_ego=self._poses[row.text("ego_pose_token")].pose(),
        )

    def lidar(self, token: str) -> tuple[LidarRecord, str]:
        """The sweep of a frame and its token; raises NuScenesError."""
        row, mount = self._row(token, str(self._sensors.lidar))
        lidar = LidarRecord(
            points=row.text("filename"),
            columns=LIDAR_COLUMNS,
            stamp_ns=row.stamp_ns(),
            ego_T_lidar=mount.pose(),
            world_T_ego=self._poses[row.text("ego_pose_token")].pose(),
        )
        return lidar, row.text("token")

    def _add(self, row: Record, report: CheckReport | None) -> None:
        try:
            token = row.text("sample_token")
            sensor, mount = self._sensors.of(row)
        except NuScenesError as error:
            if report is None:
                raise
            if row.reference("sample_token"):
                self._lost[row.reference("sample_token")].append(str(error))
            else:
                report.problems.append(str(error))
            return
        first, _ = self._rows.setdefault((token, sensor), (row, mount))
        if first is not row and report is not None:
            why = f"is that of another key frame of {sensor} as well, which is used"
            report.problems.append(str(row.wrong("sample_token", why)))

    def _row(self, token: str, sensor: str) -> tuple[Record, Record]:
        if (token, sensor) not in self._rows:
            why = "; ".join(self._lost[token][:2])
            raise NuScenesError(
                f"{self._table} has no key frame of {sensor} of sample {token}"
                + (f" that can be used: {why}" if why else "")
            )
        return self._rows[token, sensor]


def image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image; the size of nuScenes if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return image.width, image.height
    except OSError:
        return NATIVE_SIZE


def _wanted_scenes(
    tokens: Mapping[str, str], scenes: Iterable[str] | None, where: Path
) -> dict[str, str]:
    """Token -> name of the requested scenes."""
    names = list(tokens) if scenes is None else list(scenes)
    unknown = [name for name in names if name not in tokens]
    if unknown or not names:
        few = ", ".join(sorted(tokens)[:10])
        raise DatasetError(
            f"no scene {', '.join(unknown[:10]) or '(none requested)'} in {where}; it has "
            f"{len(tokens)}: {few}{', ...' if len(tokens) > 10 else ''}"
        )
    return {tokens[name]: name for name in names}


def _lidarseg(root: Path, version: str, tables: NuScenesTables) -> dict[str, str] | None:
    """Sweep's token -> file of its point classes; None without such a table."""
    if not (root / version / "lidarseg.json").is_file():
        return None
    return {row.text("sample_data_token"): row.text("filename") for row in tables.read("lidarseg")}
