"""Frame sets become frames, or errors that name the camera."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import matrix_from_pose
from occ_perception.sensing.assembly import FrameAssembler, FrameError, LastImages
from occ_perception.sensing.ego_pose import PoseBuffer
from occ_perception.sensing.frame_sets import FrameSet
from occ_perception.sensing.images import EncodedImage, SensorImage

MS = 1_000_000
CAMERAS = ("left", "front", "right")
WIDTH, HEIGHT = 96, 64


def calibration(name: str, **changes) -> CameraCalibration:
    fields = {"width": WIDTH, "height": HEIGHT, "ego_T_cam": np.eye(4)}
    K = np.array([[80.0, 0, 48], [0, 80, 32], [0, 0, 1]])
    return CameraCalibration(name=name, K=K, **{**fields, **changes})


def image(level: int, width=WIDTH, height=HEIGHT) -> SensorImage:
    data = np.full((height, width, 3), level, np.uint8)
    data[..., 2] = 255
    return SensorImage("rgb8", height, width, width * 3, data.tobytes())


def jpeg() -> EncodedImage:
    file = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 120, np.uint8)).save(file, "JPEG")
    return EncodedImage("jpeg", file.getvalue())


def frame_set(start_ms: int = 0, missing=(), **replaced) -> FrameSet:
    names = [name for name in CAMERAS if name not in missing]
    stamps = {name: (start_ms + 10 * CAMERAS.index(name)) * MS for name in names}
    payloads = {name: replaced.get(name, image(CAMERAS.index(name))) for name in names}
    return FrameSet("front", payloads, stamps, tuple(missing))


def poses(until_ms: int = 1000) -> PoseBuffer:
    buffer = PoseBuffer()
    for stamp in range(0, until_ms + 1, 50):
        buffer.add(stamp * MS, matrix_from_pose([stamp / 100, 0, 0], [0, 0, 0, 1]))
    return buffer


def assembler(cameras=None, **options) -> FrameAssembler:
    rig = CameraRig(tuple(cameras or map(calibration, CAMERAS)))
    return FrameAssembler(rig, **options)


def test_a_frame_has_images_stamps_and_the_pose_at_every_camera():
    frame = assembler().assemble(frame_set(100), poses(), sequence="scene", token="t")
    assert frame.stamp_ns == 110 * MS and (frame.sequence, frame.token) == ("scene", "t")
    assert tuple(frame.images) == CAMERAS and frame.reused == ()
    for index, name in enumerate(CAMERAS):
        assert frame.images[name].shape == (HEIGHT, WIDTH, 3)
        assert frame.images[name][0, 0].tolist() == [index, index, 255]
        assert frame.stamps_ns[name] == (100 + 10 * index) * MS
        assert frame.world_T_ego[name][0, 3] == pytest.approx(1 + 0.1 * index)


def test_cameras_of_different_calibrated_sizes_are_accepted():
    rig = (calibration("left"), calibration("front", width=48, height=32), calibration("right"))
    frame = assembler(rig).assemble(frame_set(front=image(5, 48, 32)), poses())
    assert frame.images["front"].shape == (32, 48, 3)


def test_an_image_of_another_size_than_calibrated_is_refused():
    with pytest.raises(FrameError) as error:
        assembler().assemble(frame_set(right=image(5, 48, 32)), poses())
    assert (error.value.reason, error.value.camera) == ("size_mismatch", "right")
    assert str(error.value).startswith("camera right: image is 48x32, calibrated for 96x64")


@pytest.mark.parametrize(("broken", "message"), [
    (EncodedImage("jpeg", jpeg().data[:200]), "camera left: JPEG of 200 bytes is damaged"),
    (SensorImage("8UC3", 64, 96, 288, bytes(18432)), "camera left: encoding 8UC3 .* layout"),
    (SensorImage("32FC1", 64, 96, 384, bytes(24576)), "camera left: unknown image encoding"),
])  # fmt: skip
def test_undecodable_images_name_camera_and_reason(broken, message):
    with pytest.raises(FrameError, match=message) as error:
        assembler().assemble(frame_set(left=broken), poses())
    assert error.value.reason == "undecodable_image"


def test_a_file_that_states_another_size_is_refused_before_it_is_decoded():
    """A few kB may state a size that takes all memory; these hold no pixels at all."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    size = (60_000).to_bytes(4, "big") + (40_000).to_bytes(4, "big")
    header = chunk(b"IHDR", size + bytes([8, 2, 0, 0, 0]))
    png = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IEND", b"")
    large_jpeg = jpeg().data.replace(
        HEIGHT.to_bytes(2, "big") + WIDTH.to_bytes(2, "big"),
        (40_000).to_bytes(2, "big") + (60_000).to_bytes(2, "big"),
    )
    for data in (png, large_jpeg):
        with pytest.raises(FrameError, match="image is 60000x40000, calibrated for 96x64") as error:
            assembler().assemble(frame_set(left=EncodedImage("png", data)), poses())
        assert error.value.reason == "size_mismatch"
    assembler().assemble(frame_set(left=jpeg()), poses())


def test_an_encoding_can_be_set_per_camera():
    bgr = SensorImage("8UC3", HEIGHT, WIDTH, WIDTH * 3, image(7).data)
    frame = assembler(encodings={"left": "bgr8"}).assemble(frame_set(left=bgr), poses())
    assert frame.images["left"][0, 0].tolist() == [255, 7, 7]


def test_poses_decide_before_anything_is_decoded():
    broken = EncodedImage("jpeg", b"")
    with pytest.raises(FrameError, match=r"camera left: .* newer than the newest") as error:
        assembler().assemble(frame_set(1100, left=broken), poses())
    assert error.value.reason == "pose_not_yet"
    gap = poses(0)
    gap.add(2000 * MS, np.eye(4))
    with pytest.raises(FrameError, match="gap of 2000 ms") as error:
        assembler().assemble(frame_set(500), gap)
    assert error.value.reason == "pose_unavailable"


