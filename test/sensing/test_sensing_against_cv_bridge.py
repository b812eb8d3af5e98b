"""Image decoding beside cv_bridge, where that is installed; it is part of a ROS installation.

Decoding needs no cv_bridge. Bayer mosaics of 16 bits may differ by one step of 8 bits: cv_bridge
makes colours first and reduces the bits then. Rows have no padding here, which cv_bridge for Python
ignores in old versions, and in new ones if it is no whole number of pixels.
"""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

pytest.importorskip("cv_bridge", exc_type=ImportError)
pytest.importorskip("sensor_msgs.msg", exc_type=ImportError)

import cv_bridge
from sensor_msgs.msg import CompressedImage, Image

from occ_perception.sensing.images import EncodedImage, SensorImage, decode_image

HEIGHT, WIDTH = 48, 80
CHANNELS = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4, "mono": 1}
BAYER = ("rggb", "bggr", "gbrg", "grbg")


def samples(channels: int, kind: str) -> np.ndarray:
    largest = np.iinfo(kind).max
    values = np.random.default_rng(0).integers(0, largest, (HEIGHT, WIDTH * channels), np.int64)
    return values.astype(kind)


def both(rows: np.ndarray, encoding: str) -> tuple[np.ndarray, np.ndarray]:
    """One image message, by cv_bridge and by us."""
    data = rows.view(np.uint8)
    message = Image()
    message.height, message.width, message.encoding = HEIGHT, WIDTH, encoding
    message.step, message.data = data.shape[1], data.tobytes()
    message.is_bigendian = sys.byteorder == "big"
    theirs = cv_bridge.CvBridge().imgmsg_to_cv2(message, "rgb8")
    ours = SensorImage(encoding, HEIGHT, WIDTH, message.step, message.data, message.is_bigendian)
    return theirs, decode_image(ours)


@pytest.mark.parametrize("encoding", [f"{name}{bits}" for name in CHANNELS for bits in (8, 16)])
def test_colours_and_grey_are_equal(encoding: str) -> None:
    name, kind = encoding.rstrip("0123456789"), "u2" if encoding.endswith("16") else "u1"
    theirs, ours = both(samples(CHANNELS[name], kind), encoding)
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("pattern", BAYER)
def test_mosaics_are_equal(pattern: str, bits: int) -> None:
    theirs, ours = both(samples(1, f"u{bits // 8}"), f"bayer_{pattern}{bits}")
    np.testing.assert_allclose(ours.astype(int), theirs.astype(int), atol=0 if bits == 8 else 1)


def test_yuv_is_equal() -> None:
    theirs, ours = both(samples(2, "u1"), "yuv422")
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_compressed_images_are_equal(suffix: str) -> None:
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    bgr = np.stack([x * 3, y * 5, (x + y) * 2], axis=-1).astype(np.uint8)
    message = CompressedImage()
    message.format = "bgr8; jpeg compressed bgr8" if suffix == ".jpg" else "bgr8; png compressed"
    message.data = cv2.imencode(suffix, bgr)[1].tobytes()
    theirs = cv_bridge.CvBridge().compressed_imgmsg_to_cv2(message, "rgb8")
    np.testing.assert_array_equal(decode_image(EncodedImage(message.format, message.data)), theirs)
