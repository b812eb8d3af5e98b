"""Images of predictions: one frame on a page, a frame of a film, several frames on a sheet.

A page consists of panels, see :mod:`occ_perception.viewer.panels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import write_whole
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.viewer.comparison import Comparison
from occ_perception.viewer.drawing import (
    LINE,
    PALE_INK,
    SMALL,
    TEXT,
    WARNING,
    Sheet,
    fit_text,
    text_width,
)
from occ_perception.viewer.panels import (
    camera_panel,
    difference_panel,
    history_words,
    legend_panel,
    map_panel,
    plain_map,
    side_panel,
    stamp_words,
    verdict_panel,
    vocabulary_panel,
    volume_panel,
)
from occ_perception.viewer.views import ViewerError

UInt8 = NDArray[np.uint8]

FILM_SIZE = (1600, 900)
"""Width and height of :func:`film_image`."""

RANDOM_WEIGHTS = "@random:"
"""Part of a model's label whose weights are random, see :class:`~.weights.LoadedModel`."""

_LARGE = 30
_MARGIN = 16
_TOP = _MARGIN + LINE + 8
_GAP = 18
_NARROW_GAP = 12
_COLUMN = 920
_VOLUME_HEIGHT = 560
_ANY_HEIGHT = 10_000


def prediction_image(
    prediction: OccupancyPrediction,
    frame: CameraFrame | None = None,
    comparison: Comparison | None = None,
) -> UInt8:
    """One prediction on a page, (H, W, 3) uint8 RGB.

    Views in perspective are left out if numba (extra ``viewer``) is not installed.

    Args:
        prediction: output of the model.
        frame: the images it was made from.
        comparison: comparison with ground truth; adds a row that shows both.
    """
    above = map_panel(prediction)
    left = [above, legend_panel([prediction], above.shape[1])]
    right = [side_panel(prediction, _COLUMN)]
    in_perspective = find_spec("numba") is not None
    if in_perspective:
        size = (_COLUMN, _VOLUME_HEIGHT)
        right.insert(0, volume_panel(prediction, size, "prediction"))
    if frame is not None:
        right.insert(0, camera_panel(frame, (_COLUMN, _ANY_HEIGHT)))
    body = _beside([_stack(left), _stack(right)])
    if comparison is not None:
        body = _stack([body, _comparison_row(comparison, body.shape[1], in_perspective)])
    sheet = Sheet(2 * _MARGIN + body.shape[1], _TOP + body.shape[0] + _MARGIN)
    _headline(sheet, prediction, body.shape[1])
    sheet.put(body, _MARGIN, _TOP)
    _mark_untrained(sheet, [prediction], 2 * _MARGIN + body.shape[1])
    return sheet.rgb()


def film_image(
    prediction: OccupancyPrediction,
    frame: CameraFrame | None = None,
    comparison: Comparison | None = None,
    caption: str = "prediction",
) -> UInt8:
    """One prediction on a screen of :data:`FILM_SIZE`, (900, 1600, 3) uint8 RGB.

    The legend lists all classes, so that it is the same in every frame of a film.

    Args:
        prediction: output of the model.
        frame: the images it was made from.
        comparison: comparison with ground truth, which is shown beside the prediction.
        caption: caption of the prediction, e.g. ``ground truth``.

    Raises:
        MissingPackageError: numba is not installed.
    """
    width, height = FILM_SIZE
    sheet = Sheet(width, height)
    _headline(sheet, prediction, width - 2 * _MARGIN)
    if comparison is not None:
        _fill_with_comparison(sheet, prediction, frame, comparison)
    else:
        _fill_with_prediction(sheet, prediction, frame, caption)
    _mark_untrained(sheet, [prediction], width)
    return sheet.rgb()


def sheet_image(
    predictions: Sequence[OccupancyPrediction], columns: int = 3, tile_pixels: int = 400
) -> UInt8:
    """Several predictions from above, in reading order with one legend, (H, W, 3) uint8 RGB.

    Args:
        predictions: at least one, all with the same class names.
        columns: tiles per row.
        tile_pixels: approximate width of a tile.

    Raises:
        ViewerError: there is no prediction, or class names differ.
    """
    if not predictions or len({p.class_names for p in predictions}) > 1:
        raise ViewerError(
            f"expected predictions with the same class names, got {len(predictions)} predictions "
            f"with {len({p.class_names for p in predictions})} sets of class names"
        )
    tiles = [_tile(prediction, tile_pixels) for prediction in predictions]
    columns = min(columns, len(tiles))
    width = max(tile.shape[1] for tile in tiles)
    height = max(tile.shape[0] for tile in tiles)
    rows = math.ceil(len(tiles) / columns)
    inner = max(columns * (width + _GAP) - _GAP, 560)
    legend = legend_panel(predictions, inner)
    sheet = Sheet(2 * _MARGIN + inner, 2 * _MARGIN + rows * (height + _GAP) + legend.shape[0])
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.put(tile, _MARGIN + column * (width + _GAP), _MARGIN + row * (height + _GAP))
    sheet.put(legend, _MARGIN, _MARGIN + rows * (height + _GAP))
    _mark_untrained(sheet, predictions, 2 * _MARGIN + inner)
    return sheet.rgb()


def write_png(path: str | Path, rgb: UInt8) -> None:
    """Write an image (H, W, 3) uint8 RGB atomically; parent folders are created.

    Raises:
        OutputError: the file cannot be written.
    """
    write_whole(path, encode_png(rgb))