def test_a_missing_camera_drops_the_frame_set_by_default():
    with pytest.raises(FrameError, match=r"missing: left, right") as error:
        assembler().assemble(frame_set(0, missing=("left", "right")), poses())
    assert (error.value.reason, error.value.camera) == ("missing_camera", "left")


def test_a_missing_camera_can_be_taken_from_the_last_frame_with_its_own_stamp_and_pose():
    frames = assembler(missing_camera="reuse_last")
    with pytest.raises(FrameError, match="no earlier image"):
        frames.assemble(frame_set(0, missing=("right",)), poses())
    frames.assemble(frame_set(0), poses())
    frame = frames.assemble(frame_set(100, missing=("right",)), poses())
    assert frame.reused == ("right",)
    assert frame.stamps_ns == {"left": 100 * MS, "front": 110 * MS, "right": 20 * MS}
    assert frame.world_T_ego["right"][0, 3] == pytest.approx(0.2)
    again = frames.assemble(frame_set(200, missing=("right",)), poses())
    assert again.stamps_ns["right"] == 20 * MS
    with pytest.raises(FrameError, match="590 ms old, at most 500 ms"):
        frames.assemble(frame_set(600, missing=("right",)), poses())
    frames.reset()
    with pytest.raises(FrameError, match="no earlier image"):
        frames.assemble(frame_set(300, missing=("right",)), poses())


def test_last_images_include_those_of_frame_sets_without_a_frame():
    """A slow network processes few of the frame sets, but all of them update the last images."""
    last = LastImages()
    for start_ms in (0, 1200):
        assert last.complete(frame_set(start_ms)).reused == ()
    completed = last.complete(frame_set(1300, missing=("right",), left=image(9)))
    assert (completed.missing, completed.reused) == ((), ("right",))
    assert completed.stamps_ns["right"] == 1220 * MS
    assert completed.spread_ns == 10 * MS
    with pytest.raises(FrameError, match="camera right: its last image is 990 ms old"):
        last.complete(frame_set(2200, missing=("right",)))
    # The images of the refused frame set are kept.
    assert last.complete(frame_set(2300, missing=("left",), right=image(9))).reused == ("left",)
    frame = assembler().assemble(completed, poses(1400))
    assert frame.reused == ("right",)
    assert frame.world_T_ego["right"][0, 3] == pytest.approx(12.2)


@pytest.mark.parametrize(("model", "coefficients"), [
    ("plumb_bob", (-0.25, 0.08, 0.001, -0.0005, 0.0)),
    ("rational_polynomial", (-0.25, 0.08, 0.001, -0.0005, 0.0, 0.01, 0.002, 0.0)),
    ("equidistant", (0.05, -0.01, 0.002, 0.0)),
])  # fmt: skip
def test_distorted_images_are_rectified_to_a_pinhole(model, coefficients):
    """A dot at the distorted projection of a 3-D point is moved to the pinhole projection."""
    size, K = 401, np.array([[300.0, 0, 200], [0, 300, 200], [0, 0, 1]])
    camera = CameraCalibration("front", size, size, K, np.eye(4), "", model, coefficients)
    point = np.array([[0.35, -0.22, 1.0]])
    if model == "equidistant":
        r = np.hypot(*point[0, :2])
        t = np.arctan(r)
        bent = t * (1 + sum(c * t ** (2 * i + 2) for i, c in enumerate(coefficients)))
        u, v = 200 + 300 * point[0, :2] * bent / r
    else:
        u, v = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, np.array(coefficients))[0][
            0, 0
        ]
    assert np.hypot(u - 305, v - 134) > 2, "the lens must move the point for this test to mean much"
    y, x = np.mgrid[0:size, 0:size]
    dot = (255 * np.exp(-((x - u) ** 2 + (y - v) ** 2) / 8)).astype(np.uint8)
    raw = SensorImage("mono8", size, size, size, dot.tobytes())
    frames = FrameAssembler(CameraRig((camera,)))
    frame = frames.assemble(FrameSet("front", {"front": raw}, {"front": 0}), poses())
    weight = frame.images["front"][..., 0].astype(float)
    found = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    np.testing.assert_allclose(found, (300 * 0.35 + 200, -300 * 0.22 + 200), atol=0.1)
    assert frame.rig.camera("front").is_rectified
    np.testing.assert_array_equal(frame.rig.camera("front").K, K)


def test_real_jpegs_go_through(shared_dir):
    folder = shared_dir / "data" / "nuscenes-scene0103-seq4" / "frame0"
    data = (folder / "CAM_FRONT.jpg").read_bytes()
    frames = assembler([calibration(name, width=1600, height=900) for name in CAMERAS])
    compressed = EncodedImage("jpeg", data)
    frame = frames.assemble(frame_set(0, **dict.fromkeys(CAMERAS, compressed)), poses())
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(frame.images["left"], expected)


def test_a_masked_camera_is_no_missing_one_and_has_no_image():
    masked = replace(frame_set(100, missing=("right",)), missing=(), masked=("right",))
    frame = assembler().assemble(masked, poses())
    assert tuple(frame.images) == ("left", "front") and frame.masked == ("right",)
    assert frame.rig.names == CAMERAS, "its calibration is still known"
    left = replace(frame_set(100, missing=("front",)), reference_camera="left", missing=())
    frame = assembler().assemble(replace(left, masked=("front",)), poses())
    assert (frame.reference_camera, frame.stamp_ns) == ("left", 100 * MS)
