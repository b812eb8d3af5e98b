"""Builds nuScenes folders in the devkit's format: drawn scenes for any machine, and the real one.

``drawn_scene`` needs nothing; ``real_scene`` copies images from the folder that OCC_SHARED names.
Both return the readings that went in, in the order of time, for tests to compare with.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from occ_perception.geometry import matrix_from_pose, pose_from_matrix
from occ_perception.sensing.calibration import load_rig

VERSION = "v1.0-mini"
# Offsets to the lidar stamp, measured on real keyframes.
OFFSETS_US = {
    "CAM_FRONT_LEFT": -43_000,
    "CAM_FRONT": -35_000,
    "CAM_FRONT_RIGHT": -27_000,
    "CAM_BACK_RIGHT": -20_000,
    "CAM_BACK": -10_000,
    "CAM_BACK_LEFT": -400,
}
SWEEP_PERIOD_US = 83_333
START_US = 1_533_151_603_547_590


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """One camera file and its records."""

    channel: str
    stamp_us: int
    sample: int
    is_key_frame: bool
    jpeg: bytes
    size: tuple[int, int]
    K: np.ndarray
    ego_T_cam: np.ndarray
    world_T_ego: np.ndarray

    @property
    def stamp_ns(self) -> int:
        return self.stamp_us * 1000

    @property
    def filename(self) -> str:
        folder = "samples" if self.is_key_frame else "sweeps"
        return f"{folder}/{self.channel}/n000__{self.channel}__{self.stamp_us}.jpg"


def drawn_scene(
    root: Path,
    scene: str = "scene-0001",
    keyframes: int = 3,
    with_sweeps: bool = True,
    size: tuple[int, int] = (160, 90),
    start_us: int = START_US,
    lidar: bool = False,
) -> list[DrawnImage]:
    """The folder of a vehicle that drives a bend."""
    images = drawn_images(keyframes, with_sweeps, size, start_us)
    write_folder(root, scene, images, sample_stamps_us=None, lidar=lidar)
    return images


def drawn_images(
    keyframes: int = 3,
    with_sweeps: bool = True,
    size: tuple[int, int] = (160, 90),
    start_us: int = START_US,
) -> list[DrawnImage]:
    """Images in the order of time, all different; K is scaled from the nominal rig."""
    rig = load_rig("nuscenes")
    per_keyframe = 6 if with_sweeps else 1
    # The keyframe comes last among the images that refer to it, as in the data set.
    count = (keyframes - 1) * per_keyframe + 1
    images = []
    for step in range(count):
        sample = -(-step // per_keyframe)
        spin_us = start_us + step * (SWEEP_PERIOD_US if with_sweeps else 500_000)
        for channel, offset in OFFSETS_US.items():
            stamp = spin_us + offset
            camera = rig.camera(channel)
            K = np.diag([size[0] / camera.width, size[1] / camera.height, 1.0]) @ camera.K
            images.append(
                DrawnImage(
                    channel=channel,
                    stamp_us=stamp,
                    sample=sample,
                    is_key_frame=step % per_keyframe == 0,
                    jpeg=draw(size, seed=len(images)),
                    size=size,
                    K=K,
                    ego_T_cam=camera.ego_T_cam,
                    world_T_ego=drive((stamp - start_us) / 1e6),
                )
            )
    return sorted(images, key=lambda image: image.stamp_us)


def real_scene(root: Path, shared_dir: Path) -> list[DrawnImage]:
    """The four keyframes of scene-0103, six cameras each."""
    source = shared_dir / "data" / "nuscenes-scene0103-seq4"
    frames = json.loads((source / "frames.json").read_text())["frames"]
    images = [
        DrawnImage(
            channel=channel,
            stamp_us=camera["timestamp_us"],
            sample=index,
            is_key_frame=True,
            jpeg=(source / camera["file"]).read_bytes(),
            size=(camera["width"], camera["height"]),
            K=np.array(camera["K"]),
            ego_T_cam=np.array(camera["cam2ego"]),
            world_T_ego=np.array(camera["ego2global"]),
        )
        for index, frame in enumerate(frames)
        for channel, camera in frame["cams"].items()
    ]
    stamps = [frame["timestamp_us"] for frame in frames]
    tokens = [frame["token"] for frame in frames]
    write_folder(root, "scene-0103", images, stamps, sample_tokens=tokens)
    return sorted(images, key=lambda image: image.stamp_us)


def drive(seconds: float) -> np.ndarray:
    """``world_T_ego`` of a bend at 8 m/s, far from the map's origin as in the data set."""
    turn = 0.1 * seconds
    position = [600 + 80 * np.sin(turn), 1647 + 80 * (1 - np.cos(turn)), 0.0]
    rotation = Rotation.from_euler("zyx", [turn, 0.01, -0.005])
    return matrix_from_pose(position, rotation.as_quat())


