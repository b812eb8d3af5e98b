"""Predicted occupancy drawn over the camera images it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraCalibration, CameraFrame, OccupancyPrediction
from occ_perception.geometry import Float64, invert_transform
from occ_perception.viewer.views import colours_of_ids
from occ_perception.viewer.volume import occupied_ids, render_volume

_OPACITY = 0.6


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


def with_occupancy(frame: CameraFrame, prediction: OccupancyPrediction) -> CameraFrame:
    """The frame with the volume drawn over every image; nearer voxels hide those behind them.

    The volume is moved with the vehicle from its own stamp to the exposure of each camera.

    Args:
        frame: images that the prediction was made from.
        prediction: its volume.

    Raises:
        MissingPackageError: numba is not installed.
    """
    images = {name: _drawn_over(frame, name, prediction) for name in frame.images}
    return replace(frame, images=images)


def _drawn_over(
    frame: CameraFrame, name: str, prediction: OccupancyPrediction
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
        (calibration.width, calibration.height),
        with_vehicle=False,
    )
    blended = (1.0 - _OPACITY) * image + _OPACITY * seen.rgb
    hit = (seen.voxel >= 0)[..., None]
    drawn: NDArray[np.uint8] = np.where(hit, np.rint(blended), image).astype(np.uint8)
    return drawn
