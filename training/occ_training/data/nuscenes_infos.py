"""Index of the key frames of a nuScenes info file, as public code bases share them.

Two formats: a list ``infos`` (mmdetection3d before 1.1, BEVDet and its descendants), and a list
``data_list`` (mmdetection3d from 1.1 on).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import numpy as np

from occ_perception.bags.nuscenes_tables import LIDAR_CHANNEL, NuScenesError, NuScenesTables
from occ_perception.geometry import Float64, invert_transform, matrix_from_pose
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex
from occ_training.data.index_builder import IndexBuilder
from occ_training.data.nuscenes import image_size
from occ_training.data.nuscenes_files import (
    LIDAR_COLUMNS,
    REFERENCE_CAMERA,
    FrameNames,
    LabelFolders,
)
from occ_training.data.records import CameraRecord, DatasetError, FrameRecord, LidarRecord

Info = Mapping[str, Any]
Value = TypeVar("Value")

_MICROSECONDS, _SECONDS = (1e14, 1e16), (1e8, 1e10)  # the years 1973 to 2286


def index_from_infos(
    root: str | Path, infos: Any, report: CheckReport | None = None
) -> DatasetIndex:
    """Key frames of an info file.

    The scene of a frame is its ``scene_name``, or else what ``occ_path``, the tables below root,
    the folders of labels or ``scene_token`` tell.

    Args:
        root: folder with ``samples``; paths in the file are used from that folder on.
        infos: content of the file, see :func:`~occ_training.data.info_pickles.load_info_pickle`.
        report: takes infos and entries that cannot be used; without one, the first is an error.

    Raises:
        DatasetError: it is not an info file, or none of its frames can be used.
    """
    folder = Path(root)
    content = infos if isinstance(infos, Mapping) else {}
    rows, frame_class, about = content.get("infos"), _BevdetInfo, content.get("metadata")
    if rows is None:
        rows, frame_class, about = content.get("data_list"), _DataListInfo, content.get("metainfo")
    if not isinstance(rows, list) or not rows:
        raise DatasetError(
            "is not a nuScenes info file: it has no list of infos (infos or data_list)"
        )
    version = str(about.get("version", "")) if isinstance(about, Mapping) else ""
    labels = LabelFolders(folder, version, None, with_lidar=True)
    scenes = _Scenes(folder, version)
    sizes: dict[str, tuple[int, int]] = {}
    name = f"nuScenes {version}".strip()
    builder = IndexBuilder(name, folder, NUSCENES_CAMERAS, report, labels.formats)
    if report is not None:
        report.frames = len(rows)
    for number, row in enumerate(rows):
        info = frame_class(number, row, folder, sizes)
        _add_frame(builder, info, number, scenes, labels)
    return builder.index({"infos": len(rows)})


def _add_frame(
    builder: IndexBuilder,
    info: _BevdetInfo,
    number: int,
    scenes: _Scenes,
    labels: LabelFolders,
) -> None:
    """Add the frame of an info, as far as it can be used."""
    about = f"info {number}"
    names = builder.entry("frame", about, "", lambda: info.names(scenes))
    stamp = builder.entry("frame", about, "", info.stamp_ns)
    if names is None or stamp is None:
        builder.leave_out(about, "")
        return
    scene, token = names.scene, names.token
    found = {
        camera: builder.entry(camera, scene, token, partial(info.camera, camera))
        for camera in NUSCENES_CAMERAS
    }
    lidar = builder.entry("lidar", scene, token, info.lidar)
    if found[REFERENCE_CAMERA] is None:
        builder.leave_out(scene, token)
        return
    names = FrameNames(
        scene, token, names.scene_token, names.lidar_token, lidar.points or "" if lidar else ""
    )
    builder.add(
        FrameRecord(
            token=token,
            sequence=scene,
            stamp_ns=stamp,
            reference_camera=REFERENCE_CAMERA,
            cameras={key: value for key, value in found.items() if value is not None},
            lidar=labels.with_point_classes(lidar, names) if lidar else None,
            labels=builder.entry("labels", scene, token, partial(labels.labels, names)) or {},
            source={"lidar_token": names.lidar_token},
        )
    )


class _BevdetInfo:
    """An entry of ``infos``: poses as translations and quaternions, stamps in microseconds.

    Its methods raise DatasetError, with the number of the info, for what cannot be used.

    Args:
        number: of the entry.
        row: its content.
        root: folder of the images.
        sizes: camera -> size of its images; filled in when the first is looked at.
    """

    unit = _MICROSECONDS

    def __init__(
        self, number: int, row: Any, root: Path, sizes: dict[str, tuple[int, int]]
    ) -> None:
        self._number, self._root, self._sizes = number, root, sizes
        self.row: Info = row if isinstance(row, Mapping) else {}

    def names(self, scenes: _Scenes) -> FrameNames:
        """Names of scene and frame, without the sweep's."""
        row = self.row
        token = self._read(lambda: str(row["token"]))
        scene_token = str(row.get("scene_token") or "")
        scene = row.get("scene_name") or scenes.name_of(token, scene_token, row.get("occ_path"))
        if not scene:
            raise self._wrong(
                "it does not say of which scene it is: it has no scene_name, scene_token or "
                "occ_path, and neither tables nor labels below ROOT know its token"
            )
        return FrameNames(str(scene), token, scene_token, str(row.get("lidar_token") or ""))

    def stamp_ns(self) -> int:
        """Time of the frame."""
        return self._stamp_ns(self.row)

    def camera(self, camera: str) -> CameraRecord:
        """The image of a camera."""

        def read() -> CameraRecord:
            entry = self.row["cams"][camera]
            return self._record(
                *(camera, self._path(entry["data_path"], camera), entry, entry["cam_intrinsic"]),
                *(_pose(entry, "sensor2ego"), _pose(entry, "ego2global")),
            )

        return self._read(read)

    def lidar(self) -> LidarRecord:
        """The sweep."""

        def read() -> LidarRecord:
            row = self.row
            return self._sweep(row["lidar_path"], _pose(row, "lidar2ego"), _pose(row, "ego2global"))

        return self._read(read)

    def _record(
        self,
        camera: str,
        image: str,
        entry: Info,
        K: Any,
        ego_T_cam: Float64,
        world_T_ego: Float64,
    ) -> CameraRecord:
        if camera not in self._sizes:
            self._sizes[camera] = image_size(self._root / image)
        width, height = self._sizes[camera]
        return CameraRecord(
            image=image,
            stamp_ns=self._stamp_ns(entry),
            K=np.array(K, dtype=np.float64)[:3, :3],
            width=width,
            height=height,
            ego_T_cam=ego_T_cam,
            world_T_ego=world_T_ego,
        )

    def _sweep(self, path: Any, ego_T_lidar: Float64, world_T_ego: Float64) -> LidarRecord:
        return LidarRecord(
            points=self._path(path, LIDAR_CHANNEL),
            columns=LIDAR_COLUMNS,
            stamp_ns=self.stamp_ns(),
            ego_T_lidar=ego_T_lidar,
            world_T_ego=world_T_ego,
        )

    def _stamp_ns(self, entry: Info) -> int:
        value = self._read(lambda: float(entry["timestamp"]))
        first, last = self.unit
        if not first <= value < last:
            unit = "microseconds" if self.unit == _MICROSECONDS else "seconds"
            raise self._wrong(f"timestamp {value:.17g} is no time in {unit} since 1970")
        if self.unit == _MICROSECONDS:
            return int(entry["timestamp"]) * 1000
        return round(value * 1e6) * 1000

    def _read(self, read: Callable[[], Value]) -> Value:
        """What ``read`` returns; what it stumbles over becomes a DatasetError."""
        try:
            return read()
        except DatasetError:
            raise
        except (KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
            what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            raise self._wrong(what) from error

    def _wrong(self, what: str) -> DatasetError:
        return DatasetError(f"info {self._number}: {what}")

    @staticmethod
    def _path(path: Any, channel: str) -> str:
        """A path such as ``./data/nuscenes/samples/…``, or a bare name, relative to our root."""
        parts = PurePosixPath(path).parts
        for folder in ("samples", "sweeps"):
            if folder in parts:
                return "/".join(parts[parts.index(folder) :])
        if len(parts) == 1:
            return f"samples/{channel}/{parts[0]}"
        raise ValueError(f"path {path} has no folder samples or sweeps")


class _DataListInfo(_BevdetInfo):
    """An entry of ``data_list``: poses as matrices, stamps in seconds, paths are bare names."""

    unit = _SECONDS

    def camera(self, camera: str) -> CameraRecord:
        """The image of a camera; its ego pose may be known only through the lidar."""

        def read() -> CameraRecord:
            entry = self.row["images"][camera]
            ego_T_cam = _matrix(entry, "cam2ego")
            if "ego2global" in entry:
                world_T_ego = _matrix(entry, "ego2global")
            else:
                cam_T_lidar = _matrix(entry, "lidar2cam")
                world_T_lidar = _matrix(self.row, "ego2global") @ self._ego_T_lidar()
                world_T_ego = world_T_lidar @ invert_transform(ego_T_cam @ cam_T_lidar)
            path = self._path(entry["img_path"], camera)
            return self._record(camera, path, entry, entry["cam2img"], ego_T_cam, world_T_ego)

        return self._read(read)

    def lidar(self) -> LidarRecord:
        """The sweep."""

        def read() -> LidarRecord:
            path = self.row["lidar_points"]["lidar_path"]
            return self._sweep(path, self._ego_T_lidar(), _matrix(self.row, "ego2global"))

        return self._read(read)

    def _ego_T_lidar(self) -> Float64:
        return _matrix(self.row["lidar_points"], "lidar2ego")


class _Scenes:
    """Scene names of frames whose info lacks them.

    Args:
        root: folder that may have tables and labels.
        version: name of the tables; if empty, the only ones are taken.
    """

    def __init__(self, root: Path, version: str) -> None:
        self._root, self._version = root, version

    def name_of(self, token: str, scene_token: str, occ_path: Any) -> str:
        """Name of the scene; its token where no name is known, empty if it is not known either."""
        parts = PurePosixPath(occ_path).parts if isinstance(occ_path, str) else ()
        if token in parts[1:]:
            return parts[parts.index(token) - 1]
        names, scene_of_sample = self._tables
        scene_token = scene_token or scene_of_sample.get(token, "")
        return names.get(scene_token) or self._of_labels.get(token, scene_token)

    @cached_property
    def _tables(self) -> tuple[dict[str, str], dict[str, str]]:
        """Scene's token -> name, and sample's token -> scene's token; empty without tables."""
        versions = [path.parent.name for path in self._root.glob("*/scene.json")]
        if self._version in versions:
            versions = [self._version]
        if len(versions) != 1:
            return {}, {}
        tables = NuScenesTables(self._root, versions[0])
        try:
            names = {token: name for name, token in tables.scenes().items()}
            samples = tables.by_token("sample")
        except NuScenesError:
            return {}, {}
        return names, {token: str(row.get("scene_token")) for token, row in samples.items()}

    @cached_property
    def _of_labels(self) -> dict[str, str]:
        """Sample's token -> scene, from the folders of labels."""
        folders = [
            path for kind in ("gts", "openocc_v2") for path in self._root.glob(f"{kind}/*/*")
        ]
        return {path.name: path.parent.name for path in folders}


def _pose(entry: Info, name: str) -> Float64:
    """(4, 4) pose from ``<name>_translation`` and ``<name>_rotation``, a quaternion w, x, y, z."""
    w, x, y, z = entry[f"{name}_rotation"]
    return matrix_from_pose(entry[f"{name}_translation"], (x, y, z, w))


def _matrix(entry: Info, name: str) -> Float64:
    matrix = np.array(entry[name], dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise ValueError(f"{name} has shape {matrix.shape}, expected a finite 4x4 matrix")
    return matrix
