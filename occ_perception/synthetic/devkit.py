"""Writes drives as a folder in the nuScenes devkit's format, with Occ3D and OpenOcc label files.

Converters, data set code and evaluation read it like the real data set:

    ROOT/<version>/*.json                      the devkit's tables, all drives of the folder merged
    ROOT/samples/<CHANNEL>/*.jpg, *.pcd.bin    keyframes
    ROOT/lidarseg/<version>/*_lidarseg.bin     one general class id per point
    ROOT/gts/<scene>/<token>/labels.npz        Occ3D: semantics, mask_lidar, mask_camera
    ROOT/openocc_v2/<scene>/<token>/labels.npz OpenOcc: semantics, instances, flow
    ROOT/maps/<town>.png                       driveable and footway raster
    ROOT/town/<scene>/                         records of each frame; drive.json = complete

Labels are in the ego frame at the lidar's time, as in the real data sets; positions are relative to
the lower left corner of the map and its masks. Files are written atomically, so an interrupted run
can be continued. The devkit refuses a folder with lidarseg files that its tables lack; those of a
drive therefore stay with its records until the drive is complete.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from occ_perception.atomic import write_whole
from occ_perception.geometry import matrix_from_pose, pose_from_matrix
from occ_perception.synthetic.devkit_tables import GENERAL_ID, merge_tables, static_records
from occ_perception.synthetic.drive import Scene
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.labels import OccupancyLabels, openocc_labels
from occ_perception.synthetic.provenance import check_folder, provenance_of
from occ_perception.synthetic.recording import encode_jpeg
from occ_perception.synthetic.sensors import DriveSensors, frame_times

VERSION = "v1.0-town"
KEYFRAME_RATE = 2.0
_ANNOTATION_RANGE = 60.0
_MAP_ORIGIN = np.array([-columns.HALF_TOWN, -columns.HALF_TOWN, 0.0])


def token_of(*parts: object) -> str:
    """A token of 32 hexadecimal digits from names, the same in every run."""
    return hashlib.sha256("/".join(str(part) for part in parts).encode()).hexdigest()[:32]


def write_devkit_drive(
    sensors: DriveSensors,
    root: Path,
    frames: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a drive's keyframes into the folder, and merge the tables of all its drives.

    Args:
        sensors: the drive's sensors.
        root: folder; created if missing, may hold other drives.
        frames: number of keyframes, at 2 Hz.
        progress: called with (frames done, number of frames).

    Raises:
        OptionError: a drive has fewer frames.
        OutputError: the folder holds this drive with other options, or a file could not be written;
            existing files stay usable, and a later run continues.
    """
    write_devkit_frames(sensors, root, frames, progress)
    merge_devkit_drives(root)


