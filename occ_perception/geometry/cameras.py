"""Pinhole projection, and the affine pixel map of image resizing and cropping.

Pixels are (u right, v down), the centre of the top-left pixel is (0, 0). The camera optical frame
is x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from occ_perception.geometry.transforms import Float64


@dataclass(frozen=True)
class ImageAffine:
    """Maps native pixels to network-input pixels: ``uv_in = scale * uv_native + offset``.

    The image pipeline of the reference code (resize by one factor, then crop) has exactly this
    form. As a pair (rotation 3x3, translation 3) it is called post_rots and post_trans there.
    """

    scale: float
    offset: tuple[float, float]

    def matrix(self) -> Float64:
        """(3, 3) homogeneous pixel affine."""
        return np.array(
            [[self.scale, 0.0, self.offset[0]], [0.0, self.scale, self.offset[1]], [0.0, 0.0, 1.0]]
        )


def scale_intrinsics(K: ArrayLike, factor: float) -> Float64:
    """Intrinsics (3, 3) of the same camera at ``factor`` times the image size.

    Follows the convention of the reference code, ``u' = factor * u`` (no half-pixel term).
    """
    scaled = np.array(K, dtype=np.float64)
    scaled[:2] *= factor
    return scaled


def project_points(
    K: ArrayLike, cam_T_frame: ArrayLike, points: ArrayLike
) -> tuple[Float64, Float64]:
    """Project points (..., 3) of any frame; returns pixels (..., 2) and depth (...,) in metres.

    Pixels of points with depth <= 0 are NaN.
    """
    extrinsic = np.asarray(cam_T_frame, dtype=np.float64)
    in_camera = np.asarray(points, dtype=np.float64) @ extrinsic[:3, :3].T + extrinsic[:3, 3]
    homogeneous = in_camera @ np.asarray(K, dtype=np.float64).T
    depth = in_camera[..., 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        pixels = homogeneous[..., :2] / homogeneous[..., 2:3]
    pixels[depth <= 0] = np.nan
    return pixels, depth
