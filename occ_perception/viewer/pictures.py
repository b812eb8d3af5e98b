"""Pictures of predictions for people: one frame on a page, or several side by side.

A page is two columns: the view from above, and to its right a stack of panels (cameras, side
view, legend), each a function that gives a picture of the column's width. Another view joins by
adding its panel to the stack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.drawing import (
    INK,
    LINE,
    PALE_INK,
    SMALL,
    TEXT,
    WARNING,
    Colour,
    Sheet,
    draw_arrows,
    fit_text,
    mark_vehicle,
    scale_bar,
    text_width,
    tick_values,
)
from occ_perception.viewer.views import (
    UNKNOWN_COLOUR,
    View,
    birds_eye_view,
    colours_of_ids,
    motion_arrows,
    side_view,
)

UInt8 = NDArray[np.uint8]

_MARGIN = 16
_GAP = 18
_AXIS = 44
_COLUMN = 920
_TILES_PER_ROW = 3
_ARROW_SECONDS = 1.0


def prediction_picture(prediction: OccupancyPrediction, frame: CameraFrame | None = None) -> UInt8:
    """One prediction on a page, (H, W, 3) uint8 RGB.

    Args:
        prediction: what the model said.
        frame: the pictures it was made from; they are shown where the page has room for them.
    """
    above = _map_panel(prediction, birds_eye_view(prediction))
    panels = [_camera_panel(frame)] if frame is not None else []
    panels += [_side_panel(prediction), _legend_panel([prediction], _COLUMN)]
    stacked = sum(panel.shape[0] for panel in panels) + _GAP * (len(panels) - 1)
    top = _MARGIN + 2 * LINE + 8
    sheet = Sheet(
        2 * _MARGIN + above.shape[1] + _GAP + _COLUMN,
        top + max(above.shape[0], stacked) + _MARGIN,
    )
    _headline(sheet, prediction, sheet.rgb().shape[1] - 2 * _MARGIN)
    sheet.put(above, _MARGIN, top)
    for panel in panels:
        sheet.put(panel, _MARGIN + above.shape[1] + _GAP, top)
        top += panel.shape[0] + _GAP
    return sheet.rgb()


def sheet_picture(
    predictions: Sequence[OccupancyPrediction], columns: int = 3, tile_pixels: int = 400
) -> UInt8:
    """Several predictions from above, in reading order with one legend, (H, W, 3) uint8 RGB.

    Args:
        predictions: at least one, of one vocabulary.
        columns: tiles per row.
        tile_pixels: about how wide a tile is.

    Raises:
        ValueError: no prediction, or two of different class names.
    """
    if not predictions or len({p.class_names for p in predictions}) > 1:
        raise ValueError(
            f"expected predictions of one vocabulary, got {len(predictions)} of "
            f"{len({p.class_names for p in predictions})}"
        )
    tiles = [_tile(prediction, tile_pixels) for prediction in predictions]
    columns = min(columns, len(tiles))
    width = max(tile.shape[1] for tile in tiles)
    height = max(tile.shape[0] for tile in tiles)
    rows = math.ceil(len(tiles) / columns)
    inner = max(columns * (width + _GAP) - _GAP, 560)
    legend = _legend_panel(predictions, inner)
    sheet = Sheet(2 * _MARGIN + inner, 2 * _MARGIN + rows * (height + _GAP) + legend.shape[0])
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.put(tile, _MARGIN + column * (width + _GAP), _MARGIN + row * (height + _GAP))
    sheet.put(legend, _MARGIN, _MARGIN + rows * (height + _GAP))
    return sheet.rgb()


def write_png(path: str | Path, rgb: UInt8) -> None:
    """Write a picture (H, W, 3) uint8 RGB; folders are made.

    Raises:
        OSError: the file could not be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    if not encoded:
        raise OSError(f"{target}: could not be encoded as PNG")
    target.write_bytes(data.tobytes())


def _headline(sheet: Sheet, prediction: OccupancyPrediction, width: int) -> None:
    """Which model at which time on the first line, the state of its history on the second."""
    sheet.write(prediction.model or "unnamed model", _MARGIN, _MARGIN, TEXT + 2)
    stamp = f"{_seconds(prediction.stamp_ns)}   grid in {prediction.frame_id}"
    sheet.write(stamp, _MARGIN + width, _MARGIN, TEXT, PALE_INK, anchor="ra")
    words, ink = _history(prediction)
    sheet.write(fit_text(words, width), _MARGIN, _MARGIN + LINE + 4, TEXT, ink)


