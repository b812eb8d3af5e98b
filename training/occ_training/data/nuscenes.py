"""Index of the frames of a nuScenes folder, or of a folder of the synthetic town.

Reads the devkit's JSON tables, or the info pickles that public code bases share. Labels are
expected where the sets unpack them:

    gts/<scene>/<token>/labels.npz                                Occ3D
    openocc_v2/<scene>/<token>/labels.npz                         OpenOcc v2.1
    openocc_v2_ray_mask/<scene>/<token>/labels.npz                OpenOcc ray mask
    gts_surroundocc/samples/<name of the sweep>.npy               SurroundOcc
    nuScenes-Occupancy-v0.1/scene_<token>/occupancy/<token>.npy   OpenOccupancy v0.1
    lidar_seg/<name of the sweep>.npz                             Occ3D class per point
    lidarseg/<version>/<token>_lidarseg.bin                       general class per point
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from occ_perception.bags.nuscenes import LIDAR_CHANNEL, NuScenesTables, pose_of
from occ_perception.geometry import matrix_from_pose
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import LABEL_FORMATS
from occ_training.data.records import (
    CameraRecord,
    DatasetError,
    DatasetHeader,
    FrameRecord,
    LidarRecord,
)

REFERENCE_CAMERA = "CAM_FRONT"
LIDAR_COLUMNS = ("x", "y", "z", "intensity", "ring")
NATIVE_SIZE = (1600, 900)

Row = dict[str, Any]


def index_from_tables(
    root: str | Path, version: str, scenes: Iterable[str] | None = None
) -> DatasetIndex:
    """Key frames of a devkit folder.

    Args:
        root: folder with the tables folder and ``samples``.
        version: name of the tables folder.
        scenes: names; None = all.

    Raises:
        NuScenesError: no such tables, or they are incomplete.
        DatasetError: a scene does not exist, or the tables contradict each other.
    """
    folder = Path(root)
    tables = NuScenesTables(folder, version)
    wanted = _wanted_scenes(tables.read("scene"), scenes, folder / version)
    samples = tables.by_token("sample", where=lambda r: r["scene_token"] in wanted)
    sensors, mounts = tables.by_token("sensor"), tables.by_token("calibrated_sensor")
    readings: dict[str, dict[str, Row]] = defaultdict(dict)
    key_frames = tables.read(
        "sample_data", where=lambda r: r["is_key_frame"] and r["sample_token"] in samples
    )
    for row in key_frames:
        channel = sensors[mounts[row["calibrated_sensor_token"]]["sensor_token"]]["channel"]
        if channel in (*NUSCENES_CAMERAS, LIDAR_CHANNEL):
            readings[row["sample_token"]][channel] = row
    used = {row["ego_pose_token"] for row in key_frames}
    poses = tables.by_token("ego_pose", where=lambda r: r["token"] in used)
    point_classes = _lidarseg_files(folder, version, tables)

    frames = []
    for token, sample in samples.items():
        rows = readings[token]
        absent = [c for c in (*NUSCENES_CAMERAS, LIDAR_CHANNEL) if c not in rows]
        if absent:
            raise DatasetError(
                f"sample {token} in {folder / version} has no key frame of {', '.join(absent)}"
            )
        scene = wanted[sample["scene_token"]]
        cameras = {
            channel: _camera_of_row(rows[channel], mounts, poses) for channel in NUSCENES_CAMERAS
        }
        sweep = rows[LIDAR_CHANNEL]
        semantics, ids = point_classes(sweep["token"], sweep["filename"])
        lidar = LidarRecord(
            points=sweep["filename"],
            columns=LIDAR_COLUMNS,
            stamp_ns=int(sweep["timestamp"]) * 1000,
            ego_T_lidar=pose_of(mounts[sweep["calibrated_sensor_token"]]),
            world_T_ego=pose_of(poses[sweep["ego_pose_token"]]),
            semantics=semantics,
            semantics_ids=ids,
        )
        names = _Names(scene, token, sample["scene_token"], sweep["token"], sweep["filename"])
        source = {"version": version, "lidar_token": sweep["token"]}
        frames.append(_frame(folder, names, int(sample["timestamp"]), cameras, lidar, source))
    name = f"nuScenes {version}"
    return _in_order(folder, name, frames, {"tables": version})


def index_from_infos(root: str | Path, infos: Mapping[str, Any]) -> DatasetIndex:
    """Key frames of an info file.

    Args:
        root: folder with ``samples``; paths in the file are used from that folder on.
        infos: content of the file, see :func:`~occ_training.data.info_pickles.load_info_pickle`.

    Raises:
        DatasetError: it is not a list of infos, or a field is missing.
    """
    folder = Path(root)
    rows = infos.get("infos") if isinstance(infos, Mapping) else None
    if not isinstance(rows, list) or not rows:
        raise DatasetError("is not a nuScenes info file: it has no list of infos")
    version = str(dict(infos.get("metadata") or {}).get("version", ""))
    sizes: dict[str, tuple[int, int]] = {}
    point_classes = _lidarseg_files(folder, version, None)
    frames: list[FrameRecord] = []
    try:
        frames.extend(_frame_of_info(folder, info, sizes, point_classes) for info in rows)
    except (KeyError, TypeError, ValueError) as error:
        what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise DatasetError(f"info {len(frames)}: {what}") from error
    return _in_order(folder, f"nuScenes {version}".strip(), frames, {"infos": len(rows)})


class _Names:
    """Names of a frame, and its label files."""

    def __init__(
        self, scene: str, token: str, scene_token: str, lidar_token: str, sweep: str
    ) -> None:
        self.scene, self.token = scene, token
        self.label_files = {
            "occ3d": f"gts/{scene}/{token}/labels.npz",
            "openocc": f"openocc_v2/{scene}/{token}/labels.npz",
            "openocc_ray_mask": f"openocc_v2_ray_mask/{scene}/{token}/labels.npz",
            "surroundocc": f"gts_surroundocc/samples/{Path(sweep).name}.npy",
            "openoccupancy": (
                f"nuScenes-Occupancy-v0.1/scene_{scene_token}/occupancy/{lidar_token}.npy"
            ),
        }


_LABEL_FOLDERS = {
    "occ3d": "gts",
    "openocc": "openocc_v2",
    "openocc_ray_mask": "openocc_v2_ray_mask",
    "surroundocc": "gts_surroundocc",
    "openoccupancy": "nuScenes-Occupancy-v0.1",
}


def _frame(
    root: Path,
    names: _Names,
    stamp_us: int,
    cameras: dict[str, CameraRecord],
    lidar: LidarRecord,
    source: dict[str, Any],
) -> FrameRecord:
    labels = {
        key: file
        for key, file in names.label_files.items()
        if (root / _LABEL_FOLDERS[key]).is_dir()
    }
    return FrameRecord(
        token=names.token,
        sequence=names.scene,
        stamp_ns=stamp_us * 1000,
        reference_camera=REFERENCE_CAMERA,
        cameras=cameras,
        lidar=lidar,
        labels=labels,
        source=source,
    )


def _in_order(
    root: Path, name: str, frames: list[FrameRecord], source: dict[str, Any]
) -> DatasetIndex:
    """An index with the scenes ordered by their first frame, each in time order."""
    scenes: dict[str, list[FrameRecord]] = defaultdict(list)
    for frame in sorted(frames, key=lambda f: (f.stamp_ns, f.token)):
        scenes[frame.sequence].append(frame)
    keys = {key for frame in frames for key in frame.labels}
    header = DatasetHeader(
        name=name,
        cameras=NUSCENES_CAMERAS,
        label_sets={
            key: label_format for key, label_format in LABEL_FORMATS.items() if key in keys
        },
        ego_frame="ego",
        source=source,
    )
    return DatasetIndex(root, header, tuple(f for scene in scenes.values() for f in scene))


def _wanted_scenes(rows: list[Row], scenes: Iterable[str] | None, where: Path) -> dict[str, str]:
    """Token -> name of the requested scenes."""
    by_name = {row["name"]: row["token"] for row in rows}
    names = list(by_name) if scenes is None else list(scenes)
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        few = ", ".join(sorted(by_name)[:10])
        raise DatasetError(
            f"no scene {', '.join(unknown[:10]) or '(none requested)'} in {where}; it has "
            f"{len(by_name)}: {few}{', ...' if len(by_name) > 10 else ''}"
        )
    return {by_name[name]: name for name in names}


def _camera_of_row(row: Row, mounts: Mapping[str, Row], poses: Mapping[str, Row]) -> CameraRecord:
    mount = mounts[row["calibrated_sensor_token"]]
    return CameraRecord(
        image=row["filename"],
        stamp_ns=int(row["timestamp"]) * 1000,
        K=np.array(mount["camera_intrinsic"], dtype=np.float64),
        width=int(row["width"]),
        height=int(row["height"]),
        ego_T_cam=pose_of(mount),
        world_T_ego=pose_of(poses[row["ego_pose_token"]]),
    )


PointClasses = Callable[[str, str], tuple[str | None, str]]


def _lidarseg_files(root: Path, version: str, tables: NuScenesTables | None) -> PointClasses:
    """A function from token and file of a sweep to the file of its point classes and their ids."""
    if (root / "lidar_seg").is_dir():
        return lambda _token, sweep: (
            f"lidar_seg/{Path(sweep).name.split('.')[0]}.npz",
            "occ3d",
        )
    if tables is not None and (root / version / "lidarseg.json").is_file():
        files = {r["sample_data_token"]: r["filename"] for r in tables.read("lidarseg")}
        return lambda token, _sweep: (files.get(token), "lidarseg")
    if version and (root / "lidarseg" / version).is_dir():
        return lambda token, _sweep: (f"lidarseg/{version}/{token}_lidarseg.bin", "lidarseg")
    return lambda _token, _sweep: (None, "occ3d")


# -- info files ----------------------------------------------------------------------------------


def _frame_of_info(
    root: Path, info: Row, sizes: dict[str, tuple[int, int]], point_classes: PointClasses
) -> FrameRecord:
    cameras = {}
    for channel in NUSCENES_CAMERAS:
        camera = info["cams"][channel]
        image = _below_root(camera["data_path"])
        if channel not in sizes:
            sizes[channel] = _image_size(root / image)
        width, height = sizes[channel]
        cameras[channel] = CameraRecord(
            image=image,
            stamp_ns=int(camera["timestamp"]) * 1000,
            K=np.array(camera["cam_intrinsic"], dtype=np.float64),
            width=width,
            height=height,
            ego_T_cam=_info_pose(camera, "sensor2ego"),
            world_T_ego=_info_pose(camera, "ego2global"),
        )
    sweep = _below_root(info["lidar_path"])
    lidar_token = str(info.get("lidar_token", ""))
    semantics, ids = point_classes(lidar_token, sweep) if lidar_token else (None, "occ3d")
    lidar = LidarRecord(
        points=sweep,
        columns=LIDAR_COLUMNS,
        stamp_ns=int(info["timestamp"]) * 1000,
        ego_T_lidar=_info_pose(info, "lidar2ego"),
        world_T_ego=_info_pose(info, "ego2global"),
        semantics=semantics,
        semantics_ids=ids,
    )
    scene, token = str(info["scene_name"]), str(info["token"])
    names = _Names(scene, token, str(info.get("scene_token", "")), lidar_token, sweep)
    return _frame(root, names, int(info["timestamp"]), cameras, lidar, {"lidar_token": lidar_token})


def _info_pose(record: Row, name: str) -> NDArray[np.float64]:
    w, x, y, z = record[f"{name}_rotation"]
    return matrix_from_pose(record[f"{name}_translation"], (x, y, z, w))


def _below_root(path: str) -> str:
    """A path such as ``./data/nuscenes/samples/…``, relative to our root."""
    parts = Path(path).parts
    for folder in ("samples", "sweeps"):
        if folder in parts:
            return "/".join(parts[parts.index(folder) :])
    raise ValueError(f"path {path} has no folder samples or sweeps")


def _image_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image; the size of nuScenes if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return image.width, image.height
    except OSError:
        return NATIVE_SIZE