def encode_png(rgb: UInt8) -> bytes:
    """The PNG file of an image (H, W, 3) uint8 RGB."""
    encoded, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise ValueError(f"an image of shape {rgb.shape} could not be encoded as PNG")
    return data.tobytes()


def _headline(sheet: Sheet, prediction: OccupancyPrediction, width: int) -> None:
    """Write the model, its history and the stamp."""
    model = prediction.model or "unnamed model"
    sheet.write(model, _MARGIN, _MARGIN, TEXT + 2)
    stamp = f"{stamp_words(prediction.stamp_ns)}   grid in {prediction.frame_id}"
    sheet.write(stamp, _MARGIN + width, _MARGIN, TEXT, PALE_INK, anchor="ra")
    words, ink = history_words(prediction)
    left = _MARGIN + text_width(model, TEXT + 2) + 24
    room = _MARGIN + width - left - text_width(stamp) - 24
    sheet.write(fit_text(words, room), left, _MARGIN + 1, TEXT, ink)


def _mark_untrained(sheet: Sheet, predictions: Sequence[OccupancyPrediction], width: int) -> None:
    """Say in the image itself that the weights are random: images are shown without their page."""
    if any(RANDOM_WEIGHTS in prediction.model for prediction in predictions):
        words = "UNTRAINED: random weights"
        sheet.write(words, width / 2, 2 * _TOP, _LARGE, (255, 255, 255), anchor="ma", on=WARNING)


def _stack(panels: Sequence[UInt8]) -> UInt8:
    """Panels below each other, flush left."""
    width = max(panel.shape[1] for panel in panels)
    height = sum(panel.shape[0] for panel in panels) + _GAP * (len(panels) - 1)
    sheet, top = Sheet(width, height), 0
    for panel in panels:
        sheet.put(panel, 0, top)
        top += panel.shape[0] + _GAP
    return sheet.rgb()


def _beside(panels: Sequence[UInt8]) -> UInt8:
    """Panels beside each other, tops aligned."""
    turned = [panel.transpose(1, 0, 2) for panel in panels]
    return np.ascontiguousarray(_stack(turned).transpose(1, 0, 2))


def _comparison_row(comparison: Comparison, width: int, in_perspective: bool) -> UInt8:
    verdicts = verdict_panel(comparison, width, 4)
    if not in_perspective:
        return verdicts
    size = ((width - _GAP) // 2, round(width * 0.3))
    truth = volume_panel(comparison.truth, size, "ground truth")
    difference = difference_panel(comparison, size, "difference")
    return _stack([_beside([truth, difference]), verdicts])


def _fill_with_prediction(
    sheet: Sheet, prediction: OccupancyPrediction, frame: CameraFrame | None, caption: str
) -> None:
    """A large volume, map and legend to its right, the cameras in a row below."""
    width, height = FILM_SIZE
    inner, top, bottom = width - 2 * _MARGIN, _TOP, height - _MARGIN
    if frame is not None:
        cameras = camera_panel(frame, (inner, 150), one_row=True)
        bottom -= cameras.shape[0]
        sheet.put(cameras, _MARGIN, bottom)
        bottom -= _NARROW_GAP
    above = plain_map(prediction, 400)
    aside = max(above.shape[1], 400)
    size = (inner - aside - _NARROW_GAP, bottom - top)
    sheet.put(volume_panel(prediction, size, caption), _MARGIN, top)
    left = width - _MARGIN - aside
    sheet.put(above, left, top)
    sheet.put(vocabulary_panel(prediction, aside, 2), left, top + above.shape[0] + _NARROW_GAP)


def _fill_with_comparison(
    sheet: Sheet,
    prediction: OccupancyPrediction,
    frame: CameraFrame | None,
    comparison: Comparison,
) -> None:
    """Prediction and ground truth side by side; cameras, difference and legends below."""
    width, height = FILM_SIZE
    half = (width - 2 * _MARGIN - _NARROW_GAP) // 2
    middle = _MARGIN + half + _NARROW_GAP
    size, top = (half, round(0.675 * half)), _TOP
    sheet.put(volume_panel(prediction, size, "prediction"), _MARGIN, top)
    sheet.put(volume_panel(comparison.truth, size, "ground truth"), middle, top)
    top += size[1] + _NARROW_GAP
    below = height - _MARGIN - top
    if frame is not None:
        sheet.put(camera_panel(frame, (half, below)), _MARGIN, top)
    else:
        sheet.put(plain_map(prediction, below), _MARGIN, top)
    legend = 390
    size = (half - legend - _NARROW_GAP, below)
    sheet.put(difference_panel(comparison, size, "difference"), middle, top)
    left = width - _MARGIN - legend
    verdicts = verdict_panel(comparison, legend, 2)
    sheet.put(verdicts, left, top)
    sheet.put(vocabulary_panel(prediction, legend, 2), left, top + verdicts.shape[0] + _NARROW_GAP)


def _tile(prediction: OccupancyPrediction, pixels: int) -> UInt8:
    view = plain_map(prediction, pixels)
    height, width = view.shape[:2]
    sheet = Sheet(width, height + 2 * LINE)
    words, ink = history_words(prediction)
    sheet.write(stamp_words(prediction.stamp_ns), 0, 0, SMALL)
    sheet.write(fit_text(words, width, SMALL), 0, LINE - 2, SMALL, ink)
    sheet.put(view, 0, 2 * LINE)
    return sheet.rgb()
