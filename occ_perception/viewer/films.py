"""Writes sequences of images: as a film file, or as numbered files in a folder."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import OutputError, atomic_path
from occ_perception.errors import OptionError
from occ_perception.viewer.images import write_png
from occ_perception.viewer.views import ViewerError

UInt8 = NDArray[np.uint8]

# Browsers play the first, but not every build of OpenCV can write it. Most players play the second.
_CODECS = ("vp09", "mp4v")


class ImageSink(Protocol):
    """Takes images (H, W, 3) uint8 RGB in their order."""

    def write(self, rgb: UInt8) -> None:
        """Add an image."""

    def __enter__(self) -> ImageSink: ...

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None: ...


class Film:
    """An .mp4 file; a context manager. The file appears when the context ends without an error.

    Args:
        path: the file to write; an existing one is replaced.
        images_per_second: playing speed.

    Attributes:
        codec: VP9 if OpenCV can write it, otherwise MPEG-4 part 2, which browsers do not play.

    Raises:
        OptionError: the name does not end in .mp4, or the rate is out of range.
        ViewerError: OpenCV has none of the codecs.
        OutputError: the file cannot be written, or has fewer images than were written.
    """

    def __init__(self, path: str | Path, images_per_second: float) -> None:
        self.path = Path(path)
        self.codec = ""
        if self.path.suffix != ".mp4":
            raise OptionError(f"{self.path} is not a film name: expected a name ending in .mp4")
        if not 0 < images_per_second <= 240:
            raise OptionError(f"{images_per_second} images per second, expected 0 to 240")
        self._rate = images_per_second
        self._writer: cv2.VideoWriter | None = None
        self._output = ExitStack()
        self._unfinished: Path | None = None
        self._size = (0, 0)
        self._count = 0

    def __enter__(self) -> Film:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        with self._output:
            if self._writer is not None:
                self._writer.release()
                self._writer = None
            if self._unfinished is not None and failure is not None:
                self._unfinished.unlink(missing_ok=True)
            elif self._unfinished is not None:
                self._check(self._unfinished)

    def write(self, rgb: UInt8) -> None:
        """Add an image; all must have the size of the first.

        Raises:
            ValueError: the image has another size.
        """
        height, width = rgb.shape[:2]
        if self._writer is None:
            self._size = (width, height)
            self._writer = self._open()
        if (width, height) != self._size:
            raise ValueError(f"image of {width}x{height} in a film of {self._size}")
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
        self._count += 1

    def _open(self) -> cv2.VideoWriter:
        self._unfinished = self._output.enter_context(atomic_path(self.path))
        for self.codec in _CODECS:
            code = cv2.VideoWriter.fourcc(*self.codec)
            writer = cv2.VideoWriter(str(self._unfinished), code, self._rate, self._size)
            if writer.isOpened():
                return writer
        raise ViewerError(
            f"{self.path}: this OpenCV can write none of {', '.join(_CODECS)}; write a folder of "
            "images instead, or install opencv-python-headless from PyPI"
        )

    def _check(self, unfinished: Path) -> None:
        # The writer does not report a full disk.
        reader = cv2.VideoCapture(str(unfinished))
        readable = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if readable != self._count:
            raise OutputError(
                f"{self.path}: {self._count} images were written, the file holds {readable}; "
                "is the disk full?"
            )


class ImageFolder:
    """A folder of numbered PNG files; a context manager, like :class:`Film`.

    Numbered PNG files of an earlier film in the folder are deleted; other files stay.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._count = 0

    def __enter__(self) -> ImageFolder:
        self.path.mkdir(parents=True, exist_ok=True)
        for earlier in self.path.glob(f"{'[0-9]' * 6}.png"):
            earlier.unlink()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Do nothing; each file is complete when written."""

    def write(self, rgb: UInt8) -> None:
        """Add an image."""
        write_png(self.path / f"{self._count:06d}.png", rgb)
        self._count += 1