def write_devkit_frames(
    sensors: DriveSensors,
    root: Path,
    frames: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """:func:`write_devkit_drive` without the tables; may run in several processes at once."""
    with _alone(root / "town" / sensors.drive.name):
        _write_frames(sensors, root, frames, progress)


def _write_frames(
    sensors: DriveSensors,
    root: Path,
    frames: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    times = frame_times(frames, KEYFRAME_RATE)
    records = root / "town" / sensors.drive.name
    provenance = provenance_of(sensors.options, frames, origin=_MAP_ORIGIN.tolist())
    check_folder(records, provenance)
    write_whole(records / "provenance.json", json.dumps(provenance).encode())
    for n, t in enumerate(times):
        done = records / f"frame-{n:03d}.json"
        if not done.exists():
            record = _write_frame(sensors, root, n, t)
            write_whole(done, json.dumps(record).encode())
        if progress is not None:
            progress(n + 1, frames)
    drive = static_records(sensors, token_of)
    drive["frames"] = frames
    with _alone(root / "town"):
        _write_map(sensors, root)
    write_whole(records / "drive.json", json.dumps(drive).encode())


def merge_devkit_drives(root: Path) -> None:
    """Rebuild the devkit's tables from all complete drives of the folder.

    Lidarseg files of the drives are moved to their final places at the same time.

    A lock admits one process at a time, so that tables from a merge that started before a drive was
    complete cannot replace newer ones.
    """
    with _alone(root / "town"):
        for drive in (root / "town").glob("*/drive.json"):
            for file in drive.parent.glob("lidarseg/*.bin"):
                file.replace(_made(root / "lidarseg" / VERSION) / file.name)
        for name, rows in merge_tables(root, token_of).items():
            write_whole(root / VERSION / f"{name}.json", json.dumps(rows, indent=0).encode())


def _write_frame(sensors: DriveSensors, root: Path, n: int, t: float) -> dict[str, Any]:
    """Write the files of one keyframe; returns its table rows."""
    drive = sensors.drive
    frame = sensors.frame(t)
    scene = drive.scene(t)
    labels = sensors.labels(t)
    lidar = sensors.points(t)
    sample = token_of(drive.name, n)
    stamp_us = sensors.stamp_ns(t) // 1000
    rows: dict[str, Any] = {
        "sample": {"token": sample, "timestamp": stamp_us},
        "sample_data": [],
        "ego_pose": [],
        "points": {
            str(i): int(c)
            for i, c in zip(*np.unique(lidar.instances, return_counts=True), strict=True)
        },
    }

    def add(channel: str, when_us: int, pose: NDArray[np.float64], suffix: str, size: Any) -> str:
        token = token_of(drive.name, n, channel)
        name = f"samples/{channel}/{drive.name}__{channel}__{when_us}{suffix}"
        translation, rotation = quaternion_pose(pose)
        rows["ego_pose"].append(
            {
                "token": token,
                "timestamp": when_us,
                "rotation": rotation,
                "translation": _on_map(translation),
            }
        )
        rows["sample_data"].append(
            {
                "token": token,
                "sample_token": sample,
                "ego_pose_token": token,
                "calibrated_sensor_token": token_of(drive.name, "mount", channel),
                "timestamp": when_us,
                "fileformat": suffix.split(".")[1],
                "is_key_frame": True,
                "height": size[1],
                "width": size[0],
                "filename": name,
            }
        )
        return name

    for camera in sensors.rig.names:
        stamp = frame.stamps_ns[camera] // 1000
        pose = frame.world_T_ego[camera]
        name = add(camera, stamp, pose, ".jpg", sensors.options.size)
        write_whole(root / name, encode_jpeg(frame.images[camera]))
    name = add("LIDAR_TOP", stamp_us, scene.world_T_ego, ".pcd.bin", (0, 0))
    write_whole(root / name, lidar.points.astype("<f4").tobytes())
    lidar_token = rows["sample_data"][-1]["token"]
    rows["lidarseg"] = {
        "token": lidar_token,
        "sample_data_token": lidar_token,
        "filename": f"lidarseg/{VERSION}/{lidar_token}_lidarseg.bin",
    }
    waiting = root / "town" / drive.name / "lidarseg" / Path(rows["lidarseg"]["filename"]).name
    write_whole(waiting, GENERAL_ID[lidar.classes].tobytes())
    _write_labels(root, drive.name, sample, labels)
    rows["sample_annotation"] = _annotations(scene, labels, rows["points"], drive.name)
    return rows


def _write_labels(root: Path, scene: str, sample: str, labels: OccupancyLabels) -> None:
    write_whole(
        root / "gts" / scene / sample / "labels.npz",
        _npz(
            semantics=labels.semantics,
            mask_lidar=labels.mask_lidar.astype(np.uint8),
            mask_camera=labels.mask_camera.astype(np.uint8),
        ),
    )
    variant = openocc_labels(labels)
    write_whole(
        root / "openocc_v2" / scene / sample / "labels.npz",
        _npz(
            semantics=variant.semantics.astype(np.int32),
            instances=variant.instances,
            flow=variant.flow,
        ),
    )


def _annotations(
    scene: Scene, labels: OccupancyLabels, points: dict[str, int], drive: str
) -> list[dict[str, Any]]:
    """Boxes of the near instances that the lidar hits, as sample_annotation rows."""
    count = np.bincount(labels.instances.ravel(), minlength=len(scene.velocities))
    seen = np.bincount(labels.instances[labels.mask_camera], minlength=len(scene.velocities))
    rows = []
    for body in scene.bodies:
        x, y, z, yaw = body.pose
        offset = np.hypot(x - scene.world_T_ego[0, 3], y - scene.world_T_ego[1, 3])
        hits = points.get(str(body.instance), 0)
        if hits == 0 or offset > _ANNOTATION_RANGE:
            continue
        lower, upper = np.array(body.lower), np.array(body.upper)
        half_turn = (0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2))
        pose = matrix_from_pose((x, y, z), half_turn)
        middle = pose[:3, :3] @ ((lower + upper) / 2) + pose[:3, 3]
        _, rotation = quaternion_pose(pose)
        size = upper - lower
        # Cameras see at most about half of a body's voxels.
        share = 2.0 * seen[body.instance] / max(int(count[body.instance]), 1)
        rows.append(
            {
                "instance": body.instance,
                "class": body.class_id,
                "moving": bool(np.hypot(*body.velocity) > 0.2),
                "token": token_of(drive, round(scene.time * 1000), "box", body.instance),
                "visibility_token": str(1 + int(np.digitize(share, (0.4, 0.6, 0.8)))),
                "translation": _on_map(middle),
                "size": [float(size[1]), float(size[0]), float(size[2])],
                "rotation": rotation,
                "num_lidar_pts": hits,
                "num_radar_pts": 0,
            }
        )
    return rows


def quaternion_pose(pose: ArrayLike) -> tuple[list[float], list[float]]:
    """Translation and quaternion (w, x, y, z) of a matrix, as in the tables."""
    translation, (x, y, z, w) = pose_from_matrix(pose)
    return [float(value) for value in translation], [float(w), float(x), float(y), float(z)]


def _on_map(position: ArrayLike) -> list[float]:
    """A position in the town, in metres from the lower left corner of its map."""
    return [float(value) for value in np.asarray(position) - _MAP_ORIGIN]


def _write_map(sensors: DriveSensors, root: Path) -> None:
    """Write driveable ground and footways as an image of 0.1 m pixels, north up."""
    import cv2

    path = root / "maps" / f"town-{sensors.drive.town.seed:05d}.png"
    if path.exists():
        return
    axis = (np.arange(columns.SURFACE_CELLS) + 0.5) * columns.SURFACE_CELL - columns.HALF_TOWN
    x, y = np.meshgrid(axis, axis, indexing="xy")
    codes = sensors.drive.town.ground.surface_code(x, y)
    classes = columns.SURFACE_CLASS[codes]
    mask = np.isin(classes, (columns.DRIVEABLE, columns.SIDEWALK)).astype(np.uint8) * 255
    write_whole(path, bytes(cv2.imencode(".png", mask[::-1])[1]))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _npz(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock a folder for one process at a time."""
    import fcntl

    with (_made(folder) / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
