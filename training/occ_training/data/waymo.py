"""Index of the frames of a Waymo folder, as used for the released Occ3D-Waymo models.

    <root>/image_<k>/<number>.{jpg,png}   five cameras, number = split * 10^6 + scene * 1000 + frame
    <root>/velodyne/<number>.bin          points: x, y, z, intensity, elongation, time
    <labels>/<scene>/<frame>_04.npz       Occ3D-Waymo, three digits each
    a pickle pose[scene][frame][camera]   intrinsics, sensor2ego, ego2global

Pose list and folders number cameras 2 and 3 differently: the images of pose 2 are in folder 3 and
vice versa. Points are in the ego frame. The files have no stamps; frames are assumed to be 0.1 s
apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from occ_perception.models.card import WAYMO_CAMERAS
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import LABEL_FORMATS
from occ_training.data.records import (
    CameraRecord,
    DatasetError,
    DatasetHeader,
    FrameRecord,
    LidarRecord,
)

IMAGE_FOLDER_OF_CAMERA = (0, 1, 3, 2, 4)
"""Number of the image folder of each camera of the model card."""

LIDAR_COLUMNS = ("x", "y", "z", "intensity", "elongation", "time")
FRAME_SPACING_NS = 100_000_000
REFERENCE_CAMERA = "CAM_FRONT"

_FRONT_SIZE = (1920, 1280)
_SIDE_SIZE = (1920, 886)
_SUFFIXES = (".jpg", ".jpeg", ".png")


def index_from_waymo(
    root: str | Path,
    poses: Any,
    labels: str | Path | None = None,
    scenes: Iterable[str] | None = None,
    numbers: Iterable[int] | None = None,
) -> DatasetIndex:
    """Frames of a Waymo folder.

    Args:
        root: folder with ``image_0`` to ``image_4`` (and ``velodyne``).
        poses: content of the pose pickle.
        labels: folder of the Occ3D-Waymo labels; None without labels.
        scenes: three-digit numbers of the scenes to use; None = all.
        numbers: the frames to use (``image_idx`` of an info file); None = those of ``image_0``.

    Raises:
        DatasetError: no images, no such scene, or a frame without poses.
    """
    folder = Path(root)
    suffix, found = _images(folder)
    wanted = sorted(found if numbers is None else numbers)
    chosen = None if scenes is None else set(scenes)
    known = {_scene_name(number) for number in wanted}
    unknown = sorted((chosen or set()) - known)
    if unknown:
        raise DatasetError(
            f"no scene {', '.join(unknown)} in {folder}; it has {len(known)}, "
            f"e.g. {', '.join(sorted(known)[:10])}"
        )
    labels_path = None if labels is None else os.path.relpath(labels, folder)
    sizes = {k: _image_size(folder / f"image_{k}", suffix, wanted) for k in IMAGE_FOLDER_OF_CAMERA}
    frames = [
        _frame(number, poses, suffix, sizes, labels_path, points=(folder / "velodyne").is_dir())
        for number in wanted
        if chosen is None or _scene_name(number) in chosen
    ]
    header = DatasetHeader(
        name="Occ3D-Waymo",
        cameras=WAYMO_CAMERAS,
        label_sets={} if labels is None else {"waymo": LABEL_FORMATS["waymo"]},
        ego_frame="vehicle",
        source={"stamps": "frame number times 0.1 s"},
    )
    return DatasetIndex(folder, header, tuple(frames))


def _frame(
    number: int,
    poses: Any,
    suffix: str,
    sizes: dict[int, tuple[int, int]],
    labels: str | None,
    points: bool,
) -> FrameRecord:
    scene, frame = _scene_of(number), number % 1000
    stamp_ns = frame * FRAME_SPACING_NS
    cameras = {}
    for position, (name, folder) in enumerate(
        zip(WAYMO_CAMERAS, IMAGE_FOLDER_OF_CAMERA, strict=True)
    ):
        pose = _pose_entry(poses, scene, frame, position)
        cameras[name] = CameraRecord(
            image=f"image_{folder}/{number:07d}{suffix}",
            stamp_ns=stamp_ns,
            K=_matrix(pose, "intrinsics", number)[:3, :3],
            width=sizes[folder][0],
            height=sizes[folder][1],
            ego_T_cam=_matrix(pose, "sensor2ego", number),
            world_T_ego=_matrix(pose, "ego2global", number),
        )
    lidar = LidarRecord(
        points=f"velodyne/{number:07d}.bin" if points else None,
        columns=LIDAR_COLUMNS,
        stamp_ns=stamp_ns,
        ego_T_lidar=np.eye(4),
        world_T_ego=cameras[REFERENCE_CAMERA].world_T_ego,
    )
    files = {} if labels is None else {"waymo": f"{labels}/{scene:03d}/{frame:03d}_04.npz"}
    return FrameRecord(
        token=f"{number:07d}",
        sequence=_scene_name(number),
        stamp_ns=stamp_ns,
        reference_camera=REFERENCE_CAMERA,
        cameras=cameras,
        lidar=lidar,
        labels=files,
        source={"image_idx": number},
    )


def _scene_of(number: int) -> int:
    return number % 1_000_000 // 1000


def _scene_name(number: int) -> str:
    return f"{_scene_of(number):03d}"


def _images(root: Path) -> tuple[str, list[int]]:
    """Suffix and numbers of the images of the front camera."""
    for suffix in _SUFFIXES:
        names = [file.stem for file in (root / "image_0").glob(f"*{suffix}")]
        numbers = [int(name) for name in names if name.isdigit()]
        if numbers:
            return suffix, numbers
    raise DatasetError(
        f"no numbered images in {root / 'image_0'}; expected a folder with image_0 to image_4, "
        "such as training or validation of the converted Waymo set"
    )


def _image_size(folder: Path, suffix: str, numbers: list[int]) -> tuple[int, int]:
    """(width, height) of a camera's images, from the first file that exists."""
    files = (folder / f"{number:07d}{suffix}" for number in numbers)
    first = next((file for file in files if file.is_file()), None)
    try:
        with Image.open(first or "") as image:
            return image.width, image.height
    except OSError:
        return _SIDE_SIZE if folder.name in ("image_3", "image_4") else _FRONT_SIZE