def draw(size: tuple[int, int], seed: int) -> bytes:
    """An image with edges and texture, different for every seed."""
    width, height = size
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 / width, y * 255 / height, (x + y + 40 * seed) % 256], axis=-1)
    for _ in range(4):
        left, top = rng.integers(0, width - 12), rng.integers(0, height - 12)
        rgb[top : top + 10, left : left + 10] = rng.integers(0, 256, 3)
    file = io.BytesIO()
    Image.fromarray(rgb.astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def write_folder(
    root: Path,
    scene: str,
    images: list[DrawnImage],
    sample_stamps_us: list[int] | None,
    sample_tokens: list[str] | None = None,
    lidar: bool = False,
) -> None:
    """Write tables and files; another call with another scene adds to the folder."""
    samples = sorted({image.sample for image in images})
    stamps = sample_stamps_us or [
        max(p.stamp_us for p in images if p.sample == k and p.is_key_frame) for k in samples
    ]
    tokens = sample_tokens or [token(scene, "sample", k) for k in samples]
    tables: dict[str, list[dict]] = {
        "scene": [
            {
                "token": token(scene),
                "name": scene,
                "nbr_samples": len(samples),
                "first_sample_token": tokens[0],
                "last_sample_token": tokens[-1],
                "log_token": "",
                "description": "",
            }
        ],
        "sample": [
            {"token": tokens[k], "timestamp": stamps[k], "scene_token": token(scene)}
            | {"prev": tokens[k - 1] if k else "", "next": [*tokens, ""][k + 1]}
            for k in samples
        ],
        "sensor": [],
        "calibrated_sensor": [],
        "sample_data": [],
        "ego_pose": [],
    }
    for channel in sorted({image.channel for image in images}):
        first = next(image for image in images if image.channel == channel)
        _add_sensor(tables, scene, channel, "camera", first.ego_T_cam, first.K.tolist())
    for image in images:
        file = root / image.filename
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image.jpeg)
        _add_data(tables, scene, image, tokens[image.sample])
    if lidar:
        _add_sensor(tables, scene, "LIDAR_TOP", "lidar", load_rig("nuscenes").ego_T_lidar, [])
        keyframes = [p for p in images if p.is_key_frame and p.channel == "CAM_BACK_LEFT"]
        for image in keyframes:
            sweep = replace(image, channel="LIDAR_TOP", size=(0, 0))
            _add_data(tables, scene, sweep, tokens[image.sample], "pcd")
            points = np.random.default_rng(image.sample).normal(size=(50, 5)).astype("<f4")
            path = root / tables["sample_data"][-1]["filename"]
            path.parent.mkdir(parents=True, exist_ok=True)
            points.tofile(path)
    (root / VERSION).mkdir(parents=True, exist_ok=True)
    for name, records in tables.items():
        path = root / VERSION / f"{name}.json"
        there = json.loads(path.read_text()) if path.exists() else []
        path.write_text(json.dumps(there + records))


def token(*parts: object) -> str:
    return hashlib.md5("/".join(map(str, parts)).encode()).hexdigest()


def _add_sensor(
    tables: dict, scene: str, channel: str, modality: str, ego_T_sensor: np.ndarray, K: list
) -> None:
    sensor = token(scene, "sensor", channel)
    tables["sensor"].append({"token": sensor, "channel": channel, "modality": modality})
    tables["calibrated_sensor"].append(
        {
            "token": token(scene, "calibrated_sensor", channel),
            "sensor_token": sensor,
            **_pose(ego_T_sensor),
            "camera_intrinsic": K,
        }
    )


def _add_data(tables: dict, scene: str, image: DrawnImage, sample: str, kind: str = "jpg") -> None:
    data = token(scene, "sample_data", image.channel, image.stamp_us)
    is_image = kind == "jpg"
    tables["ego_pose"].append(
        {"token": data, "timestamp": image.stamp_us, **_pose(image.world_T_ego)}
    )
    tables["sample_data"].append(
        {
            "token": data,
            "sample_token": sample,
            "ego_pose_token": data,
            "calibrated_sensor_token": token(scene, "calibrated_sensor", image.channel),
            "timestamp": image.stamp_us,
            "fileformat": kind,
            "is_key_frame": image.is_key_frame,
            "width": image.size[0] if is_image else 0,
            "height": image.size[1] if is_image else 0,
            "filename": image.filename if is_image else image.filename.replace(".jpg", ".pcd.bin"),
            "prev": "",
            "next": "",
        }
    )


def _pose(matrix: np.ndarray) -> dict[str, list[float]]:
    translation, (x, y, z, w) = pose_from_matrix(matrix)
    return {"translation": translation.tolist(), "rotation": [float(v) for v in (w, x, y, z)]}