def _seconds(stamp_ns: int) -> str:
    return f"stamp {stamp_ns // 10**9}.{stamp_ns % 10**9 // 10**6:03d} s"


def _history(prediction: OccupancyPrediction) -> tuple[str, Colour]:
    count = prediction.history_length
    words = f"history of {count} frame{'' if count == 1 else 's'}"
    if not prediction.committed:
        words += ", this one not added"
    if prediction.history_break:
        return f"history emptied: {prediction.history_break}", WARNING
    return words, PALE_INK


def _map_panel(prediction: OccupancyPrediction, view: View) -> UInt8:
    """The view from above with its axes, arrows of motion, the vehicle and a scale bar."""
    rgb = mark_vehicle(view)
    positions, velocities = motion_arrows(prediction)
    ends = positions + _ARROW_SECONDS * velocities
    draw_arrows(
        rgb,
        (
            (view.pixel(start[1], start[0]), view.pixel(end[1], end[0]))
            for start, end in zip(positions, ends, strict=True)
        ),
    )
    height, width = rgb.shape[:2]
    sheet = Sheet(_AXIS + width, height + _AXIS)
    sheet.put(rgb, _AXIS, 0)
    _ticks_up(sheet, view, _AXIS)
    _ticks_right(sheet, view, _AXIS, height)
    sheet.write("x forward [m]", _AXIS + 8, 8, SMALL, on=(255, 255, 255))
    sheet.write("y left [m]", _AXIS, height + _AXIS, SMALL, PALE_INK, anchor="ld")
    if len(positions):
        words = f"arrows: distance covered in {_ARROW_SECONDS:g} s"
        sheet.write(words, _AXIS + width - 12, height - 12, SMALL, anchor="rd", on=(255, 255, 255))
    scale_bar(sheet, view, _AXIS + 20, height - 20)
    return sheet.rgb()


