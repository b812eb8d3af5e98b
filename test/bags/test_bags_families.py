"""Recordings of every family give the frames that were written."""

from __future__ import annotations

import shutil
from dataclasses import replace

import bag_families
import cv2
import numpy as np
import pytest
from bag_families import pixels
from nuscenes_folder import Image, drawn_images, drive

from occ_perception.bags.drive import RecordedDrive, open_recording
from occ_perception.bags.recording import BagError
from occ_perception.frames import CameraRig
from occ_perception.sensing.calibration import load_rig, save_rig
from occ_perception.sensing.input_plan import InputPlanError
from occ_perception.sensing.layouts import load_layout


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return drawn_images(keyframes=3)


def frame_sets_of(images: list[Image]) -> list[dict[str, Image]]:
    frame_sets = [images[k : k + 6] for k in range(0, len(images), 6)]
    return [{image.channel: image for image in frame_set} for frame_set in frame_sets]


def small_rig(images: list[Image], tmp_path) -> str:
    """Correct intrinsics, and mounts that tf must replace."""
    nominal = load_rig("nuscenes")
    size = dict(zip(("width", "height"), images[0].size, strict=True))
    first = {image.channel: image for image in images}
    cameras = tuple(
        replace(camera, K=first[camera.name].K, ego_T_cam=np.eye(4), **size)
        for camera in nominal.cameras
    )
    save_rig(tmp_path / "rig.yaml", CameraRig(cameras))
    return str(tmp_path / "rig.yaml")


def assert_frames(frames: RecordedDrive, images: list[Image], pose_atol: float, same_pixels=True):
    read = list(frames)
    frame_sets = frame_sets_of(images)
    assert [frame.stamp_ns for frame in read] == [
        frame_set["CAM_FRONT"].stamp_ns for frame_set in frame_sets
    ]
    for frame, frame_set in zip(read, frame_sets, strict=True):
        for name, image in frame_set.items():
            assert frame.stamps_ns[name] == image.stamp_ns
            camera = frame.rig.camera(name)
            np.testing.assert_allclose(camera.K, image.K, atol=1e-9)
            np.testing.assert_allclose(camera.ego_T_cam, image.ego_T_cam, atol=1e-9)
            if same_pixels:
                np.testing.assert_array_equal(frame.images[name], pixels(image))
            np.testing.assert_allclose(
                frame.world_T_ego[name], image.world_T_ego, rtol=0, atol=pose_atol
            )
    assert frames.problems == []
    return read


@pytest.mark.parametrize(("name", "file"), [
    ("clynamen", "scene.bag"), ("clynamen_ros2", "3.bag"),
])  # fmt: skip
def test_clynamen_and_its_port(tmp_path, images, name, file):
    """Poses at exactly the camera stamps; mounts from /tf, intrinsics from the layout's rig."""
    path = getattr(bag_families, name)(tmp_path / file, images)
    with open_recording(path) as nominal:
        assert nominal.layout.name == name, "recognised, and distinguished by the empty stamps"
        cameras = ", ".join(nominal.layout.camera_names)
        assert nominal.notes == (f"intrinsics of {cameras} are those of rig nuscenes",)
    layout = replace(load_layout(name), rig=small_rig(images, tmp_path))
    assert_frames(open_recording(path, layout=layout), images, pose_atol=1e-9)


def test_nominal_calibration_of_another_size_is_refused_per_frame_set(tmp_path, images):
    frames = open_recording(bag_families.clynamen(tmp_path / "scene.bag", images[:12]))
    assert list(frames) == []
    assert {problem.reason for problem in frames.problems} == {"size_mismatch"}
    assert "image is 160x90, calibrated for 1600x900" in frames.problems[0].text


