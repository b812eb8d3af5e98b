"""Orthographic views of a prediction as coloured images: from above, and from the right.

A view maps points of the ego frame to pixels, so that marks and text can be drawn on it. Legend:
X forward, Y left, Z up in the ego frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from occ_perception.errors import OccError
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, transform_points
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS, palette_of

UInt8 = NDArray[np.uint8]

FREE_COLOUR = (255, 255, 255)
UNKNOWN_COLOUR = (214, 218, 224)
OUTSIDE_COLOUR = (236, 238, 241)

# How much the highest voxel is lightened towards white, and how much a step of one metre is
# lightened or darkened; small enough to keep the hue of every class.
_HEIGHT_TINT = 0.22
_RELIEF_PER_METRE = 0.16
_RELIEF_LIMIT = 0.26
_DEPTH_TINT = 0.45
# Share of its colour that a column keeps if nothing of it was observed.
_GUESS = 0.4


class ViewerError(OccError):
    """Something cannot be shown; the message says why."""


@dataclass(frozen=True, eq=False)
class View:
    """An image of part of the ego frame, true to scale along each image axis.

    Attributes:
        rgb: (H, W, 3) uint8.
        origin: metres along the image's right and up axes at its lower left corner.
        pixels_per_metre: along right and up.
        right_sign: -1 if the ego axis points to the left in the image, like y from above.
    """

    rgb: UInt8
    origin: tuple[float, float]
    pixels_per_metre: tuple[float, float]
    right_sign: int = 1

    def pixel(self, right: float, up: float) -> tuple[float, float]:
        """Column and row of a point, from its two ego coordinates in metres; may lie outside."""
        column = (self.right_sign * right - self.origin[0]) * self.pixels_per_metre[0]
        row = self.rgb.shape[0] - (up - self.origin[1]) * self.pixels_per_metre[1]
        return column, row


@dataclass(frozen=True, eq=False)
class EgoVolume:
    """Labels on a grid along the axes of the ego frame.

    Attributes:
        labels_XYZ: uint8 class ids; the empty class outside the prediction's grid.
        inside_XY: bool, columns inside the prediction's grid.
        unknown_XY: bool, columns with an unlabelled voxel, and those of which nothing was observed.
        guessed_XY: bool, columns of which nothing was observed.
        lower: minimum corner, metres.
        voxel: edge lengths, metres.
    """

    labels_XYZ: UInt8
    inside_XY: NDArray[np.bool_]
    unknown_XY: NDArray[np.bool_]
    guessed_XY: NDArray[np.bool_]
    lower: Float64
    voxel: Float64


def ego_volume(prediction: OccupancyPrediction) -> EgoVolume:
    """The prediction's labels resampled to ego axes; unchanged if its grid lies along them.

    Sampling takes the nearest voxel. Only yaw and translation of the grid's pose are used: a lidar
    is mounted level within a degree.
    """
    grid, pose = prediction.grid, prediction.ego_T_grid
    yaw = np.arctan2(pose[1, 0], pose[0, 0])
    ego_R_grid = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    corners = np.array([(x, y) for x in (0, 1) for y in (0, 1)]) * (
        np.subtract(grid.upper, grid.lower)[:2]
    ) + np.array(grid.lower[:2])
    corners_ego = corners @ ego_R_grid.T + pose[:2, 3]
    lower, upper = corners_ego.min(0), corners_ego.max(0)
    edge = min(grid.voxel_size[:2])
    count = np.ceil((upper - lower) / edge - 1e-6).astype(int)

    voxels = np.stack(np.meshgrid(*map(np.arange, count), indexing="ij"), axis=-1)
    points = (lower + (voxels + 0.5) * edge - pose[:2, 3]) @ ego_R_grid
    height = np.full((*count, 1), grid.lower[2] + grid.voxel_size[2] / 2)
    indices = grid.indices(np.concatenate([points, height], axis=-1))
    inside = grid.contains(indices)
    labels = np.full((*count, grid.dims[2]), prediction.empty_class, np.uint8)
    i, j = indices[inside][:, :2].T
    labels[inside] = prediction.labels[i, j]
    guessed = np.zeros(inside.shape, np.bool_)
    if prediction.observed is not None:
        nothing_seen: NDArray[np.bool_] = np.asarray(~prediction.observed.any(axis=2))
        guessed[inside] = nothing_seen[i, j]
    return EgoVolume(
        labels,
        inside,
        (labels == UNKNOWN_CLASS).any(axis=2) | guessed,
        guessed,
        lower=np.array([*lower, grid.lower[2] + pose[2, 3]]),
        voxel=np.array([edge, edge, grid.voxel_size[2]]),
    )


def birds_eye_view(prediction: OccupancyPrediction, target_pixels: int = 800) -> View:
    """View from above, x up and y to the left: the topmost class of every column.

    Higher voxels are lighter, and light comes from the upper left, so that edges stand out. Columns
    of which nothing was observed are pale, and grey if they are empty.

    Args:
        prediction: the prediction.
        target_pixels: approximate width or height of the image; voxels are whole pixels.
    """
    volume = ego_volume(prediction)
    occupied = _occupied(volume.labels_XYZ, prediction.empty_class)
    depth = volume.labels_XYZ.shape[2]
    seen = occupied.any(axis=2)
    top = depth - 1 - np.argmax(occupied[:, :, ::-1], axis=2)
    ids = np.take_along_axis(volume.labels_XYZ, top[..., None], axis=2)[..., 0]

    surface = np.where(seen, (top + 1) * volume.voxel[2], 0.0)
    lightness = _HEIGHT_TINT * surface / (depth * volume.voxel[2]) + _relief(surface)
    rgb = shade(colours_of_ids(prediction.class_names)[ids], lightness)
    rgb[~seen] = np.where(volume.unknown_XY[~seen, None], UNKNOWN_COLOUR, FREE_COLOUR)
    guessed = seen & volume.guessed_XY
    rgb[guessed] = np.rint(_GUESS * rgb[guessed] + (1 - _GUESS) * np.array(UNKNOWN_COLOUR))
    rgb[~volume.inside_XY] = OUTSIDE_COLOUR

    zoom = max(1, round(target_pixels / max(rgb.shape[:2])))
    scale = zoom / volume.voxel[0]
    y_left_edge = volume.lower[1] + volume.voxel[1] * rgb.shape[1]
    return View(
        _enlarge(rgb[::-1, ::-1], zoom, zoom),
        origin=(-float(y_left_edge), float(volume.lower[0])),
        pixels_per_metre=(scale, scale),
        right_sign=-1,
    )


def side_view(
    prediction: OccupancyPrediction, half_width: float = 6.0, target_pixels: int = 800
) -> View:
    """View from the right of the vehicle, x to the right and z up.

    Heights are drawn at twice the scale of lengths. Nearer voxels hide farther ones; farther ones
    are lighter.

    Args:
        prediction: the prediction.
        half_width: largest |y| of the voxels that are shown, metres.
        target_pixels: maximum width of the image; voxels are whole pixels.

    Raises:
        ViewerError: the grid has no voxels within ``half_width``.
    """
    volume = ego_volume(prediction)
    y = volume.lower[1] + (np.arange(volume.labels_XYZ.shape[1]) + 0.5) * volume.voxel[1]
    corridor = volume.labels_XYZ[:, np.abs(y) <= half_width]
    if corridor.shape[1] == 0:
        raise ViewerError(
            f"side view of |y| <= {half_width} m, but the grid's voxels span {y[0]:.2f} to "
            f"{y[-1]:.2f} m"
        )
    occupied = _occupied(corridor, prediction.empty_class)
    seen = occupied.any(axis=1)
    first = np.argmax(occupied, axis=1)
    ids = np.take_along_axis(corridor, first[:, None, :], axis=1)[:, 0]
    rgb = shade(
        colours_of_ids(prediction.class_names)[ids], _DEPTH_TINT * first / corridor.shape[1]
    )
    unobserved = (corridor == UNKNOWN_CLASS).any(axis=1)
    rgb[~seen] = np.where(unobserved[~seen, None], UNKNOWN_COLOUR, FREE_COLOUR)

    zoom = max(1, target_pixels // rgb.shape[0])
    zoom_up = max(1, round(2 * zoom * volume.voxel[2] / volume.voxel[0]))
    return View(
        _enlarge(rgb.transpose(1, 0, 2)[::-1], zoom_up, zoom),
        origin=(float(volume.lower[0]), float(volume.lower[2])),
        pixels_per_metre=(zoom / volume.voxel[0], zoom_up / volume.voxel[2]),
    )


def motion_arrows(
    prediction: OccupancyPrediction, longest: float = 8.0, min_speed: float = 0.5
) -> tuple[Float64, Float64]:
    """Motion arrows: one per patch of connected moving voxels, seen from above.

    Args:
        prediction: prediction; without flow there are no arrows.
        longest: longer patches are cut into squares of this edge length, metres.
        min_speed: slower voxels count as standing, m/s.

    Returns:
        Centres of the patches' tops (n, 3) in ego, metres, and mean velocities (n, 2), m/s.
    """
    nothing = np.empty((0, 3)), np.empty((0, 2))
    if prediction.flow is None:
        return nothing
    movers = [i for i, name in enumerate(prediction.class_names) if name in MOVING_CLASSES]
    speed = np.hypot(prediction.flow[..., 0], prediction.flow[..., 1])
    moving = np.isin(prediction.labels, movers) & (speed > min_speed)
    voxels = np.argwhere(moving)
    if not len(voxels):
        return nothing
    patches, _ = ndimage.label(moving.any(axis=2), np.ones((3, 3)))
    centres = transform_points(prediction.ego_T_grid, prediction.grid.centers(voxels))
    velocity = prediction.flow[tuple(voxels.T)].astype(np.float64)

    patch = patches[voxels[:, 0], voxels[:, 1]]
    corner = np.full((patch.max() + 1, 2), np.inf)
    np.minimum.at(corner, patch, centres[:, :2])
    square = np.floor((centres[:, :2] - corner[patch]) / longest)
    keys = np.column_stack([patch, square])
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    count = np.bincount(group)
    values = np.column_stack([centres[:, :2], velocity])
    means = np.column_stack([np.bincount(group, column) for column in values.T]) / count[:, None]
    top = np.full(len(count), -np.inf)
    np.maximum.at(top, group, centres[:, 2] + prediction.grid.voxel_size[2] / 2)
    return np.column_stack([means[:, :2], top]), means[:, 2:]


def shade(rgb: UInt8, lightness: NDArray[np.floating]) -> UInt8:
    """Colours (..., 3) blended towards white (lightness up to 1) or black (down to -1)."""
    amount = np.clip(lightness, -1, 1)[..., None]
    target = np.where(amount > 0, 255.0, 0.0)
    blended: UInt8 = np.rint(rgb + np.abs(amount) * (target - rgb)).astype(np.uint8)
    return blended


def colours_of_ids(class_names: Sequence[str]) -> UInt8:
    """(256, 3) RGB of every id; ids without a name get the colour of unknown names."""
    table = palette_of([""] * 256)
    table[: len(class_names)] = palette_of(list(class_names))
    return table


def _occupied(labels: UInt8, empty_class: int) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = (labels != empty_class) & (labels != UNKNOWN_CLASS)
    return mask


def _relief(surface_XY: Float64) -> Float64:
    """Lightness of slopes: positive where the surface falls towards the light at +x, +y."""
    padded = np.pad(surface_XY, ((0, 1), (0, 1)), mode="edge")
    rise = surface_XY - (padded[1:, :-1] + padded[:-1, 1:]) / 2
    lightness: Float64 = np.clip(_RELIEF_PER_METRE * rise, -_RELIEF_LIMIT, _RELIEF_LIMIT)
    return lightness


def _enlarge(rgb: UInt8, down: int, right: int) -> UInt8:
    return np.ascontiguousarray(rgb.repeat(down, axis=0).repeat(right, axis=1))
