"""Drawing: sheets, text, scale bars, arrows and marks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from occ_perception.viewer.views import View

UInt8 = NDArray[np.uint8]
Colour = tuple[int, int, int]

PAPER: Colour = (246, 247, 249)
INK: Colour = (28, 32, 38)
PALE_INK: Colour = (104, 110, 120)
WARNING: Colour = (196, 32, 32)

TEXT = 16
SMALL = 14
LINE = 22
_TICK_METRES = (1, 2, 5, 10, 20, 50, 100)


class Sheet:
    """A canvas for images and text."""

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width, height), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def put(self, rgb: UInt8, left: float, top: float) -> None:
        """Paste an image (H, W, 3) with its upper left corner at (``left``, ``top``)."""
        self._image.paste(Image.fromarray(rgb), (round(left), round(top)))

    def write(
        self,
        words: str,
        left: float,
        top: float,
        size: int = TEXT,
        ink: Colour = INK,
        anchor: str = "la",
        on: Colour | None = None,
    ) -> None:
        """Write a line; ``anchor`` as in Pillow, ``on`` is the colour of a box behind the text."""
        place = (left, top)
        if on is not None:
            x0, y0, x1, y1 = self._draw.textbbox(place, words, font=_font(size), anchor=anchor)
            self._draw.rectangle((x0 - 4, y0 - 3, x1 + 4, y1 + 3), fill=on)
        self._draw.text(place, words, font=_font(size), fill=ink, anchor=anchor)

    def box(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, edge: Colour
    ) -> None:
        """A filled rectangle."""
        self._draw.rectangle((left, top, right, bottom), fill=fill, outline=edge)

    def line(self, points: Sequence[tuple[float, float]], ink: Colour, width: int = 1) -> None:
        """A polyline."""
        self._draw.line(list(points), fill=ink, width=width)

    def rgb(self) -> UInt8:
        """The whole sheet, (H, W, 3) uint8."""
        return np.array(self._image)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def text_width(words: str, size: int = TEXT) -> float:
    """Width of a line in pixels."""
    return float(_font(size).getlength(words))


def fit_text(words: str, width: float, size: int = TEXT) -> str:
    """The line, cut with an ellipsis if it is wider than ``width`` pixels."""
    if text_width(words, size) <= width:
        return words
    while words and text_width(words + "…", size) > width:
        words = words[:-1]
    return words.rstrip() + "…"


def tick_values(low: float, high: float, at_most: int) -> list[int]:
    """Round values in metres within [low, high], at most ``at_most``."""
    step = next((step for step in _TICK_METRES if (high - low) / step <= at_most), _TICK_METRES[-1])
    first = math.ceil(low / step - 1e-6)
    last = math.floor(high / step + 1e-6)
    return [step * count for count in range(first, last + 1)]


def scale_bar(sheet: Sheet, view: View, left: float, bottom: float) -> None:
    """Draw a bar of a round length, about a sixth of the view, with its length above it."""
    scale = view.pixels_per_metre[0]
    wanted = view.rgb.shape[1] / 6 / scale
    metres = max((step for step in _TICK_METRES if step <= wanted), default=_TICK_METRES[0])
    right = left + metres * scale
    sheet.box(left - 8, bottom - 34, right + 8, bottom + 8, (255, 255, 255), PALE_INK)
    sheet.line([(left, bottom - 8), (left, bottom), (right, bottom), (right, bottom - 8)], INK, 2)
    sheet.write(f"{metres} m", (left + right) / 2, bottom - 10, SMALL, anchor="ms")


def mark_vehicle(view: View) -> UInt8:
    """The view from above with an arrow head at the ego origin, pointing forward."""
    rgb: UInt8 = view.rgb.copy()
    outline = [(2.4, 0.0), (-1.2, 1.3), (-0.5, 0.0), (-1.2, -1.3)]
    size = max(1.0, 6.0 / view.pixels_per_metre[0])
    fixed = np.array([_fixed(view.pixel(size * y, size * x)) for x, y in outline], np.int32)
    cv2.fillPoly(rgb, [fixed], INK, cv2.LINE_AA, shift=4)
    cv2.polylines(rgb, [fixed], True, (255, 255, 255), 2, cv2.LINE_AA, shift=4)
    return rgb


def draw_arrows(
    rgb: UInt8, arrows: Iterable[tuple[tuple[float, float], tuple[float, float]]]
) -> None:
    """Draw arrows from pixel to pixel, dark with a white edge to stand out on every colour."""
    arrows = list(arrows)
    for colour, width in (((255, 255, 255), 4), (INK, 2)):
        for start, end in arrows:
            head = min(0.5, 7 / max(math.dist(start, end), 1e-6))
            cv2.arrowedLine(rgb, _fixed(start), _fixed(end), colour, width, cv2.LINE_AA, 4, head)


def draw_shapes(rgb: UInt8, shapes: Iterable[NDArray[np.float64]]) -> None:
    """Fill outlines (n, 2) of pixel positions, dark with a white edge."""
    for shape in shapes:
        fixed = np.array([_fixed((place[0], place[1])) for place in shape], np.int32)
        cv2.polylines(rgb, [fixed], True, (255, 255, 255), 3, cv2.LINE_AA, shift=4)
        cv2.fillPoly(rgb, [fixed], INK, cv2.LINE_AA, shift=4)


def _fixed(place: tuple[float, float]) -> tuple[int, int]:
    """A pixel position in sixteenths, as OpenCV draws between pixels."""
    return round(16 * place[0]), round(16 * place[1])