@pytest.mark.parametrize("mode", ["none", "file", "message"])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_foxglove_in_every_container(tmp_path, images, storage, mode):
    """/tf at 2 Hz: 0.5 s of this bend deviates from its chord by 25 mm."""
    path = bag_families.foxglove(tmp_path / "bag", images, storage, mode)
    frames = open_recording(path)
    assert frames.layout.name == "foxglove" and frames.notes == ()
    read = assert_frames(frames, images, pose_atol=0.03)
    lidar_time = frame_sets_of(images)[6]["CAM_BACK_LEFT"]
    np.testing.assert_allclose(
        read[6].world_T_ego["CAM_BACK_LEFT"], lidar_time.world_T_ego, atol=1e-9
    )


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_bare_storage_files(tmp_path, images, storage):
    folder = bag_families.foxglove(tmp_path / "bag", images, storage)
    suffix = {"mcap": ".mcap", "sqlite3": ".db3"}[storage]
    bare = shutil.move(folder / f"bag{suffix}", tmp_path / f"alone{suffix}")
    assert_frames(open_recording(bare), images, pose_atol=0.03)


def test_can_odometry_can_be_selected(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images)
    layout = load_layout("foxglove")
    odometry = replace(layout.pose, kind="odometry", topic="/odom")
    frames = list(open_recording(path, layout=replace(layout, pose=odometry)))
    off = (
        frames[3].world_T_reference_ego[:3, 3]
        - drive((frames[3].stamp_ns - images[0].stamp_ns) / 1e9)[:3, 3]
    )
    np.testing.assert_allclose(off, 5, atol=1e-3)


def test_a_real_car(tmp_path, images):
    """Distorted images, a delayed pose, mounts behind two links."""
    path = bag_families.autoware(tmp_path / "bag", images)
    # The time of this pose stream starts elsewhere than that of the images' own poses.
    shift_s = images[0].stamp_ns / 1e9
    expected = [
        replace(image, world_T_ego=drive(image.stamp_ns / 1e9 - shift_s)) for image in images
    ]
    frames = open_recording(path)
    assert frames.layout.name == "autoware"
    read = assert_frames(frames, expected, pose_atol=1e-3, same_pixels=False)
    image = frame_sets_of(images)[2]["CAM_BACK"]
    undistorted = cv2.undistort(pixels(image), image.K, np.array(bag_families.PLUMB_BOB))
    difference = np.abs(read[2].images["CAM_BACK"].astype(int) - undistorted)
    assert np.percentile(difference, 99) <= 2, "fixed-point maps round differently"
    assert np.abs(undistorted.astype(int) - pixels(image)).mean() > 2


def test_a_given_rig_replaces_everything(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images[:12])
    frames = open_recording(path, rig=small_rig(images, tmp_path))
    assert frames.notes == ("the rig is the given one",)
    np.testing.assert_array_equal(frames.rig.camera("CAM_BACK").ego_T_cam, np.eye(4))
    one = CameraRig(frames.rig.cameras[:1])
    with pytest.raises(
        InputPlanError, match=r"given rig has no .*CAM_BACK_LEFT; it has CAM_FRONT_LEFT$"
    ):
        open_recording(path, rig=one)


def test_the_wrong_layout_is_an_error_that_lists_what_is_missing(tmp_path, images):
    path = bag_families.foxglove(tmp_path / "bag", images[:6])
    with pytest.raises(BagError, match=r"layout autoware does not fit .*no topic /sensing/camera"):
        open_recording(path, layout="autoware")
    port = bag_families.clynamen_ros2(tmp_path / "3.bag", images[:6])
    with pytest.raises(BagError, match=r"stamp 0, and layout clynamen reads the header"):
        open_recording(port, layout="clynamen")


def test_no_layout_fits(tmp_path, images):
    messages = bag_families.Messages()
    image = messages.compressed(1, "front", images[0].jpeg)
    path = bag_families.write(tmp_path / "bag", messages, [(1, "/webcam/compressed", image)])
    with pytest.raises(BagError, match=r"no shipped layout fits .* Write a layout file"):
        open_recording(path)