def _ticks_up(sheet: Sheet, view: View, left: float) -> None:
    height = view.rgb.shape[0]
    top = view.origin[1] + height / view.pixels_per_metre[1]
    for metres in tick_values(view.origin[1], top, height // 40):
        row = view.pixel(0, metres)[1]
        sheet.line([(left - 6, row), (left - 1, row)], PALE_INK)
        inside = min(max(row, 7), height - 7)
        sheet.write(f"{metres}", left - 9, inside, SMALL, PALE_INK, anchor="rm")


def _ticks_right(sheet: Sheet, view: View, left: float, bottom: float) -> None:
    width = view.rgb.shape[1]
    low = view.origin[0]
    for shown in tick_values(low, low + width / view.pixels_per_metre[0], width // 60):
        metres = view.right_sign * shown
        column = left + view.pixel(metres, 0)[0]
        sheet.line([(column, bottom), (column, bottom + 5)], PALE_INK)
        inside = min(max(column, left + 8), left + width - 12)
        sheet.write(f"{metres}", inside, bottom + 8, SMALL, PALE_INK, anchor="ma")


def _camera_panel(frame: CameraFrame) -> UInt8:
    """The ring's pictures as one sees them: front row left to right, rear row left to right."""
    width = (_COLUMN - (_TILES_PER_ROW - 1) * 6) // _TILES_PER_ROW
    tiles = [[_camera_tile(frame, name, width) for name in row] for row in camera_rows(frame.rig)]
    heights = [max(tile.shape[0] for tile in row) for row in tiles]
    sheet = Sheet(_COLUMN, sum(heights) + 6 * (len(tiles) - 1))
    top = 0
    for row, height in zip(tiles, heights, strict=True):
        for number, tile in enumerate(row):
            sheet.put(tile, number * (width + 6), top)
        top += height + 6
    return sheet.rgb()


def camera_rows(rig: CameraRig) -> list[list[str]]:
    """Camera names in spatial order, at most three to a row.

    First those that look ahead or to a side, then those that look back; in each row the camera
    that looks farthest left comes first.
    """
    axis = {camera.name: camera.ego_T_cam[:2, 2] for camera in rig.cameras}
    ahead = [name for name in rig.names if axis[name][0] > -0.17]  # to 10 degrees behind abeam
    behind = [name for name in rig.names if name not in ahead]
    ahead.sort(key=lambda name: -math.atan2(axis[name][1], axis[name][0]))
    behind.sort(key=lambda name: -axis[name][1])
    return [
        half[start : start + _TILES_PER_ROW]
        for half in (ahead, behind)
        for start in range(0, len(half), _TILES_PER_ROW)
    ]


def _camera_tile(frame: CameraFrame, name: str, width: int) -> UInt8:
    camera = frame.rig.camera(name)
    height = round(width * camera.height / camera.width)
    sheet = Sheet(width, height)
    image = frame.images.get(name)
    if image is None:
        sheet.box(0, 0, width - 1, height - 1, UNKNOWN_COLOUR, PALE_INK)
        sheet.write("no picture", width / 2, height / 2, TEXT, PALE_INK, anchor="mm")
        sheet.write(name, 8, 6, SMALL, (255, 255, 255), on=INK)
        return sheet.rgb()
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    sheet.put(small.astype(np.uint8, copy=False), 0, 0)
    late = (frame.stamps_ns[name] - frame.stamp_ns) / 1e6
    words = f"{name}   " + ("reference" if name == frame.reference_camera else f"{late:+.0f} ms")
    sheet.write(words, 8, 6, SMALL, (255, 255, 255), on=INK)
    if name in frame.reused:
        sheet.write("old picture", 8, height - 6, SMALL, (255, 255, 255), anchor="ld", on=WARNING)
    return sheet.rgb()


def _side_panel(prediction: OccupancyPrediction, half_width: float = 6.0) -> UInt8:
    view = side_view(prediction, half_width)
    height = view.rgb.shape[0]
    sheet = Sheet(_COLUMN, LINE + height + 26)
    words = f"From the right, |y| up to {half_width:g} m; heights x2. z up, x to the right [m]"
    sheet.write(words, _AXIS, 0, SMALL, PALE_INK)
    sheet.put(view.rgb, _AXIS, LINE)
    upper = view.origin[1] + height / view.pixels_per_metre[1]
    for metres in tick_values(view.origin[1], upper, 4):
        row = LINE + view.pixel(0, metres)[1]
        sheet.line([(_AXIS - 6, row), (_AXIS - 1, row)], PALE_INK)
        sheet.write(f"{metres}", _AXIS - 9, row, SMALL, PALE_INK, anchor="rm")
    _ticks_right(sheet, view, _AXIS, LINE + height)
    return sheet.rgb()


def _legend_panel(predictions: Sequence[OccupancyPrediction], width: int) -> UInt8:
    """Swatch, name and number of cells of every class that occurs; free space is not listed."""
    class_names, empty = predictions[0].class_names, predictions[0].empty_class
    counts = np.zeros(256, np.int64)
    for prediction in predictions:
        counts += np.bincount(prediction.labels.ravel(), minlength=256)
    entries: list[tuple[str, Colour, int]] = []
    for label, colour in enumerate(colours_of_ids(class_names)):
        name = class_names[label] if label < len(class_names) else f"id {label} without a name"
        if label == UNKNOWN_CLASS:
            name, colour = "unobserved", UNKNOWN_COLOUR
        if counts[label] and label != empty:
            entries.append((name, (int(colour[0]), int(colour[1]), int(colour[2])), counts[label]))
    columns = max(1, width // 300)
    rows = max(1, math.ceil(len(entries) / columns))
    sheet = Sheet(width, rows * (LINE + 4))
    if not entries:
        sheet.write("every cell is free", 0, 2, TEXT, PALE_INK)
    for number, (name, colour, count) in enumerate(entries):
        column, row = divmod(number, rows)
        left, top = column * (width // columns), row * (LINE + 4)
        sheet.box(left, top + 1, left + 20, top + 21, colour, PALE_INK)
        sheet.write(name, left + 28, top + 2, TEXT)
        sheet.write(f"{count}", left + 36 + text_width(name), top + 3, SMALL, PALE_INK)
    return sheet.rgb()


def _tile(prediction: OccupancyPrediction, pixels: int) -> UInt8:
    view = birds_eye_view(prediction, pixels)
    height, width = view.rgb.shape[:2]
    sheet = Sheet(width, height + 2 * LINE)
    words, ink = _history(prediction)
    sheet.write(_seconds(prediction.stamp_ns), 0, 0, SMALL)
    sheet.write(fit_text(words, width, SMALL), 0, LINE - 2, SMALL, ink)
    sheet.put(mark_vehicle(view), 0, 2 * LINE)
    return sheet.rgb()
