"""Decoding compared with Pillow and with hand-written pixels."""

from __future__ import annotations

import array
import io

import numpy as np
import pytest
from PIL import Image

from occ_perception.sensing.images import (
    EncodedImage,
    ImageError,
    SensorImage,
    decode_image,
)


def scene(height: int = 48, width: int = 80) -> np.ndarray:
    """A colourful image with edges, so that chroma upsampling shows."""
    y, x = np.mgrid[0:height, 0:width]
    rgb = np.stack([x * 255 // width, y * 255 // height, (x * y) % 256], axis=-1).astype(np.uint8)
    rgb[10:20, 30:50] = (250, 10, 20)
    return rgb


def encoded(rgb: np.ndarray, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


def pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def decoded(data: bytes, declared: str = "jpeg") -> np.ndarray:
    return decode_image(EncodedImage(declared, data))


@pytest.mark.parametrize("options", [
    {"quality": 90},
    {"quality": 75, "subsampling": "4:4:4"},
    {"quality": 75, "subsampling": "4:2:2"},
    {"quality": 95, "progressive": True},
    {"quality": 60, "optimize": True, "restart_marker_rows": 1},
])  # fmt: skip
@pytest.mark.parametrize("size", [(48, 80), (47, 81)])
def test_jpeg_equals_pillow_bit_for_bit(options, size):
    data = encoded(scene(*size), **options)
    np.testing.assert_array_equal(decoded(data), pillow(data))


def test_grey_jpeg_becomes_three_equal_channels():
    data = encoded(scene()[..., 0])
    np.testing.assert_array_equal(decoded(data), pillow(data))


def test_real_images_equal_pillow_bit_for_bit(shared_dir):
    files = sorted((shared_dir / "data").rglob("CAM_*.jpg"))
    assert len(files) >= 30
    for file in files:
        data = file.read_bytes()
        np.testing.assert_array_equal(decoded(data), pillow(data), err_msg=str(file))


def test_png_equals_pillow_whatever_the_format_field_says():
    data = encoded(scene(), "PNG")
    np.testing.assert_array_equal(decoded(data, "rgb8; jpeg compressed bgr8"), scene())


def test_16_bit_png_is_scaled_like_mono16():
    samples = np.array([[0, 1000], [32768, 65535]], dtype=np.uint16)
    rgb = decoded(encoded(samples, "PNG"), "mono16; png compressed")
    np.testing.assert_array_equal(rgb[..., 0], [[0, 4], [128, 255]])


def mosaic(colour: tuple[int, int, int], depth: int = 8) -> np.ndarray:
    """Bayer pattern rggb of one colour."""
    red, green, blue = colour
    samples = np.tile(np.array([[red, green], [green, blue]]), (12, 16))
    return samples.astype(np.uint8) if depth == 8 else (samples * 257).astype(np.uint16)


@pytest.mark.parametrize(("declared", "override"), [
    ("bayer_rggb8; jpeg compressed bayer_rggb8", None),
    ("bayer_rggb8; jpeg compressed ", None),
    ("rgb8; jpeg compressed bayer_rggb8", None),
    ("bayer_rggb8; png compressed", None),
    ("bayer_rggb16; png compressed", None),
    ("jpeg", "bayer_rggb8"),
])  # fmt: skip
def test_a_compressed_mosaic_becomes_colour(declared, override):
    samples = mosaic((20, 60, 200), 16 if "16" in declared else 8)
    kind = {"quality": 100} if "jpeg" in declared else {}
    data = encoded(samples, "JPEG" if kind else "PNG", **kind)
    rgb = decode_image(EncodedImage(declared, data), override)
    assert rgb.shape == (24, 32, 3)
    inner = rgb[4:-4, 4:-4].reshape(-1, 3)
    np.testing.assert_allclose(inner, np.broadcast_to((20, 60, 200), inner.shape), atol=6)


@pytest.mark.parametrize("declared", [
    "bayer_rggb8; jpeg compressed bgr8", "bayer_rggb8; jpeg compressed mono8", "jpeg",
])  # fmt: skip
def test_what_was_made_from_a_mosaic_is_no_mosaic(declared):
    image = scene()[..., 0] if "mono8" in declared else scene()
    np.testing.assert_array_equal(decoded(encoded(image), declared), pillow(encoded(image)))


def test_an_unknown_mosaic_is_refused():
    with pytest.raises(ImageError, match="names the mosaic 'rccb'; supported: bayer_rggb, "):
        decoded(encoded(scene()[..., 0]), "bayer_rccb8; jpeg compressed ")


def test_exif_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    data = encoded(scene(), exif=exif.tobytes())
    assert decoded(data).shape == (48, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("keep", [0.02, 0.3, 0.6, 0.9, 0.999])
def test_truncated_images_are_refused(kind, keep):
    data = encoded(scene(120, 160), kind)
    with pytest.raises(ImageError, match=r"damaged: it is truncated|neither JPEG nor PNG"):
        decoded(data[: int(len(data) * keep)])


def test_every_truncation_of_a_jpeg_is_refused():
    data = encoded(scene(16, 16), progressive=True)
    assert decoded(data).shape == (16, 16, 3)
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decoded(data[:length])


def test_padding_after_the_end_of_image_is_accepted():
    data = encoded(scene())
    np.testing.assert_array_equal(decoded(data + b"\0" * 512), pillow(data))


def test_a_thumbnail_inside_the_metadata_does_not_hide_a_truncation():
    thumbnail = encoded(scene(16, 16))
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    data = encoded(scene())
    with_thumbnail = data[:2] + segment + data[2:]
    np.testing.assert_array_equal(decoded(with_thumbnail), pillow(data))
    with pytest.raises(ImageError, match="truncated"):
        decoded(with_thumbnail[:-40])


def test_overwritten_jpeg_scan_is_refused():
    data = bytearray(encoded(scene(200, 300), quality=95))
    middle = len(data) // 2
    noise = np.random.default_rng(0).integers(0, 256, 1500, dtype=np.uint8)
    data[middle : middle + 1500] = noise.tobytes()
    with pytest.raises(ImageError, match="illegal marker"):
        decoded(bytes(data))


def town(height: int = 120, width: int = 160) -> np.ndarray:
    """Smooth areas, edges and noise, as in a photograph."""
    noise = np.random.default_rng(5).normal(0, 12, (height, width, 3))
    return np.clip(scene(height, width) + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("zeros", "share"), [(0, 0.3), (64, 0.6), (512, 0.85)])
def test_codes_of_a_damaged_jpeg_are_followed(zeros, share):
    """OpenCV and Pillow return an image for nearly all of these files."""
    pytest.importorskip("numba")
    data, random = encoded(town(), quality=90), np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(data)
        place = int(random.integers(700, len(data) - zeros - 2))
        if zeros:
            damaged[place : place + zeros] = bytes(zeros)
        else:
            damaged[place] ^= int(random.integers(1, 256))
        try:
            decoded(bytes(damaged))
        except ImageError as error:
            refused += 1
            assert "is damaged: " in str(error)
    assert refused >= share * 60


def test_a_lost_part_between_restart_markers_is_refused():
    pytest.importorskip("numba")
    data = encoded(town(), restart_marker_rows=1)
    first = data.index(b"\xff\xd0")
    second = data.index(b"\xff\xd1")
    with pytest.raises(ImageError, match="a restart marker that is missing"):
        decoded(data[:first] + data[second:])
    with pytest.raises(ImageError, match=r"ends before the last block|restart marker"):
        decoded(data[: first - 40] + data[first:])


def test_stray_bytes_of_webcams_are_tolerated_and_a_doubled_part_is_not():
    pytest.importorskip("numba")
    data = encoded(town())
    stray = data[:-2] + b"\x00\x12\x00" + b"\xff" + data[-2:]
    np.testing.assert_array_equal(decoded(stray), pillow(data))
    with pytest.raises(ImageError, match="goes on after the last block"):
        decoded(data[:-2] + bytes(100) + data[-2:])


def test_motion_jpeg_without_huffman_tables_is_decoded():
    """Webcams leave the standard tables out."""
    data = encoded(town())
    bare = data
    while (start := bare.find(b"\xff\xc4")) >= 0:
        bare = bare[:start] + bare[start + 2 + int.from_bytes(bare[start + 2 : start + 4], "big") :]
    assert len(bare) < len(data) - 400
    np.testing.assert_array_equal(decoded(bare), pillow(data))


def test_a_block_that_is_too_bright_is_refused():
    """A changed difference between means shifts every block behind it; all codes stay legal."""
    pytest.importorskip("numba")
    image = np.zeros((16, 8), np.uint8)
    image[8:] = 255
    data = bytearray(encoded(image, quality=50))
    scan = data.index(b"\xff\xda") + 10
    # The first block is a code of 5 bits and -64 in 7 bits (T.81, table K.3); it becomes +64.
    data[scan] ^= 0x07
    data[scan + 1] ^= 0xF0
    with pytest.raises(ImageError, match="a block brighter or darker than any image"):
        decoded(bytes(data))


def test_changed_png_byte_is_refused():
    data = bytearray(encoded(scene(), "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(ImageError, match="checksum of chunk b'IDAT'"):
        decoded(bytes(data))


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"GIF89a" + b"\0" * 50])
def test_other_formats_are_named(data):
    with pytest.raises(ImageError, match="neither JPEG nor PNG"):
        decoded(data)


def test_a_pointer_of_git_lfs_is_named():
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
    with pytest.raises(ImageError, match=r"nor PNG: it is a Git LFS pointer .* `git lfs pull`"):
        decode_image(EncodedImage("jpeg", pointer))


def test_compressed_depth_is_refused():
    depth = b"\0" * 12 + encoded(scene()[..., 0], "PNG")
    for declared in ("16UC1; compressedDepth png", "png"):
        with pytest.raises(ImageError, match="compressedDepth holds depth"):
            decoded(depth, declared)


def raw(encoding: str, rows: np.ndarray, width: int, height: int, pad: int = 0, **fields):
    """Rows of bytes, each followed by ``pad`` bytes of padding."""
    rows = rows.reshape(rows.shape[0], -1).view(np.uint8)
    padded = np.pad(rows, ((0, 0), (0, pad)), constant_values=0xAB)
    return SensorImage(encoding, height, width, padded.shape[1], padded.tobytes(), **fields)


@pytest.mark.parametrize("pad", [0, 7])
@pytest.mark.parametrize(("encoding", "channels"), [
    ("rgb8", [0, 1, 2]), ("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2, 0]), ("bgra8", [2, 1, 0, 0]),
])  # fmt: skip
def test_colour_encodings(encoding, channels, pad):
    image = raw(encoding, scene()[..., channels].copy(), 80, 48, pad)
    np.testing.assert_array_equal(decode_image(image), scene())


@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize(("encoding", "channels"), [
    ("rgb16", [0, 1, 2]), ("bgr16", [2, 1, 0]), ("rgba16", [0, 1, 2, 0]),
    ("bgra16", [2, 1, 0, 0]),
])  # fmt: skip
def test_colours_of_16_bits_in_both_byte_orders(encoding, channels, order):
    samples = (scene()[..., channels].astype(np.uint16) * 257).astype(order)
    image = raw(encoding, samples, 80, 48, pad=5, is_bigendian=order == ">u2")
    np.testing.assert_array_equal(decode_image(image), scene())


@pytest.mark.parametrize("encoding", ["mono8", "8UC1"])
def test_grey_encodings(encoding):
    grey = scene()[..., 0].copy()
    rgb = decode_image(raw(encoding, grey, 80, 48, pad=3))
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_mono16_is_scaled_with_rounding_in_both_byte_orders(order):
    values = np.array([[0, 128, 129], [1000, 65406, 65535]])
    image = raw("mono16", values.astype(order), 3, 2, pad=2, is_bigendian=order == ">u2")
    expected = np.rint(values * 255 / 65535)
    assert expected[1, 0] == 4
    np.testing.assert_array_equal(decode_image(image)[..., 1], expected)


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
@pytest.mark.parametrize("depth", [8, 16])
def test_bayer_patterns_give_back_a_uniform_colour(pattern, depth):
    colour = {"r": 200, "g": 90, "b": 30}
    block = np.array([[colour[pattern[0]], colour[pattern[1]]],
                      [colour[pattern[2]], colour[pattern[3]]]])  # fmt: skip
    mosaic = np.tile(block, (6, 8)).astype(np.uint8)
    samples = mosaic if depth == 8 else (mosaic.astype(np.uint16) * 257)
    rgb = decode_image(raw(f"bayer_{pattern}{depth}", samples, 16, 12, pad=4))
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to([200, 90, 30], (8, 12, 3)))


def yuv_to_rgb(y: int, u: int, v: int) -> list[float]:
    """ITU-R BT.601, limited range."""
    luma = 1.164 * (y - 16)
    return [luma + 1.596 * (v - 128), luma - 0.392 * (u - 128) - 0.813 * (v - 128),
            luma + 2.017 * (u - 128)]  # fmt: skip


@pytest.mark.parametrize(("encoding", "order"), [
    ("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuv422_yuy2", "yuyv"),
])  # fmt: skip
def test_packed_yuv(encoding, order):
    values = {"y": 130, "u": 100, "v": 160}
    row = np.tile(np.array([values[c] for c in order], dtype=np.uint8), 4)
    rgb = decode_image(raw(encoding, np.tile(row, (4, 1)), 8, 4, pad=5))
    np.testing.assert_allclose(rgb[1, 3], yuv_to_rgb(130, 100, 160), atol=2)


def test_nv12():
    luma = np.full((4, 8), 130, dtype=np.uint8)
    chroma = np.tile(np.array([100, 160], dtype=np.uint8), (2, 4))
    rgb = decode_image(raw("nv12", np.concatenate([luma, chroma]), 8, 4, pad=6))
    assert rgb.shape == (4, 8, 3)
    np.testing.assert_allclose(rgb[1, 3], yuv_to_rgb(130, 100, 160), atol=2)
    with pytest.raises(ImageError, match="even"):
        decode_image(raw("nv12", np.zeros((5, 7), np.uint8), 7, 3))


def test_8uc3_without_an_override_is_an_error():
    image = raw("8UC3", scene()[..., ::-1].copy(), 80, 48)
    with pytest.raises(ImageError, match="encoding to bgr8 or rgb8 in the topic layout"):
        decode_image(image)
    np.testing.assert_array_equal(decode_image(image, "bgr8"), scene())
    np.testing.assert_array_equal(decode_image(image, "rgb8"), scene()[..., ::-1])


def test_unknown_encoding_lists_the_known_ones():
    with pytest.raises(ImageError, match=r"'32FC1'; supported: rgb8, bgr8"):
        decode_image(raw("32FC1", np.zeros((4, 8), np.float32), 8, 4))


@pytest.mark.parametrize(("change", "message"), [
    ({"step": 239}, "at least 240 bytes per row"),
    ({"height": 49}, "truncated"),
    ({"width": 0}, "0x48"),
])  # fmt: skip
def test_inconsistent_sizes_are_refused(change, message):
    fields = {"encoding": "rgb8", "height": 48, "width": 80, "step": 240, **change}
    with pytest.raises(ImageError, match=message):
        decode_image(SensorImage(**fields, data=scene().tobytes()))


def test_last_row_without_its_padding_is_enough():
    image = raw("rgb8", scene(), 80, 48, pad=16)
    short = SensorImage("rgb8", 48, 80, image.step, image.data[:-16])
    np.testing.assert_array_equal(decode_image(short), scene())


@pytest.mark.parametrize("wrap", [
    bytes, bytearray, memoryview,
    lambda b: array.array("B", b), lambda b: np.frombuffer(b, np.uint8),
])  # fmt: skip
def test_any_buffer_is_read_and_the_result_owns_its_memory(wrap):
    data = wrap(scene().tobytes())
    rgb = decode_image(SensorImage("rgb8", 48, 80, 240, data))
    np.testing.assert_array_equal(rgb, scene())
    assert rgb.flags.owndata and rgb.flags.writeable and rgb.flags.c_contiguous
    np.testing.assert_array_equal(decoded(wrap(encoded(scene(), "PNG"))), scene())
