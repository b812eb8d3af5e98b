"""Panels: images with captions (map, cameras, volume, legends) that a page is composed of."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.comparison import VERDICT_COLOURS, VERDICTS, Comparison
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
from occ_perception.viewer.flow_views import FULL_SPEED, flow_view, flow_wheel
from occ_perception.viewer.views import (
    UNKNOWN_COLOUR,
    View,
    birds_eye_view,
    colours_of_ids,
    motion_arrows,
    side_view,
)
from occ_perception.viewer.volume import (
    ARROW_SECONDS,
    difference_image,
    volume_image,
)

UInt8 = NDArray[np.uint8]

_AXIS = 44
_BETWEEN_TILES = 6
_CAMERAS_PER_ROW = 3
_WHITE = (255, 255, 255)
_FLOW_SHARE = 0.38
_WHEEL = 45


def history_words(prediction: OccupancyPrediction) -> tuple[str, Colour]:
    """The state of the model's history as text, and its colour; no text without a history."""
    count = prediction.history_length
    if not count and not prediction.history_break:
        return "", PALE_INK
    words = f"history of {count} frame{'' if count == 1 else 's'}"
    if not prediction.committed:
        words += ", this one not added"
    if prediction.history_break:
        return f"history cleared: {prediction.history_break}", WARNING
    return words, PALE_INK


def stamp_words(stamp_ns: int) -> str:
    """The stamp to the millisecond."""
    return f"stamp {stamp_ns // 10**9}.{stamp_ns % 10**9 // 10**6:03d} s"


def map_panel(prediction: OccupancyPrediction) -> UInt8:
    """The view from above with axes, motion arrows, the vehicle and a scale bar."""
    view = birds_eye_view(prediction)
    rgb = _marked(prediction, view)
    height, width = rgb.shape[:2]
    sheet = Sheet(_AXIS + width, height + _AXIS)
    sheet.put(rgb, _AXIS, 0)
    _ticks_up(sheet, view, _AXIS)
    _ticks_right(sheet, view, _AXIS, height)
    sheet.write("x forward [m]", _AXIS + 8, 8, SMALL, on=_WHITE)
    sheet.write("y left [m]", _AXIS, height + _AXIS, SMALL, PALE_INK, anchor="ld")
    if prediction.flow is not None:
        words = f"arrows: distance covered in {ARROW_SECONDS:g} s"
        sheet.write(words, _AXIS + width - 12, height - 12, SMALL, anchor="rd", on=_WHITE)
    scale_bar(sheet, view, _AXIS + 20, height - 20)
    return sheet.rgb()


def plain_map(prediction: OccupancyPrediction, pixels: int) -> UInt8:
    """The view from above with arrows and the vehicle only, about ``pixels`` wide."""
    return _marked(prediction, birds_eye_view(prediction, pixels))


def _marked(prediction: OccupancyPrediction, view: View) -> UInt8:
    rgb = mark_vehicle(view)
    positions, velocities = motion_arrows(prediction)
    ends = positions[:, :2] + ARROW_SECONDS * velocities
    draw_arrows(
        rgb,
        (
            (view.pixel(start[1], start[0]), view.pixel(end[1], end[0]))
            for start, end in zip(positions, ends, strict=True)
        ),
    )
    return rgb


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


def camera_panel(frame: CameraFrame, size: tuple[int, int], one_row: bool = False) -> UInt8:
    """The images of a frame set: a front row and a rear row, each from left to right.

    Args:
        frame: the frame set.
        size: width and maximum height of the panel, pixels.
        one_row: whether to put all images in one row, front cameras first.
    """
    rows = _tile_rows(frame.rig, one_row)
    width = tile_width(frame.rig, size, one_row)
    tiles = [[_camera_tile(frame, name, width) for name in row] for row in rows]
    heights = [max(tile.shape[0] for tile in row) for row in tiles]
    sheet = Sheet(size[0], sum(heights) + _BETWEEN_TILES * (len(tiles) - 1))
    top = 0
    for row, height in zip(tiles, heights, strict=True):
        for number, tile in enumerate(row):
            sheet.put(tile, number * (width + _BETWEEN_TILES), top)
        top += height + _BETWEEN_TILES
    return sheet.rgb()


