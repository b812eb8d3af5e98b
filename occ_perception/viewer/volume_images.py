"""Images in perspective: classes with arrows of motion, and verdicts on a prediction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.comparison import VERDICT_COLOURS, Comparison
from occ_perception.viewer.drawing import draw_shapes
from occ_perception.viewer.views import colours_of_ids, motion_arrows
from occ_perception.viewer.volume import ViewPoint, render_volume, view_point_behind

UInt8 = NDArray[np.uint8]

ARROW_SECONDS = 1.0
_ABOVE_THE_MOVER = 0.5
_SHAFT, _HEAD_WIDTH, _HEAD_LENGTH = 0.22, 0.7, 1.4
_NEAREST = 0.5


def volume_image(
    prediction: OccupancyPrediction,
    size: tuple[int, int] = (900, 600),
    view_point: ViewPoint | None = None,
) -> UInt8:
    """Occupied voxels in the colours of their classes, (H, W, 3) uint8 RGB.

    Flat arrows above moving objects show the distance covered in one second. The white vehicle is
    the ego vehicle.

    Args:
        prediction: the prediction.
        size: width and height in pixels.
        view_point: by default behind and above the vehicle.

    Raises:
        MissingPackageError: numba is not installed.
    """
    view_point = view_point or view_point_behind(prediction.grid, prediction.ego_T_grid)
    drawn = np.ones(256, bool)
    drawn[[prediction.empty_class, UNKNOWN_CLASS]] = False
    rgb = render_volume(
        prediction.labels,
        colours_of_ids(prediction.class_names),
        drawn,
        prediction.grid,
        prediction.ego_T_grid,
        view_point,
        size,
    ).rgb
    positions, velocities = motion_arrows(prediction)
    shapes = []
    above = np.array((0.0, 0.0, _ABOVE_THE_MOVER))
    for position, velocity in zip(positions, velocities, strict=True):
        outline = arrow_outline(position + above, ARROW_SECONDS * velocity)
        places, depth = view_point.pixels(outline, size)
        if (depth > _NEAREST).all():
            shapes.append(places)
    draw_shapes(rgb, shapes)
    return rgb


def difference_image(
    comparison: Comparison,
    size: tuple[int, int] = (900, 600),
    view_point: ViewPoint | None = None,
) -> UInt8:
    """Occupied voxels in the colours of their verdicts, (H, W, 3) uint8 RGB.

    Arguments and errors as in :func:`volume_image`; voxels with unknown truth are left out.
    """
    truth = comparison.truth
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(VERDICT_COLOURS)] = VERDICT_COLOURS
    drawn = np.arange(256) < len(VERDICT_COLOURS)
    view_point = view_point or view_point_behind(truth.grid, truth.ego_T_grid)
    return render_volume(
        comparison.verdict_XYZ, colours, drawn, truth.grid, truth.ego_T_grid, view_point, size
    ).rgb


def arrow_outline(start: Float64, way: Float64) -> Float64:
    """(7, 3) corners of a flat, level arrow from ``start`` (3,) along ``way`` (2,), metres."""
    length = float(np.hypot(*way))
    forward = np.array([*way, 0.0]) / length
    left = np.array([-forward[1], forward[0], 0.0])
    # Short arrows are scaled as a whole to keep their shape.
    scale = min(1.0, length / (1.5 * _HEAD_LENGTH))
    neck = length - scale * _HEAD_LENGTH
    shape = [
        *((0.0, _SHAFT), (neck, _SHAFT), (neck, _HEAD_WIDTH), (length, 0.0)),
        *((neck, -_HEAD_WIDTH), (neck, -_SHAFT), (0.0, -_SHAFT)),
    ]
    corners: Float64 = start + np.stack(
        [along * forward + scale * aside * left for along, aside in shape]
    )
    return corners
