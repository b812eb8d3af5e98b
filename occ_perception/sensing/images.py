"""Decodes image messages into RGB images, without cv_bridge.

One decoder serves the node and the offline tools. JPEG is decoded by OpenCV: on real nuScenes
images its result equals that of Pillow, which the reference code uses, bit for bit in half the
time (measured in docs/bags.md). OpenCV however fills the missing part of a damaged JPEG with grey
and reports success, so markers and codes of the file are checked here first.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OccError, git_lfs_advice
from occ_perception.sensing.jpeg_scan import scan_problem

RgbImage = NDArray[np.uint8]
"""(H, W, 3) uint8, channel order R G B."""

_JPEG_MAGIC = b"\xff\xd8\xff"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class ImageError(OccError):
    """An image that cannot be decoded; the message states the reason and the remedy."""


@dataclass(frozen=True, eq=False)
class SensorImage:
    """The fields of a raw image message.

    Attributes:
        encoding: name as in sensor_msgs/image_encodings, e.g. ``bgr8``.
        height, width: pixels.
        step: bytes per row, padding included.
        data: the bytes; anything numpy can view as a buffer of bytes.
        is_bigendian: byte order of 16-bit samples.
    """

    encoding: str
    height: int
    width: int
    step: int
    data: Any
    is_bigendian: bool = False


@dataclass(frozen=True, eq=False)
class EncodedImage:
    """The fields of a compressed image message.

    Attributes:
        format: free text, ``SOURCE; jpeg compressed TARGET`` from image_transport. It is used to
            tell Bayer mosaics from grey images; the data says what kind of file it is.
        data: the bytes of the file.
    """

    format: str
    data: Any


def decode_image(
    image: SensorImage | EncodedImage, encoding_override: str | None = None
) -> RgbImage:
    """Decode to RGB; the result shares no memory with the message.

    Args:
        image: a raw or compressed image.
        encoding_override: encoding of raw data, instead of the one in the message; needed for
            ``8UC3``, which does not define its channels. Of compressed images, only whether a grey
            one is a Bayer mosaic.

    Returns:
        (H, W, 3) uint8 RGB. EXIF orientation is ignored, because intrinsics refer to the sensor's
        rows and columns.

    Raises:
        ImageError: unknown encoding, inconsistent sizes, truncated or corrupt data.
    """
    if isinstance(image, EncodedImage):
        return _decode_compressed(image, encoding_override)
    return _decode_raw(image, encoding_override)


def load_decoder() -> None:
    """Load what the first image would otherwise wait for, e.g. compiled loops."""
    _, smallest = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))
    decode_image(EncodedImage("jpeg", smallest.tobytes()))


# -- raw -----------------------------------------------------------------------------------------


def _convert_with(code: int) -> Callable[[NDArray[Any]], RgbImage]:
    return lambda pixels: np.asarray(cv2.cvtColor(pixels, code), dtype=np.uint8)


@dataclass(frozen=True)
class _PixelFormat:
    """Samples per pixel, bytes per sample, and the conversion to RGB."""

    channels: int
    sample_bytes: int
    to_rgb: Callable[[NDArray[Any]], RgbImage]


# ROS names a Bayer pattern by the first two rows of the sensor, OpenCV by the 2x2 block that
# starts at the second pixel of the second row: rggb is BG, and so on.
_BAYER_CODES = {
    "rggb": cv2.COLOR_BayerBG2RGB,
    "bggr": cv2.COLOR_BayerRG2RGB,
    "gbrg": cv2.COLOR_BayerGR2RGB,
    "grbg": cv2.COLOR_BayerGB2RGB,
}

_GREY = _convert_with(cv2.COLOR_GRAY2RGB)
_UYVY = _PixelFormat(2, 1, _convert_with(cv2.COLOR_YUV2RGB_UYVY))
_YUY2 = _PixelFormat(2, 1, _convert_with(cv2.COLOR_YUV2RGB_YUY2))

# Channels and conversion; with 8 or 16 bits per channel.
_COLOURS: dict[str, tuple[int, Callable[[NDArray[Any]], RgbImage]]] = {
    "rgb": (3, np.copy),
    "bgr": (3, _convert_with(cv2.COLOR_BGR2RGB)),
    "rgba": (4, _convert_with(cv2.COLOR_RGBA2RGB)),
    "bgra": (4, _convert_with(cv2.COLOR_BGRA2RGB)),
    "mono": (1, _GREY),
}

_PIXEL_FORMATS: dict[str, _PixelFormat] = {
    **{f"{name}8": _PixelFormat(count, 1, to_rgb) for name, (count, to_rgb) in _COLOURS.items()},
    **{f"{name}16": _PixelFormat(count, 2, to_rgb) for name, (count, to_rgb) in _COLOURS.items()},
    "8uc1": _PixelFormat(1, 1, _GREY),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuv422_yuy2": _YUY2,
    "yuyv": _YUY2,
    **{f"bayer_{p}8": _PixelFormat(1, 1, _convert_with(c)) for p, c in _BAYER_CODES.items()},
    **{f"bayer_{p}16": _PixelFormat(1, 2, _convert_with(c)) for p, c in _BAYER_CODES.items()},
}

RAW_ENCODINGS = (*_PIXEL_FORMATS, "nv12")
"""Encodings of raw images that can be decoded, lower case."""


def _decode_raw(image: SensorImage, encoding_override: str | None) -> RgbImage:
    encoding = (encoding_override or image.encoding).strip().lower()
    if encoding == "8uc3":
        raise ImageError(
            "encoding 8UC3 does not say whether the channels are RGB or BGR; set the camera's "
            "encoding to bgr8 or rgb8 in the topic layout (drivers that forward OpenCV images "
            "send bgr8)"
        )
    if encoding not in RAW_ENCODINGS:
        raise ImageError(
            f"unknown image encoding {encoding_override or image.encoding!r}; "
            f"supported: {', '.join(RAW_ENCODINGS)}"
        )
    if encoding == "nv12":
        return _decode_nv12(image)
    pixel_format = _PIXEL_FORMATS[encoding]
    samples = _rows(image, image.height, image.width * pixel_format.channels, pixel_format)
    if pixel_format.sample_bytes == 2:
        samples = _to_8_bit(samples)
    if pixel_format.channels > 1:
        samples = samples.reshape(image.height, image.width, pixel_format.channels)
    try:
        return pixel_format.to_rgb(samples)
    except cv2.error as error:
        raise ImageError(
            f"{image.width}x{image.height} pixels cannot be {encoding}: {error}"
        ) from error


def _rows(
    image: SensorImage, rows: int, samples_per_row: int, pixel_format: _PixelFormat
) -> NDArray[Any]:
    """The samples (rows, samples_per_row), without row padding."""
    data = np.frombuffer(image.data, dtype=np.uint8)
    row_bytes = samples_per_row * pixel_format.sample_bytes
    if image.height <= 0 or image.width <= 0 or image.step < row_bytes:
        raise ImageError(
            f"image of {image.width}x{image.height} pixels with {image.step} bytes per row; "
            f"its encoding needs at least {row_bytes} bytes per row"
        )
    # The padding of the last row may be missing.
    needed = image.step * (rows - 1) + row_bytes
    if data.size < needed:
        raise ImageError(f"image data is truncated: {data.size} bytes, expected {needed}")
    padded = np.lib.stride_tricks.as_strided(data, (rows, row_bytes), (image.step, 1))
    samples = np.ascontiguousarray(padded)
    if pixel_format.sample_bytes == 2:
        return samples.view(">u2" if image.is_bigendian else "<u2")
    return samples


def _to_8_bit(samples: NDArray[Any]) -> RgbImage:
    """The full 16-bit range mapped to the full 8-bit range, rounded: x * 255 / 65535 = x / 257."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _decode_nv12(image: SensorImage) -> RgbImage:
    """A plane of luma, then a plane of interleaved chroma at half the resolution."""
    if image.height % 2 or image.width % 2:
        raise ImageError(f"nv12 needs even sizes, got {image.width}x{image.height} pixels")
    planes = _rows(image, image.height * 3 // 2, image.width, _PIXEL_FORMATS["mono8"])
    return _convert_with(cv2.COLOR_YUV2RGB_NV12)(planes)


# -- compressed ----------------------------------------------------------------------------------


def check_compressed(image: EncodedImage) -> None:
    """Check that the data is a complete JPEG or PNG file, without decoding it.

    Raises:
        ImageError: another format, truncated, or damaged in its structure.
    """
    data = np.frombuffer(image.data, dtype=np.uint8)
    start = data[:20].tobytes()
    if "compresseddepth" in image.format.lower() or start[12:] == _PNG_MAGIC:
        raise ImageError(
            "compressedDepth holds depth, not a colour image; subscribe to the colour image"
        )
    if start.startswith(_JPEG_MAGIC):
        kind, problem = "JPEG", _jpeg_problem(data) or scan_problem(data)
    elif start.startswith(_PNG_MAGIC):
        kind, problem = "PNG", _png_problem(data)
    else:
        advice = git_lfs_advice(data[:100].tobytes())
        raise ImageError(
            f"compressed image (format {image.format!r}, {data.size} bytes) is neither JPEG "
            f"nor PNG: {advice or 'it starts with ' + (start[:8].hex(' ') or 'nothing')}"
        )
    if problem:
        raise ImageError(f"{kind} of {data.size} bytes is damaged: {problem}")


def encoded_size(image: EncodedImage) -> tuple[int, int] | None:
    """Width and height that a JPEG or PNG states, without decoding it; None if it states none.

    A small file may state a size that takes all memory.
    """
    data = np.frombuffer(image.data, dtype=np.uint8)
    start = data[:24].tobytes()
    if start.startswith(_PNG_MAGIC) and len(start) == 24:
        return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")
    position = 2
    while start.startswith(_JPEG_MAGIC) and position + 9 <= data.size:
        segment = data[position : position + 9].tobytes()
        if segment[1] in _SOF:
            height, width = int.from_bytes(segment[5:7], "big"), int.from_bytes(segment[7:], "big")
            return (width, height) if height else None
        position += 1 if segment[1] == 0xFF else 2 + int.from_bytes(segment[2:4], "big")
    return None


def _decode_compressed(image: EncodedImage, encoding_override: str | None) -> RgbImage:
    check_compressed(image)
    data = np.frombuffer(image.data, dtype=np.uint8)
    bayer = _bayer_pattern(encoding_override or "") or _bayer_pattern(image.format)
    colour = cv2.IMREAD_ANYCOLOR if bayer else cv2.IMREAD_COLOR
    try:
        decoded = cv2.imdecode(data, colour | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise ImageError(f"image of {data.size} bytes cannot be decoded: {error}") from error
    if decoded is None:
        raise ImageError(f"image of {data.size} bytes is damaged: the decoder failed")
    if decoded.dtype == np.uint16:
        decoded = _to_8_bit(decoded)
    if decoded.ndim == 2:  # one sample per pixel, and the format names a mosaic
        if bayer not in _BAYER_CODES:
            raise ImageError(
                f"format {image.format!r} names the mosaic {bayer!r}; supported: bayer_"
                f"{', bayer_'.join(_BAYER_CODES)}"
            )
        return _convert_with(_BAYER_CODES[bayer])(decoded)
    # IMREAD_COLOR_RGB would save a pass; the OpenCV of older ROS distributions lacks it.
    return _convert_with(cv2.COLOR_BGR2RGB)(decoded)


def _bayer_pattern(stated: str) -> str:
    """The pattern that a format or an encoding names, e.g. ``rggb``; "" if it names none.

    What was compressed counts, if it is stated, and not what it was made from.
    """
    source, _, target = stated.lower().partition("compressed")
    found = re.search("bayer_([a-z]+)", target.strip() or source)
    return found[1] if found else ""


_EOI, _SOS = 0xD9, 0xDA
_SOF = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# DHT, DQT, DNL, DRI, COM and application segments may stand between the scans of an image.
_BETWEEN_SCANS = {_EOI, _SOS, 0xC4, 0xDB, 0xDC, 0xDD, 0xFE, *range(0xE0, 0xF0)}


def _jpeg_problem(data: NDArray[np.uint8]) -> str | None:
    """An error in the marker structure (ITU-T T.81, annex B) from start to end of image, or None.

    Finds data that ends early and damage that creates illegal markers.
    """
    following = data[1:]
    in_scan = (data[:-1] == 0xFF) & (following != 0x00) & (following != 0xFF)
    in_scan &= (following & 0xF8) != 0xD0  # restart markers belong to the scan
    marker_positions = np.flatnonzero(in_scan)
    position = 2
    while position + 4 <= data.size or (position + 2 <= data.size and data[position + 1] == _EOI):
        if data[position] != 0xFF:
            return f"no marker at byte {position}"
        marker = int(data[position + 1])
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker == _EOI:
            return None
        position += 2 + (int(data[position + 2]) << 8) + int(data[position + 3])
        if marker != _SOS:
            continue
        next_marker = int(np.searchsorted(marker_positions, position))
        if next_marker == marker_positions.size:
            break
        position = int(marker_positions[next_marker])
        if int(data[position + 1]) not in _BETWEEN_SCANS:
            return f"illegal marker ff {data[position + 1]:02x} in the scan at byte {position}"
    return "it is truncated (no end-of-image marker)"


def _png_problem(data: NDArray[np.uint8]) -> str | None:
    """An error in the chunks' lengths or checksums (PNG specification, section 5), or None."""
    content = data.data
    position = len(_PNG_MAGIC)
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        kind = bytes(content[position + 4 : position + 8])
        end = position + 8 + length
        if end + 4 > len(content):
            break
        stored = int.from_bytes(content[end : end + 4], "big")
        if zlib.crc32(content[position + 4 : end]) != stored:
            return f"checksum of chunk {kind!r} at byte {position} is wrong"
        if kind == b"IEND":
            return None
        position = end + 4
    return "it is truncated (no IEND chunk)"