def _pose_entry(poses: Any, scene: int, frame: int, camera: int) -> Mapping[str, Any]:
    entry = poses
    for what, key in (("scene", scene), ("frame", frame), ("camera", camera)):
        entry = _lookup(entry, key)
        if entry is None:
            raise DatasetError(f"the pose file has no {what} {key} (scene {scene}, frame {frame})")
    if not isinstance(entry, Mapping):
        raise DatasetError(
            f"pose of scene {scene}, frame {frame}, camera {camera} is a "
            f"{type(entry).__name__}, expected intrinsics, sensor2ego and ego2global"
        )
    return entry


def _lookup(container: Any, key: int) -> Any:
    """An entry of a list or of a dict with keys 7, "7" or "007"."""
    if isinstance(container, Mapping):
        return next((container[k] for k in (key, str(key), f"{key:03d}") if k in container), None)
    in_range = isinstance(container, (list, tuple)) and key < len(container)
    return container[key] if in_range else None


def _matrix(pose: Mapping[str, Any], name: str, number: int) -> NDArray[np.float64]:
    if name not in pose:
        raise DatasetError(f"frame {number:07d}: pose without {name}; it has {', '.join(pose)}")
    return np.array(pose[name], dtype=np.float64)


def image_numbers(infos: Any) -> list[int]:
    """The frames of an info file, in its order.

    Raises:
        DatasetError: it is not such a list.
    """
    rows = infos.get("infos", ()) if isinstance(infos, Mapping) else infos
    try:
        return [int(row["image"]["image_idx"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"is not a Waymo info file: expected a list of infos with image.image_idx ({error})"
        ) from error