def tile_width(rig: CameraRig, size: tuple[int, int], one_row: bool = False) -> int:
    """Width of every image in :func:`camera_panel` of that size, pixels."""
    rows = _tile_rows(rig, one_row)
    per_row = max(len(row) for row in rows)
    shape = max(camera.height / camera.width for camera in rig.cameras)
    return min(
        (size[0] - (per_row - 1) * _BETWEEN_TILES) // per_row,
        int((size[1] - (len(rows) - 1) * _BETWEEN_TILES) / len(rows) / shape),
    )


def _tile_rows(rig: CameraRig, one_row: bool) -> list[list[str]]:
    rows = camera_rows(rig)
    return [[name for row in rows for name in row]] if one_row else rows


def camera_rows(rig: CameraRig) -> list[list[str]]:
    """Camera names in spatial order, at most three to a row.

    Cameras that look ahead or to a side come first, then those that look back. In each row the
    camera that looks farthest to the left comes first.
    """
    axis = {camera.name: camera.ego_T_cam[:2, 2] for camera in rig.cameras}
    ahead = [name for name in rig.names if axis[name][0] > -0.17]  # to 10 degrees behind abeam
    behind = [name for name in rig.names if name not in ahead]
    ahead.sort(key=lambda name: -math.atan2(axis[name][1], axis[name][0]))
    behind.sort(key=lambda name: -axis[name][1])
    return [
        half[start : start + _CAMERAS_PER_ROW]
        for half in (ahead, behind)
        for start in range(0, len(half), _CAMERAS_PER_ROW)
    ]


def _camera_tile(frame: CameraFrame, name: str, width: int) -> UInt8:
    camera = frame.rig.camera(name)
    height = round(width * camera.height / camera.width)
    sheet = Sheet(width, height)
    image = frame.images.get(name)
    if image is None:
        sheet.box(0, 0, width - 1, height - 1, UNKNOWN_COLOUR, PALE_INK)
        sheet.write("no image", width / 2, height / 2, TEXT, PALE_INK, anchor="mm")
        sheet.write(name, 8, 6, SMALL, (255, 255, 255), on=INK)
        return sheet.rgb()
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    sheet.put(small.astype(np.uint8, copy=False), 0, 0)
    late = (frame.stamps_ns[name] - frame.stamp_ns) / 1e6
    words = f"{name}   " + ("reference" if name == frame.reference_camera else f"{late:+.0f} ms")
    words = fit_text(words, width - 16, SMALL)
    sheet.write(words, 8, 6, SMALL, (255, 255, 255), on=INK)
    if name in frame.reused:
        sheet.write("old image", 8, height - 6, SMALL, (255, 255, 255), anchor="ld", on=WARNING)
    return sheet.rgb()


def side_panel(prediction: OccupancyPrediction, width: int, half_width: float = 6.0) -> UInt8:
    """The view from the right, of voxels within ``half_width`` metres of the vehicle, with axes."""
    view = side_view(prediction, half_width, width - _AXIS)
    height = view.rgb.shape[0]
    sheet = Sheet(width, LINE + height + 26)
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


def volume_panel(prediction: OccupancyPrediction, size: tuple[int, int], caption: str) -> UInt8:
    """The view in perspective with a caption, of size (width, height).

    Flow, if there is any, is shown from above in a corner.
    """
    rgb = _captioned(volume_image(prediction, size), caption)
    if prediction.flow is None:
        return rgb
    inset = flow_panel(prediction, round(_FLOW_SHARE * size[1]))
    height, width = inset.shape[:2]
    rgb[8 : 8 + height, size[0] - 8 - width : size[0] - 8] = inset
    return rgb


