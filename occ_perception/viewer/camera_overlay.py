"""Predicted occupancy drawn over the camera images it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import (
    CameraCalibration,
    CameraFrame,
    CameraRig,
    OccupancyPrediction,
)
from occ_perception.geometry import Float64, invert_transform
from occ_perception.viewer.panels import camera_panel, tile_width
from occ_perception.viewer.views import colours_of_ids
from occ_perception.viewer.volume import occupied_ids, render_volume

_OPACITY = 0.6
_STEP = 2


@dataclass(frozen=True, eq=False)
class CameraEye:
    """A camera as a place to see a volume from.

    Attributes:
        calibration: rectified.
        ego_T_cam: (4, 4) pose at its exposure, in the ego frame at the stamp of the volume.
    """

    calibration: CameraCalibration
    ego_T_cam: Float64

    def ego_T_eye(self) -> Float64:
        """(4, 4) pose of the camera's optical frame."""
        return self.ego_T_cam

    def lens(self, size: tuple[int, int]) -> tuple[float, float, float]:
        """Focal length, column and row of the principal point, pixels, of (width, height).

        The mean of both focal lengths: those of rectified images are equal but for rounding.
        """
        K = self.calibration.K
        scale = size[0] / self.calibration.width
        focal = 0.5 * float(K[0, 0] + K[1, 1]) * scale
        column, row = ((float(K[i, 2]) + 0.5) * scale - 0.5 for i in (0, 1))
        return focal, column, row


def with_occupancy(
    frame: CameraFrame, prediction: OccupancyPrediction, step: int = 1
) -> CameraFrame:
    """The frame with the volume drawn over every image; nearer voxels hide those behind them.

    The volume is moved with the vehicle from its own stamp to the exposure of each camera.

    Args:
        frame: images that the prediction was made from.
        prediction: its volume.
        step: edge length, pixels, of the squares that have one ray; the images stay sharp.

    Raises:
        MissingPackageError: numba is not installed.
    """
    images = {name: _drawn_over(frame, name, prediction, step) for name in frame.images}
    return replace(frame, images=images)


def overlay_panel(
    frame: CameraFrame, prediction: OccupancyPrediction, width: int
) -> NDArray[np.uint8]:
    """All cameras in one image with their names, the volume drawn over each, (H, W, 3) uint8 RGB.

    The images are scaled before the volume is drawn, and a ray serves four pixels: on a robot this
    takes time of its network.

    Args:
        frame: images that the prediction was made from.
        prediction: its volume.
        width: of the whole image, pixels; it is at most twice as high as wide.

    Raises:
        MissingPackageError: numba is not installed.
    """
    size = (width, 2 * width)
    small = scaled(frame, tile_width(frame.rig, size))
    return camera_panel(with_occupancy(small, prediction, _STEP), size)


def scaled(frame: CameraFrame, width: int) -> CameraFrame:
    """The frame with images of this width, pixels, and the calibration that belongs to them."""
    rig = CameraRig(
        tuple(_scaled_calibration(camera, width) for camera in frame.rig.cameras),
        frame.rig.ego_T_lidar,
    )
    images = {}
    for name, image in frame.images.items():
        size = (rig.camera(name).width, rig.camera(name).height)
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        images[name] = small.astype(np.uint8, copy=False)
    return replace(frame, rig=rig, images=images)


def _scaled_calibration(camera: CameraCalibration, width: int) -> CameraCalibration:
    height = max(1, round(width * camera.height / camera.width))
    # The outer edges of the image coincide, so the middle of the first pixel does not.
    across, down = width / camera.width, height / camera.height
    K = np.diag([across, down, 1.0]) @ camera.K
    K[:2, 2] += 0.5 * np.array([across, down]) - 0.5
    return replace(camera, width=width, height=height, K=K)


def _drawn_over(
    frame: CameraFrame, name: str, prediction: OccupancyPrediction, step: int
) -> NDArray[np.uint8]:
    image, calibration = frame.images[name], frame.rig.camera(name)
    ego_T_world = invert_transform(frame.world_T_ego[frame.reference_camera])
    eye = CameraEye(calibration, ego_T_world @ frame.world_T_ego[name] @ calibration.ego_T_cam)
    seen = render_volume(
        prediction.labels,
        colours_of_ids(prediction.class_names),
        occupied_ids(prediction),
        prediction.grid,
        prediction.ego_T_grid,
        eye,
        (max(1, calibration.width // step), max(1, calibration.height // step)),
        with_vehicle=False,
    )
    rgb, hit = (
        cv2.resize(part, (calibration.width, calibration.height), interpolation=cv2.INTER_NEAREST)
        for part in (seen.rgb, (seen.voxel >= 0).astype(np.uint8))
    )
    blended = (1.0 - _OPACITY) * image + _OPACITY * rgb
    drawn: NDArray[np.uint8] = np.where(hit[..., None], np.rint(blended), image).astype(np.uint8)
    return drawn
