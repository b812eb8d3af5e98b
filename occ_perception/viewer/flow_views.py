"""Flow from above: direction as hue, speed as saturation."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS
from occ_perception.viewer.views import (
    FREE_COLOUR,
    OUTSIDE_COLOUR,
    UInt8,
    View,
    ViewerError,
    ego_volume,
)

FULL_SPEED = 10.0
"""Speed of the strongest colours, m/s."""

# Every colour has an id, so that flow is drawn by the same code as labels.
_HUES, _STEPS = 36, 7
_FREE, _FIXED = _HUES * _STEPS, _HUES * _STEPS + 1
_FIXED_COLOUR = (222, 225, 230)
_BRIGHTNESS = 225


def flow_colours(velocity: NDArray[np.floating]) -> UInt8:
    """Colours (..., 3) uint8 RGB of velocities (..., 2), m/s.

    Forward (+x) is red, left (+y) yellow-green, backward cyan, right violet, and standstill grey.
    """
    table: UInt8 = _colour_table()[_ids(velocity)]
    return table


def flow_view(prediction: OccupancyPrediction, target_pixels: int = 800) -> View:
    """View from above, x up and y to the left: the topmost movable voxel of every column.

    All other occupied voxels are light grey.

    Raises:
        ViewerError: the prediction has no flow.
    """
    if prediction.flow is None:
        raise ViewerError(f"{prediction.model or 'the prediction'} has no flow to show")
    movers = [i for i, name in enumerate(prediction.class_names) if name in MOVING_CLASSES]
    can_move = np.isin(prediction.labels, movers)
    occupied = (prediction.labels != prediction.empty_class) & (prediction.labels != UNKNOWN_CLASS)
    ids = np.where(can_move, _ids(prediction.flow), np.where(occupied, _FIXED, _FREE))
    names = tuple(map(str, range(_FIXED + 1)))
    shown = replace(
        prediction, labels=ids.astype(np.uint8), class_names=names, empty_class=_FREE, flow=None
    )
    volume = ego_volume(shown)
    # Flow below a tree or a bridge is shown too.
    rank = np.where(volume.labels_XYZ < _FREE, 2, volume.labels_XYZ == _FIXED)
    best = rank.shape[2] - 1 - np.argmax(rank[:, :, ::-1], axis=2)
    topmost = np.take_along_axis(volume.labels_XYZ, best[..., None], axis=2)[..., 0]
    rgb = _colour_table()[topmost]
    rgb[~volume.inside_XY] = OUTSIDE_COLOUR

    zoom = max(1, round(target_pixels / max(rgb.shape[:2])))
    scale = zoom / volume.voxel[0]
    left_edge = volume.lower[1] + volume.voxel[1] * rgb.shape[1]
    image = np.repeat(np.repeat(rgb[::-1, ::-1], zoom, axis=0), zoom, axis=1)
    return View(
        np.ascontiguousarray(image),
        origin=(-float(left_edge), float(volume.lower[0])),
        pixels_per_metre=(scale, scale),
        right_sign=-1,
    )


def flow_wheel(pixels: int) -> UInt8:
    """The colour wheel of all directions up to :data:`FULL_SPEED`; forward up, left to the left."""
    axis = np.linspace(1.0, -1.0, pixels)
    x, y = np.meshgrid(axis, axis, indexing="ij")
    rgb = flow_colours(FULL_SPEED * np.stack([x, y], axis=-1))
    rgb[np.hypot(x, y) > 1.0] = FREE_COLOUR
    return rgb


def _ids(velocity: NDArray[np.floating]) -> NDArray[np.int64]:
    angle = np.arctan2(velocity[..., 1], velocity[..., 0]) / (2 * np.pi)
    hue = np.round(angle * _HUES).astype(np.int64) % _HUES
    speed = np.hypot(velocity[..., 0], velocity[..., 1]) / FULL_SPEED
    step = np.round(np.clip(speed, 0.0, 1.0) * (_STEPS - 1)).astype(np.int64)
    ids: NDArray[np.int64] = hue * _STEPS + step
    return ids


def _colour_table() -> UInt8:
    """(256, 3) RGB by id."""
    hue, step = np.divmod(np.arange(_HUES * _STEPS), _STEPS)
    strength = step / (_STEPS - 1)
    # Standing objects must stand out from the ground below them.
    brightness = np.where(step == 0, 120, _BRIGHTNESS)
    hsv = np.stack([hue * 180 / _HUES, 255 * strength, brightness], axis=-1)
    table = np.zeros((256, 3), np.uint8)
    image = np.round(hsv).astype(np.uint8)[None]
    table[: _HUES * _STEPS] = cv2.cvtColor(image, cv2.COLOR_HSV2RGB)[0]
    table[_FREE], table[_FIXED] = FREE_COLOUR, _FIXED_COLOUR
    return table