def flow_panel(prediction: OccupancyPrediction, pixels: int) -> UInt8:
    """Flow as hue from above, about ``pixels`` wide, with its colour wheel."""
    rgb = mark_vehicle(flow_view(prediction, pixels))
    height, width = rgb.shape[:2]
    sheet = Sheet(width + 2, height + 2)
    sheet.box(0, 0, width + 1, height + 1, _WHITE, PALE_INK)
    sheet.put(rgb, 1, 1)
    wheel = flow_wheel(_WHEEL)
    sheet.put(wheel, width - _WHEEL, height - _WHEEL)
    sheet.write("flow", 8, 6, SMALL, on=_WHITE)
    words = f"rim {FULL_SPEED:g} m/s"
    sheet.write(words, width - _WHEEL - 8, height - 6, SMALL, anchor="rd", on=_WHITE)
    return sheet.rgb()


def difference_panel(comparison: Comparison, size: tuple[int, int], caption: str) -> UInt8:
    """Verdicts in perspective with a caption, of size (width, height)."""
    return _captioned(difference_image(comparison, size), caption)


def _captioned(rgb: UInt8, caption: str) -> UInt8:
    height, width = rgb.shape[:2]
    sheet = Sheet(width, height)
    sheet.put(rgb, 0, 0)
    sheet.write(caption, 12, 10, TEXT, on=_WHITE)
    return sheet.rgb()


def legend_panel(predictions: Sequence[OccupancyPrediction], width: int) -> UInt8:
    """Swatch, name and number of voxels of every class present, without free space."""
    class_names, empty = predictions[0].class_names, predictions[0].empty_class
    counts = np.zeros(256, np.int64)
    for prediction in predictions:
        counts += np.bincount(prediction.labels.ravel(), minlength=256)
    entries: list[tuple[str, Colour, str]] = []
    for label, colour in enumerate(colours_of_ids(class_names)):
        name = class_names[label] if label < len(class_names) else f"id {label} without a name"
        if label == UNKNOWN_CLASS:
            name, colour = "unobserved", np.array(UNKNOWN_COLOUR)
        if counts[label] and label != empty:
            entries.append((name, _colour(colour), str(counts[label])))
    return _swatches(entries, width, max(1, width // 290))


def vocabulary_panel(prediction: OccupancyPrediction, width: int, columns: int) -> UInt8:
    """Swatch and name of every class of the model, the same for all frames of a film."""
    colours = colours_of_ids(prediction.class_names)
    entries = [
        (name, _colour(colours[label]), "")
        for label, name in enumerate(prediction.class_names)
        if label != prediction.empty_class
    ]
    return _swatches(entries, width, columns)


def verdict_panel(comparison: Comparison, width: int, columns: int) -> UInt8:
    """Swatch, name and share of every verdict, among voxels that are occupied in either grid."""
    counts = comparison.counts
    total = max(sum(counts), 1)
    entries = [
        (name, colour, f"{100 * count / total:.0f} %")
        for name, colour, count in zip(VERDICTS, VERDICT_COLOURS, counts, strict=True)
    ]
    return _swatches(entries, width, columns)


def _colour(rgb: NDArray[np.integer]) -> Colour:
    return int(rgb[0]), int(rgb[1]), int(rgb[2])


def _swatches(entries: Sequence[tuple[str, Colour, str]], width: int, columns: int) -> UInt8:
    """Names beside their colours, filled column by column."""
    rows = max(1, math.ceil(len(entries) / columns))
    sheet = Sheet(width, rows * (LINE + 4))
    if not entries:
        sheet.write("every voxel is free", 0, 2, TEXT, PALE_INK)
    room, swatch = width // columns, 28
    for number, (name, colour, value) in enumerate(entries):
        column, row = divmod(number, rows)
        left, top = column * room, row * (LINE + 4)
        sheet.box(left, top + 1, left + 20, top + 21, colour, PALE_INK)
        taken = swatch + (8 + text_width(value, SMALL) if value else 0)
        shown = fit_text(name, room - taken - 4)
        sheet.write(shown, left + swatch, top + 2, TEXT)
        after = left + swatch + 8 + text_width(shown)
        sheet.write(value, after, top + 3, SMALL, PALE_INK)
    return sheet.rgb()
