"""Calibrations in a recording: the newest applies, as live; unusable ones are reported."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from nuscenes_folder import VERSION, drawn_scene
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore

from occ_perception.bags.drive import open_recording
from occ_perception.bags.inspection import inspect_bag
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.writing import BagWriter, camera_info_topic, optical_frame
from occ_perception.geometry import matrix_from_pose
from occ_perception.sensing.layouts import load_layout

TYPES = get_typestore(Stores.ROS2_HUMBLE)
CAMERA = "CAM_BACK"
FRAME_SETS = 7


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A recording of seven frame sets, every image with a camera_info."""
    folder = tmp_path_factory.mktemp("plain")
    drawn_scene(folder / "data", keyframes=2)
    convert_nuscenes(folder / "data", VERSION, "scene-0001", folder / "bag")
    return folder / "bag"


def rewritten(plain, path, change):
    """The recording with the camera's infos passed through ``change(number, info)``; None drops."""
    frame_set = 0
    with Recording(plain) as recording, BagWriter(path) as writer:
        for raw in recording.messages():
            message = recording.decode(raw)
            if raw.topic == camera_info_topic(CAMERA):
                message = change(frame_set, message)
                frame_set += 1
            if message is not None:
                writer.write(raw.topic, raw.received_ns, message, raw.topic == "/tf_static")
    assert frame_set == FRAME_SETS
    return path


def zoomed(info, focal):
    info.k, info.p = info.k.copy(), info.p.copy()
    info.k[0] = info.p[0] = focal
    return info


def focal_lengths(drive) -> list[float]:
    return [float(frame.rig.camera(CAMERA).K[0, 0]) for frame in drive]


def test_a_changed_camera_info_applies_from_then_on(plain, tmp_path):
    bag = rewritten(plain, tmp_path / "bag", lambda n, info: zoomed(info, 100 if n < 3 else 120))
    with open_recording(bag) as drive:
        assert drive.rig.camera(CAMERA).K[0, 0] == 100
        for _ in range(2):  # a second pass starts like the first
            assert focal_lengths(drive) == [100] * 3 + [120] * 4
        assert len({id(frame.rig) for frame in list(drive)}) == 2, "one rig while nothing changes"
        assert drive.problems == []


def test_frames_before_the_first_camera_info_are_not_lost(plain, tmp_path):
    bag = rewritten(plain, tmp_path / "bag", lambda n, info: zoomed(info, 90) if n > 3 else None)
    with open_recording(bag) as drive:
        assert focal_lengths(drive) == [90] * FRAME_SETS
        assert drive.problems == []


def test_a_changed_mount_applies_from_then_on(plain, tmp_path):
    with open_recording(plain) as drive:
        stamps = drive.reference_stamps()
        mount = drive.rig.camera(CAMERA).ego_T_cam
    higher = mount.copy()
    higher[2, 3] += 1
    with Recording(plain) as recording, BagWriter(tmp_path / "bag") as writer:
        is_moved = False
        for raw in recording.messages():
            if not is_moved and raw.received_ns > stamps[3]:
                is_moved = True
                moved = [("base_link", optical_frame(CAMERA), higher)]
                writer.write_transforms(raw.received_ns, moved, static=True)
            message = recording.decode(raw)
            writer.write(raw.topic, raw.received_ns, message, raw.topic == "/tf_static")
    with open_recording(tmp_path / "bag") as drive:
        heights = [frame.rig.camera(CAMERA).ego_T_cam[2, 3] - mount[2, 3] for frame in drive]
    assert heights[:3] == [0] * 3
    np.testing.assert_allclose(heights[4:], 1, atol=1e-9)


def test_a_camera_info_without_intrinsics_leaves_the_one_before_it(plain, tmp_path):
    def change(frame_set, info):
        zoomed(info, 100)
        if frame_set in (2, 3):
            info.k[:] = info.p[:] = 0
        return info

    with open_recording(rewritten(plain, tmp_path / "bag", change)) as drive:
        assert focal_lengths(drive) == [100] * FRAME_SETS
        (problem,) = drive.problems
        assert problem.reason == "calibration" and "all-zero K" in problem.text
        assert problem.text.endswith("the calibration before it stays in effect")


def test_an_unusable_camera_info_before_the_first_usable_one_drops_no_frame(plain, tmp_path):
    def change(frame_set, info):
        zoomed(info, 100)
        if frame_set < 2:
            info.k[:] = info.p[:] = 0
        return info

    with open_recording(rewritten(plain, tmp_path / "bag", change)) as drive:
        assert focal_lengths(drive) == [100] * FRAME_SETS
        assert ["all-zero K" in problem.text for problem in drive.problems] == [True]


