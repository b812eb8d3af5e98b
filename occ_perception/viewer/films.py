"""Writes sequences of images: as a film file, or as numbered files in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import OutputError, atomic_path
from occ_perception.errors import OptionError
from occ_perception.viewer.images import write_png
from occ_perception.viewer.views import ViewerError

UInt8 = NDArray[np.uint8]

# Every browser plays H.264, most play VP9, none plays MPEG-4 part 2, which most players do.
_CODECS = ("h264", "vp09", "mp4v")
BROWSER_CODECS = ("h264", "vp09")
"""Codecs of :class:`Film` that browsers play."""


_USUAL_RATE, _HIGHEST_RATE = 2.0, 60.0


def recorded_rate(stamps_ns: Sequence[int]) -> float:
    """Images per second from the first two stamps, at most 60; 2 if there are fewer."""
    if len(stamps_ns) < 2 or stamps_ns[1] <= stamps_ns[0]:
        return _USUAL_RATE
    return min(1e9 / (stamps_ns[1] - stamps_ns[0]), _HIGHEST_RATE)


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
        codec: H.264 (``h264``) if PyAV is installed, else VP9 (``vp09``) if OpenCV can write it,
            else MPEG-4 part 2 (``mp4v``), which browsers do not play.

    Raises:
        OptionError: the name does not end in .mp4, or the rate is out of range.
        ViewerError: there is none of the codecs.
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
        self._writer: _Writer | None = None
        self._output = ExitStack()
        self._unfinished: Path | None = None
        self._size = (0, 0)
        self._count = 0

    def __enter__(self) -> Film:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        with self._output:
            writer, self._writer = self._writer, None
            if writer is not None:
                try:
                    writer.close()
                except OSError as error:
                    if failure is None:
                        raise self._not_written(error) from error
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
        try:
            self._writer.write(rgb)
        except OSError as error:  # PyAV reports it, OpenCV does not
            raise self._not_written(error) from error
        self._count += 1

    def _open(self) -> _Writer:
        self._unfinished = self._output.enter_context(atomic_path(self.path))
        for self.codec in _CODECS:
            kind = _H264 if self.codec == "h264" else _OpenCV
            writer = kind.open(self._unfinished, self.codec, self._rate, self._size)
            if writer is not None:
                return writer
        raise ViewerError(
            f"{self.path}: this OpenCV can write none of {', '.join(_CODECS)}, and PyAV is not "
            "installed; pip install av, or write a folder of images instead"
        )

    def _not_written(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.path}: image {self._count} cannot be written ({error.strerror}); "
            "is the disk full?"
        )

    def _check(self, unfinished: Path) -> None:
        # OpenCV does not report a full disk.
        reader = cv2.VideoCapture(str(unfinished))
        readable = int(reader.get(cv2.CAP_PROP_FRAME_COUNT)) if reader.isOpened() else 0
        reader.release()
        if readable != self._count:
            raise OutputError(
                f"{self.path}: {self._count} images were written, the file holds {readable}; "
                "is the disk full?"
            )


class _Writer(Protocol):
    def write(self, rgb: UInt8) -> None: ...

    def close(self) -> None: ...


class _OpenCV:
    def __init__(self, writer: cv2.VideoWriter) -> None:
        self._writer = writer

    @classmethod
    def open(cls, path: Path, codec: str, rate: float, size: tuple[int, int]) -> _OpenCV | None:
        """The writer; None if this OpenCV lacks the codec."""
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size)
        return cls(writer) if writer.isOpened() else None

    def write(self, rgb: UInt8) -> None:
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        self._writer.release()


class _H264:
    def __init__(self, container: Any, stream: Any) -> None:
        self._container, self._stream = container, stream

    @classmethod
    def open(cls, path: Path, _codec: str, rate: float, size: tuple[int, int]) -> _H264 | None:
        """The writer; None if PyAV or its encoder is not there."""
        try:
            import av
        except ImportError:
            return None
        if "libx264" not in av.codecs_available:
            return None
        # The index at the front: a page can play the film while it loads.
        container = av.open(str(path), "w", format="mp4", options={"movflags": "faststart"})
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        stream.width, stream.height = (side + side % 2 for side in size)  # must be even
        stream.pix_fmt, stream.options = "yuv420p", {"crf": "20", "preset": "veryfast"}
        return cls(container, stream)

    def write(self, rgb: UInt8) -> None:
        from av import VideoFrame

        height, width = rgb.shape[:2]
        even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        self._send(VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24"))

    def close(self) -> None:
        self._send(None)
        self._container.close()

    def _send(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


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
