"""A small real model and moving frames, for tests of streams and their users.

The model is ALOcc-2D-mini with all weights of the full one; only images and grid are small.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig, LidarPoints
from occ_perception.models.card import ModelCard
from occ_perception.models.zoo import get_card

SMALL_MODEL = "alocc_2d_mini_small"
INPUT_SIZE = (64, 176)
IMAGE_SIZE = (400, 225)  # width, height: a quarter of the native image
_OPTICAL = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # ego axes from camera axes


def small_card(name: str = "alocc_2d_mini", rename: str = "") -> ModelCard:
    """A card of the zoo with 64x176 images and 24 x 24 columns of 2 m."""
    card = get_card(name)
    grid = card.config.geometry.grid.with_columns((24, 24), 2.0)
    return replace(card.resized(INPUT_SIZE, grid), name=rename or name)


def pose(x: float = 0.0, y: float = 0.0, yaw_deg: float = 0.0, pitch_deg: float = 0.0):
    """(4, 4) pose in the plane, optionally pitched."""
    matrix = np.eye(4)
    from scipy.spatial.transform import Rotation  # the test of the GPU script has no SciPy

    matrix[:3, :3] = Rotation.from_euler("zy", (yaw_deg, pitch_deg), degrees=True).as_matrix()
    matrix[:3, 3] = (x, y, 0.0)
    return matrix


def surround_rig(
    names: Sequence[str], image_size: tuple[int, int] = IMAGE_SIZE, lidar: bool = False
) -> CameraRig:
    """Cameras that look all around, focal length as nuScenes for the image size."""
    width, height = image_size
    K = np.array([[0.79 * width, 0, 0.51 * width], [0, 0.79 * width, 0.54 * height], [0, 0, 1.0]])
    cameras = []
    for number, name in enumerate(names):
        mount = pose(yaw_deg=360.0 * number / len(names))
        mount[:3, :3] = mount[:3, :3] @ _OPTICAL
        mount[:3, 3] = (1.2, 0.1 * number, 1.5)
        cameras.append(CameraCalibration(name, width, height, K, mount))
    lidar_pose = pose(0.94, 0.0, -90.0)
    lidar_pose[2, 3] = 1.84
    return CameraRig(tuple(cameras), ego_T_lidar=lidar_pose if lidar else None)


def frame_at(
    t_s: float,
    rig: CameraRig,
    speed_mps: float = 8.0,
    turn_dps: float = 6.0,
    sequence: str = "drive",
    world: np.ndarray | None = None,
    reference_camera: str = "CAM_FRONT",
) -> CameraFrame:
    """The frame of a steady drive at a time; images, stamps and poses depend on the time only."""
    stamp_ns = round(t_s * 1e9)
    images, stamps, poses = {}, {}, {}
    for camera in rig.cameras:
        # Cameras expose one after the other, as on the real vehicle, in the order of their names,
        # so that the order of the rig does not change the image.
        key = sum(camera.name.encode())
        stamps[camera.name] = stamp_ns + (key % 7) * 6_000_000
        if camera.name == reference_camera:
            stamps[camera.name] = stamp_ns
        seconds = stamps[camera.name] * 1e-9
        at = pose(speed_mps * seconds, 0.3 * seconds, turn_dps * seconds, 0.5)
        poses[camera.name] = at if world is None else world @ at
        images[camera.name] = _image((camera.height, camera.width), key, stamp_ns)
    return CameraFrame(
        rig=rig,
        images=images,
        stamps_ns=stamps,
        world_T_ego=poses,
        reference_camera=reference_camera,
        sequence=sequence,
        lidar=LidarPoints(stamp_ns, _sweep(stamp_ns), poses[reference_camera]),
    )


def drive(times_s: Iterable[float], rig: CameraRig, **options: object) -> list[CameraFrame]:
    """Frames of one drive."""
    return [frame_at(t, rig, **options) for t in times_s]


def _sweep(stamp_ns: int) -> np.ndarray:
    """Points all around, different at every time; only models that take lidar depth read them."""
    rng = np.random.default_rng(stamp_ns)
    azimuth, distance = rng.uniform(0, 2 * np.pi, 2000), rng.uniform(2, 40, 2000)
    height = rng.uniform(0, 3, 2000)
    return np.column_stack([distance * np.cos(azimuth), distance * np.sin(azimuth), height])


def _image(shape: tuple[int, int], key: int, stamp_ns: int) -> np.ndarray:
    """Coarse colour blobs, different for every camera and time."""
    rng = np.random.default_rng([key, stamp_ns])
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    rows, columns = -(-shape[0] // 9), -(-shape[1] // 16)
    return coarse.repeat(rows, axis=0).repeat(columns, axis=1)[: shape[0], : shape[1]].copy()