@pytest.mark.parametrize(("lost", "frames"), [((2, 3), 6), (range(4, FRAME_SETS), 4)])
def test_the_newest_frame_set_waits_for_a_rig_that_became_incomplete(plain, tmp_path, lost, frames):
    """A camera whose frame is not in tf has no mount, until its camera_info names another frame."""

    def change(frame_set, info):
        zoomed(info, 100)
        if frame_set in lost:
            info.header.frame_id = "nowhere"
        return info

    layout = load_layout("occ_perception")
    layout = replace(layout, cameras=tuple(replace(c, frame_id="") for c in layout.cameras))
    with open_recording(rewritten(plain, tmp_path / "bag", change), layout) as drive:
        assert focal_lengths(drive) == [100] * frames
        assert len(drive.problems) == FRAME_SETS - frames
        for problem in drive.problems:
            assert "without a calibration" in problem.text and "nowhere" in problem.text


def test_an_unreadable_camera_info_is_named(plain, tmp_path):
    bag = tmp_path / "bag"
    with Recording(plain) as recording, Writer(bag, version=8) as writer:
        connections = {}
        for raw in recording.messages():
            if raw.topic not in connections:
                connections[raw.topic] = writer.add_connection(raw.topic, raw.kind, typestore=TYPES)
            is_cut = raw.topic == camera_info_topic(CAMERA)
            data = raw.raw[:20] if is_cut else raw.raw
            writer.write(connections[raw.topic], raw.received_ns, data)
    with pytest.raises(BagError) as caught:
        open_recording(bag)
    topic = camera_info_topic(CAMERA)
    assert f"camera {CAMERA}: {topic}: message is not a valid sensor_msgs/msg/CameraInfo" in str(
        caught.value
    )
    assert "no camera_info" not in str(caught.value)


def test_calibration_files_take_the_place_of_camera_info(plain, tmp_path):
    """Mounts still come from the recording, frames from the images' headers."""
    with open_recording(plain) as drive:
        expected = drive.rig
    for camera in expected.cameras:
        content = {
            "image_width": camera.width,
            "image_height": camera.height,
            "camera_matrix": {
                "data": [float(value) for value in 2 * camera.K[:2].ravel()] + [0, 0, 1]
            },
        }
        (tmp_path / f"{camera.name}.yaml").write_text(yaml.safe_dump(content))
    with open_recording(plain, rig=tmp_path) as drive:
        frames = list(drive)
        assert len(frames) == FRAME_SETS and drive.problems == []
    for camera in frames[0].rig.cameras:
        np.testing.assert_array_equal(camera.K[:2], 2 * expected.camera(camera.name).K[:2])
        np.testing.assert_array_equal(camera.ego_T_cam, expected.camera(camera.name).ego_T_cam)


def test_a_mount_on_a_joint_is_used_until_the_joint_moves(plain, tmp_path):
    """As in the node; what is found before the first frame does not tell of a later movement."""
    with open_recording(plain) as drive:
        stamps = drive.reference_stamps()
    turned = [
        ("base_link", "joint", matrix_from_pose([0, 0, k / 10], [0, 0, 0, 1])) for k in (0, 1, 2)
    ]
    with Recording(plain) as recording, BagWriter(tmp_path / "bag") as writer:
        moves = [stamps[0] - 40_000_000, stamps[3] + 60_000_000, stamps[4] + 60_000_000]
        for raw in recording.messages():
            while moves and raw.received_ns > moves[0]:
                writer.write_transforms(moves.pop(0), [turned.pop(0)])
            message = recording.decode(raw)
            if raw.topic == "/tf_static":
                for item in message.transforms:
                    if item.child_frame_id == optical_frame(CAMERA):
                        item.header.frame_id = "joint"
            writer.write(raw.topic, raw.received_ns, message, raw.topic == "/tf_static")
    with open_recording(tmp_path / "bag") as drive:
        assert len(list(drive)) == 5
        assert {problem.reason for problem in drive.problems} == {"calibration"}
        assert "'joint' moves in 'base_link'" in drive.problems[0].text


def test_a_size_of_zero_is_missing_for_the_node_like_other_gaps(plain, tmp_path):
    def change(_, info):
        info.width = info.height = 0
        return info

    bag = rewritten(plain, tmp_path / "bag", change)
    with pytest.raises(BagError, match=f"camera {CAMERA}: .*size 0x0.*Give a rig file"):
        open_recording(bag)
    report = inspect_bag(bag)
    assert report.frame_sets.counters.complete == FRAME_SETS
    assert any("size 0x0" in text for text in report.missing_for_node)
