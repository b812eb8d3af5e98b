"""A drive for measuring: any number of frame sets from a seed, at a model's native image size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig, LidarPoints
from occ_perception.models.card import ModelCard

# Different images in memory; a drive goes round them. Enough that no cache holds them all.
_IMAGE_SETS = 4
_SPEED_MPS = 8.0
_POINTS = 32_000
_DEFAULT_SPACING_S = 0.5


def random_rig(card: ModelCard) -> CameraRig:
    """Cameras that look all around, with the focal length of nuScenes at the native size."""
    height, width = card.preprocessing.native_size
    K = np.array([[0.79 * width, 0, width / 2], [0, 0.79 * width, height / 2], [0, 0, 1]])
    optical = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego axes from camera axes
    cameras = []
    for number, name in enumerate(card.cameras):
        yaw = 2 * np.pi * number / len(card.cameras)
        turn = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
        ego_T_cam = np.eye(4)
        ego_T_cam[:3, :3] = turn @ optical
        ego_T_cam[:3, 3] = (1.0, 0.0, 1.5)
        cameras.append(CameraCalibration(name, width, height, K, ego_T_cam))
    return CameraRig(tuple(cameras), ego_T_lidar=np.eye(4))


def random_frames(card: ModelCard, count: int, seed: int = 0) -> Iterator[CameraFrame]:
    """A straight drive at 8 m/s whose frame sets are as far apart as the model's history is.

    Images are coloured noise, smooth over some pixels and rough over one: no value repeats in a
    way that arithmetic could profit from.
    """
    rig = random_rig(card)
    rng = np.random.default_rng(seed)
    sets = [
        {camera.name: _image(rng, camera.height, camera.width) for camera in rig.cameras}
        for _ in range(min(_IMAGE_SETS, count))
    ]
    points = _sweep(rng)
    spacing_s = card.history_spacing_s or _DEFAULT_SPACING_S
    for number in range(count):
        world_T_ego = np.eye(4)
        world_T_ego[0, 3] = _SPEED_MPS * spacing_s * number
        yield CameraFrame(
            rig=rig,
            images=sets[number % len(sets)],
            stamps_ns=dict.fromkeys(rig.names, round(number * spacing_s * 1e9)),
            world_T_ego=dict.fromkeys(rig.names, world_T_ego),
            reference_camera=card.reference_camera,
            lidar=LidarPoints(round(number * spacing_s * 1e9), points, world_T_ego)
            if card.measures_depth
            else None,
        )


def _sweep(rng: np.random.Generator) -> np.ndarray:
    """As many points as a lidar of 32 beams has, all around, (n, 3) in ego."""
    azimuth = rng.uniform(0, 2 * np.pi, _POINTS)
    distance, height = rng.uniform(2, 60, _POINTS), rng.uniform(-1, 4, _POINTS)
    return np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height])


def _image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    coarse = rng.integers(0, 192, (-(-height // 32), -(-width // 32), 3), dtype=np.uint8)
    image = coarse.repeat(32, axis=0).repeat(32, axis=1)[:height, :width]
    return image + rng.integers(0, 64, image.shape, dtype=np.uint8)
