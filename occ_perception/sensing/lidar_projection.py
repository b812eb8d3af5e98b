"""Projects lidar points into images: depth and class of the point in each input pixel.

Legend: N cameras, P points, H, W network input size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.labels import UNKNOWN_CLASS

Int64 = NDArray[np.int64]

Winners = Callable[[Int64, NDArray[np.float32]], Int64]
"""Selects one point per pixel: from pixel numbers and depths to indices of the kept points."""


class LidarProjection(NamedTuple):
    """Lidar depth and classes of the pixels of one camera.

    Attributes:
        depth_HW: float32 metres along the optical axis, 0 for pixels without a point.
        classes_HW: uint8 class ids, 255 for pixels without a point; None if points have no classes.
    """

    depth_HW: NDArray[np.float32]
    classes_HW: NDArray[np.uint8] | None


def nearest_point(pixels: Int64, depths: NDArray[np.float32]) -> Int64:
    """Keep the nearest point of each pixel."""
    order = np.lexsort((depths, pixels))
    return order[_firsts(pixels[order])]


def first_by_float32_rank(pixels: Int64, depths: NDArray[np.float32]) -> Int64:
    """Keep the first point by ``pixel + depth / 100``, the rule of the reference code.

    The sum is computed in single precision. In a big image it has steps of 0.0156 and more, so that
    points within 1.6 m of each other (12 m at 896x1600) count as equal and any of them may be kept;
    this function keeps the earlier one. Only comparisons with published depth-assisted results need
    this rule.
    """
    ranks = pixels.astype(np.float32) + depths / np.float32(100.0)
    order = np.argsort(ranks, kind="stable")
    return order[_firsts(pixels[order])]


def _firsts(sorted_pixels: Int64) -> NDArray[np.bool_]:
    first = np.ones(len(sorted_pixels), dtype=bool)
    first[1:] = sorted_pixels[1:] != sorted_pixels[:-1]
    return first


def project_lidar(
    points_P3: NDArray[np.floating],
    classes_P: NDArray[np.uint8] | None,
    cam_T_lidar: Float64,
    K: Float64,
    pixel_map: tuple[Float64, Float64],
    input_size: tuple[int, int],
    depth_range: tuple[float, float],
    winners: Winners = nearest_point,
) -> LidarProjection:
    """Project points into one camera's network input.

    Args:
        points_P3: lidar frame, metres.
        classes_P: class id per point; None if there are no classes.
        cam_T_lidar: (4, 4), from the lidar at its stamp to the camera at its stamp.
        K: (3, 3) intrinsics at the native size.
        pixel_map: matrix (3, 3) and offset (3,), native pixel to input pixel.
        input_size: H, W.
        depth_range: (minimum, maximum) in metres; the maximum is exclusive.
        winners: rule that selects one point per pixel.
    """
    rows, columns = input_size
    in_camera = points_P3.astype(np.float64) @ cam_T_lidar[:3, :3].T + cam_T_lidar[:3, 3]
    depth = in_camera[:, 2]
    kept = np.flatnonzero((depth >= depth_range[0]) & (depth < depth_range[1]) & (depth > 0))
    native = (in_camera[kept] / depth[kept, None]) @ K.T
    matrix, offset = pixel_map
    pixel_P2 = np.rint(native[:, :2] @ matrix[:2, :2].T + offset[:2])
    inside = np.all((pixel_P2 >= 0) & (pixel_P2 < (columns, rows)), axis=1)
    kept, pixel_P2 = kept[inside], pixel_P2[inside].astype(np.int64)
    numbers = pixel_P2[:, 0] + columns * pixel_P2[:, 1]
    depths = depth[kept].astype(np.float32)
    won = winners(numbers, depths)

    depth_map = np.zeros(rows * columns, dtype=np.float32)
    depth_map[numbers[won]] = depths[won]
    classes = None
    if classes_P is not None:
        class_map = np.full(rows * columns, UNKNOWN_CLASS, dtype=np.uint8)
        class_map[numbers[won]] = classes_P[kept[won]]
        classes = class_map.reshape(rows, columns)
    return LidarProjection(depth_map.reshape(rows, columns), classes)
