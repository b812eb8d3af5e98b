"""The synthetic vehicle's cameras and lidar: nominal mounts, or mounts with random offsets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.spatial.transform import Rotation

from occ_perception.errors import OptionError
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import scale_intrinsics

NATIVE_WIDTH, NATIVE_HEIGHT = 1600, 900
REFERENCE_CAMERA = "CAM_FRONT"

# x, y, z (m), yaw, pitch (degrees; pitch is downwards), focal length, cx, cy (px at native size)
_NOMINAL: dict[str, tuple[float, ...]] = {
    "CAM_FRONT_LEFT": (1.55, 0.50, 1.50, 55.0, 0.0, 1265.0, 820.0, 480.0),
    "CAM_FRONT": (1.70, 0.00, 1.50, 0.0, 0.0, 1265.0, 820.0, 485.0),
    "CAM_FRONT_RIGHT": (1.55, -0.50, 1.50, -56.0, 0.0, 1260.0, 810.0, 485.0),
    "CAM_BACK_LEFT": (1.04, 0.48, 1.58, 109.0, 0.0, 1257.0, 805.0, 480.0),
    "CAM_BACK": (0.04, 0.00, 1.57, 180.0, 0.5, 803.0, 840.0, 480.0),
    "CAM_BACK_RIGHT": (1.03, -0.48, 1.56, -111.0, 0.0, 1255.0, 815.0, 485.0),
}
CAMERAS = tuple(_NOMINAL)

LIDAR_POSITION = (0.95, 0.0, 1.84)

STAGGER_NS: dict[str, int] = {
    "CAM_FRONT_LEFT": -43_000_000,
    "CAM_FRONT": -35_000_000,
    "CAM_FRONT_RIGHT": -27_000_000,
    "CAM_BACK_RIGHT": -20_000_000,
    "CAM_BACK": -10_000_000,
    "CAM_BACK_LEFT": 0,
}
"""Exposure of each camera relative to the lidar's time, as in the real data set."""


def synthetic_rig(
    size: tuple[int, int] = (NATIVE_WIDTH, NATIVE_HEIGHT),
    jitter: np.random.Generator | None = None,
) -> CameraRig:
    """The six cameras and the lidar at an image size (width, height).

    Images flatter than 16:9 are scaled to the width and cropped at the top.

    Args:
        size: width and height in pixels.
        jitter: source of random offsets, as large as those between two real vehicles (up to 2
            degrees, 5 cm, 30 px); None = nominal rig.

    Raises:
        OptionError: the size is not positive or taller than 16:9.
    """
    cameras = tuple(_camera(name, jitter) for name in CAMERAS)
    ego_T_lidar = np.eye(4)
    ego_T_lidar[:3, 3] = LIDAR_POSITION
    if jitter is not None:
        ego_T_lidar[:3, 3] += jitter.uniform(-0.03, 0.03, 3)
        turn = jitter.uniform(-1, 1, 3) * (0.5, 0.5, 1.0)
        ego_T_lidar[:3, :3] = Rotation.from_euler("xyz", turn, degrees=True).as_matrix()
    return at_size(CameraRig(cameras, ego_T_lidar), size)


def at_size(rig: CameraRig, size: tuple[int, int]) -> CameraRig:
    """The rig with images of another size: scaled to the width, cropped at the top.

    Raises:
        OptionError: the size is not positive or would need rows above the image.
    """
    width, height = size
    cameras = []
    for camera in rig.cameras:
        scale = width / camera.width
        cut = round(camera.height * scale) - height
        if width <= 0 or height <= 0 or cut < 0:
            raise OptionError(
                f"image size {width}x{height} cannot be cropped from "
                f"{camera.width}x{camera.height}: "
                f"scaled to that width, images are {round(camera.height * scale)} rows high; "
                "give a positive size at most that high"
            )
        K = scale_intrinsics(camera.K, scale)
        K[1, 2] -= cut
        cameras.append(replace(camera, width=width, height=height, K=K))
    return CameraRig(tuple(cameras), rig.ego_T_lidar)


def _camera(name: str, jitter: np.random.Generator | None) -> CameraCalibration:
    x, y, z, yaw, pitch, focal, cx, cy = _NOMINAL[name]
    roll = 0.0
    if jitter is not None:
        x, y, z = np.array([x, y, z]) + jitter.uniform(-0.05, 0.05, 3)
        yaw += jitter.uniform(-2, 2)
        pitch += jitter.uniform(-1.2, 1.2)
        roll = jitter.uniform(-0.9, 0.9)
        focal += jitter.uniform(-10, 10)
        cx += jitter.uniform(-30, 30)
        cy += jitter.uniform(-30, 30)
    ego_T_cam = np.eye(4)
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    turned = Rotation.from_euler("ZYX", [yaw, pitch, roll], degrees=True).as_matrix()
    ego_T_cam[:3, :3] = turned @ optical
    ego_T_cam[:3, 3] = x, y, z
    K = np.array([[focal, 0.0, cx], [0.0, focal, cy], [0.0, 0.0, 1.0]])
    return CameraCalibration(name, NATIVE_WIDTH, NATIVE_HEIGHT, K, ego_T_cam, frame_id=name)
