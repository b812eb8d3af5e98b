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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from occ_perception.models.card import WAYMO_CAMERAS
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex
from occ_training.data.index_builder import IndexBuilder
from occ_training.data.records import CameraRecord, DatasetError, FrameRecord, LidarRecord

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
    report: CheckReport | None = None,
) -> DatasetIndex:
    """Frames of a Waymo folder.

    Args:
        root: folder with ``image_0`` to ``image_4`` (and ``velodyne``).
        poses: content of the pose pickle.
        labels: folder of the Occ3D-Waymo labels; None without labels.
        scenes: three-digit numbers of the scenes to use; None = all.
        numbers: the frames to use (``image_idx`` of an info file); None = those of ``image_0``.
        report: takes poses that cannot be used, and what is left out because of them; without one,
            the first is an error.

    Raises:
        DatasetError: no images, no such scene, or no frame can be used.
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
    wanted = [n for n in wanted if chosen is None or _scene_name(n) in chosen]
    builder = IndexBuilder("Occ3D-Waymo", folder, WAYMO_CAMERAS, report, ego_frame="vehicle")
    if report is not None:
        report.frames = len(wanted)
    frames = _Frames(poses, suffix, sizes, labels_path, points=(folder / "velodyne").is_dir())
    for number in wanted:
        scene, token = _scene_name(number), _token(number)
        cameras = {
            name: builder.entry(name, scene, token, partial(frames.camera, number, position))
            for position, name in enumerate(WAYMO_CAMERAS)
        }
        usable = {name: camera for name, camera in cameras.items() if camera is not None}
        if REFERENCE_CAMERA in usable:
            builder.add(frames.frame(number, usable))
        else:
            builder.leave_out(scene, token)
    source = {"stamps": "frame number times 0.1 s"}
    return builder.index(source, order=lambda frame: frame.token)


class _Frames:
    """The frames of a folder.

    Args:
        poses: content of the pose pickle.
        suffix: of the images.
        sizes: number of the image folder -> (width, height).
        labels: folder of the labels, relative to the root; None without.
        points: whether there are sweeps.
    """

    def __init__(
        self,
        poses: Any,
        suffix: str,
        sizes: Mapping[int, tuple[int, int]],
        labels: str | None,
        points: bool,
    ) -> None:
        self._poses, self._suffix, self._sizes = poses, suffix, sizes
        self._labels, self._points = labels, points

    def camera(self, number: int, position: int) -> CameraRecord:
        """The image of a camera; raises DatasetError without usable poses."""
        pose = _pose_entry(self._poses, _scene_of(number), number % 1000, position)
        folder = IMAGE_FOLDER_OF_CAMERA[position]
        return CameraRecord(
            image=f"image_{folder}/{_token(number)}{self._suffix}",
            stamp_ns=_stamp_ns(number),
            K=_matrix(pose, "intrinsics", number)[:3, :3],
            width=self._sizes[folder][0],
            height=self._sizes[folder][1],
            ego_T_cam=_matrix(pose, "sensor2ego", number),
            world_T_ego=_matrix(pose, "ego2global", number),
        )

    def frame(self, number: int, cameras: Mapping[str, CameraRecord]) -> FrameRecord:
        """A frame of these cameras."""
        scene, token = _scene_of(number), _token(number)
        lidar = LidarRecord(
            points=f"velodyne/{token}.bin" if self._points else None,
            columns=LIDAR_COLUMNS,
            stamp_ns=_stamp_ns(number),
            ego_T_lidar=np.eye(4),
            world_T_ego=cameras[REFERENCE_CAMERA].world_T_ego,
        )
        label = f"{self._labels}/{scene:03d}/{number % 1000:03d}_04.npz"
        return FrameRecord(
            token=token,
            sequence=_scene_name(number),
            stamp_ns=_stamp_ns(number),
            reference_camera=REFERENCE_CAMERA,
            cameras=cameras,
            lidar=lidar,
            labels={} if self._labels is None else {"waymo": label},
            source={"image_idx": number},
        )


def _stamp_ns(number: int) -> int:
    return number % 1000 * FRAME_SPACING_NS


def _token(number: int) -> str:
    return f"{number:07d}"


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
    try:
        matrix = np.array(pose[name], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"frame {number:07d}: {name} is no matrix: {error}") from error
    if matrix.ndim != 2 or min(matrix.shape) < 3:
        raise DatasetError(f"frame {number:07d}: {name} has shape {matrix.shape}, expected (4, 4)")
    return matrix


def image_numbers(infos: Any) -> list[int]:
    """The frames of an info file, in its order.

    Raises:
        DatasetError: it is not such a list.
    """
    rows = infos.get("infos", ()) if isinstance(infos, Mapping) else infos
    try:
        return [int(row["image"]["image_idx"]) for row in rows]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"is not a Waymo info file: expected a list of infos with image.image_idx ({error})"
        ) from error
