"""Damaged, incomplete and contradictory recordings: problems are listed, and the rest is read."""

from __future__ import annotations

from dataclasses import replace

import bag_families
import numpy as np
import pytest
import yaml
from bag_families import MS, Messages, pixels
from nuscenes_folder import Image, drawn_images

from occ_perception.bags.drive import RecordedDrive, open_recording
from occ_perception.bags.reading import Reading
from occ_perception.bags.recording import BagError, Recording
from occ_perception.bags.writing import BagWriter, camera_topic
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.vehicle import VehicleInputs

SIX_FRAME_SETS = 36


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return drawn_images(keyframes=3)[:SIX_FRAME_SETS]


def write_ours(path, images, storage="mcap", poses=None, shift_ns=None):
    """Write a recording in our layout; ``poses`` filters, ``shift_ns`` changes header stamps."""
    first = {image.channel: image for image in images}
    with BagWriter(path, storage) as writer:
        stamp = images[0].stamp_ns
        mounts = [("base_link", f"{n.lower()}_optical", p.ego_T_cam) for n, p in first.items()]
        writer.write_transforms(stamp, mounts, static=True)
        for image in images:
            stamp = image.stamp_ns + (shift_ns(image) if shift_ns else 0)
            if poses is None or poses(image):
                writer.write_odometry(stamp, image.world_T_ego)
            writer.write_camera_info(calibration(image), stamp)
            writer.write_camera(image.channel, stamp, image.jpeg)
    return path


def write_split(path, images, storage="mcap"):
    """Write the same recording in two files, as rosbag2 splits them."""
    files, halves = [], []
    middle = len(images) // 12 * 6
    path.mkdir()
    for half in (images[:middle], images[middle:]):
        part = write_ours(path.with_name(f"part_{len(files)}"), half, storage)
        halves.append(yaml.safe_load((part / "metadata.yaml").read_text()))
        (file,) = (f for f in part.iterdir() if f.name != "metadata.yaml")
        files.append(file.rename(path / f"{path.name}_{len(files)}{file.suffix}"))
    info, second = (half["rosbag2_bagfile_information"] for half in halves)
    info["relative_file_paths"] = [file.name for file in files]
    info["message_count"] += second["message_count"]
    info["duration"]["nanoseconds"] = images[-1].stamp_ns - images[0].stamp_ns
    for topic, other in zip(
        info["topics_with_message_count"], second["topics_with_message_count"], strict=True
    ):
        topic["message_count"] += other["message_count"]
    (path / "metadata.yaml").write_text(yaml.safe_dump(halves[0]))
    return files


def calibration(image: Image):
    from occ_perception.frames import CameraCalibration

    width, height = image.size
    return CameraCalibration(image.channel, width, height, image.K, image.ego_T_cam)


def reasons(frames: RecordedDrive) -> list[str]:
    return [problem.reason for problem in frames.problems]


# -- containers ----------------------------------------------------------------------------------


def test_a_truncated_mcap_gives_what_came_before_the_damage(tmp_path):
    images = drawn_images(keyframes=3, size=(640, 360))
    path = write_ours(tmp_path / "bag", images)
    file = path / "bag.mcap"
    whole = file.read_bytes()
    intact = [frame.stamp_ns for frame in open_recording(path)]
    file.write_bytes(whole[: len(whole) * 2 // 3])
    frames = open_recording(path)
    stamps = [frame.stamp_ns for frame in frames]
    assert 3 <= len(stamps) < len(intact) and stamps == intact[: len(stamps)]
    assert reasons(frames)[0] == "damaged_file"
    assert "bag.mcap is damaged" in str(frames.problems[0])
    assert "its end is missing" in str(frames.problems[0])
    assert "intact messages are read" in str(frames.problems[0])
    assert reasons(frames)[1] == "message_count"


def test_a_truncated_mcap_that_was_not_written_in_the_order_of_time_is_read(tmp_path):
    """Recorders write messages of several threads, so that neighbouring messages may be swapped."""
    images = drawn_images(keyframes=3, size=(640, 360))
    swapped = [images[k + 1 - k % 2 * 2] for k in range(len(images))]
    path = write_ours(tmp_path / "bag", swapped)
    file = path / "bag.mcap"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    frames = open_recording(path)
    stamps = [frame.stamp_ns for frame in frames]
    assert len(stamps) >= 3 and stamps == sorted(stamps)
    assert "damaged_file" in reasons(frames)
    assert not any("stopped early" in problem.text for problem in frames.problems)


def test_damage_inside_an_mcap_loses_one_block_only(tmp_path):
    """Messages are read in blocks of about 1 MB."""
    images = drawn_images(keyframes=5, size=(640, 360))
    path = write_ours(tmp_path / "bag", images)
    intact = [frame.stamp_ns for frame in open_recording(path)]
    file = path / "bag.mcap"
    data = bytearray(file.read_bytes())
    start = len(data) // 2
    data[start : start + 200_000] = bytes(200_000)
    file.write_bytes(bytes(data))
    frames = open_recording(path)
    stamps = [frame.stamp_ns for frame in frames]
    assert set(stamps) < set(intact)
    assert stamps[0] == intact[0] and stamps[-1] == intact[-1]
    assert {"damaged_file", "message_count"} <= set(reasons(frames))
    assert any("the block of messages at byte" in problem.text for problem in frames.problems)


@pytest.mark.parametrize("has_metadata", [True, False])
@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_an_unreadable_file_of_a_split_recording_leaves_the_other(
    tmp_path, images, storage, damaged, has_metadata
):
    files = write_split(tmp_path / "bag", images, storage)
    whole = open_recording(tmp_path / "bag")
    intact = [frame.stamp_ns for frame in whole]
    assert len(intact) == 6 and whole.problems == []
    files[damaged].write_bytes(files[damaged].read_bytes()[:100])
    if not has_metadata:
        (tmp_path / "bag" / "metadata.yaml").unlink()
    frames = open_recording(tmp_path / "bag")
    assert [frame.stamp_ns for frame in frames] == (intact[:3], intact[3:])[1 - damaged]
    if has_metadata:
        assert reasons(frames) == ["damaged_file", "message_count"]
    else:
        assert reasons(frames) == ["no_metadata", "damaged_file"]
    (damage,) = (p for p in frames.problems if p.reason == "damaged_file")
    assert f"{files[damaged].name} cannot be read" in str(damage)


def test_a_truncated_file_of_a_split_recording_is_named_and_read_in_part(tmp_path):
    images = drawn_images(keyframes=5, size=(640, 360))
    first, second = write_split(tmp_path / "bag", images)
    intact = [frame.stamp_ns for frame in open_recording(tmp_path / "bag")]
    first.write_bytes(first.read_bytes()[: first.stat().st_size * 2 // 3])
    frames = open_recording(tmp_path / "bag")
    stamps = [frame.stamp_ns for frame in frames]
    lost = sorted(set(intact) - set(stamps))
    assert 0 < len(lost) < len(intact) // 2
    assert lost[-1] < stamps[-len(intact) // 2], "the second file is whole"
    assert stamps[0] == intact[0], "and so is the beginning of the first"
    texts = [p.text for p in frames.problems if p.reason == "damaged_file"]
    assert len(texts) == 1 and texts[0].startswith(f"{first.name} is damaged")
    assert second.name not in texts[0]


@pytest.mark.parametrize("has_metadata", [True, False])
def test_damage_met_while_reading_concerns_one_file_only(tmp_path, has_metadata):
    images = drawn_images(keyframes=5, size=(640, 360))
    first, _ = write_split(tmp_path / "bag", images)
    intact = [frame.stamp_ns for frame in open_recording(tmp_path / "bag")]
    if not has_metadata:
        (tmp_path / "bag" / "metadata.yaml").unlink()
    data = bytearray(first.read_bytes())
    start = len(data) // 2
    data[start : start + 200_000] = bytes(200_000)
    first.write_bytes(bytes(data))
    frames = open_recording(tmp_path / "bag")
    stamps = [frame.stamp_ns for frame in frames]
    assert len(stamps) < len(intact) and stamps[-12:] == intact[-12:]
    assert any(p.text.startswith(f"{first.name}: the block of") for p in frames.problems)


def test_a_file_of_the_metadata_that_does_not_exist_is_reported(tmp_path, images):
    _, second = write_split(tmp_path / "bag", images)
    second.unlink()
    frames = open_recording(tmp_path / "bag")
    assert len(list(frames)) == 3
    assert reasons(frames) == ["damaged_file", "message_count"]
    assert second.name in str(frames.problems[0])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_split_recording_without_an_intact_message_names_its_files(tmp_path, images, storage):
    files = write_split(tmp_path / "bag", images, storage)
    for file in files:
        file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BagError) as refusal:
        open_recording(tmp_path / "bag")
    assert all(f"{file.name} cannot be read" in str(refusal.value) for file in files)


@pytest.mark.parametrize("keep", [0, 5, 100, 5000])
@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_unreadable_files_are_refused_with_a_message(tmp_path, images, storage, keep):
    path = write_ours(tmp_path / "bag", images, storage)
    (file,) = path.glob("bag.*")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(BagError, match=r"cannot be read: .{5,}|lacks a part of its calibration"):
        list(open_recording(path))


def test_a_truncated_database_is_refused_or_read_in_part(tmp_path, images):
    path = write_ours(tmp_path / "bag", images, "sqlite3")
    (file,) = path.glob("bag.*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 2 // 3])
    try:
        frames = open_recording(path)
        assert len(list(frames)) < 6 and "damaged_file" in reasons(frames)
    except BagError as error:
        assert "sqlite3 FILE .recover" in str(error)


def test_a_truncated_ros_1_bag_is_refused_with_advice(tmp_path, images):
    path = bag_families.clynamen(tmp_path / "scene.bag", images[:6])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BagError, match="rosbag reindex"):
        open_recording(path)


def test_missing_metadata_is_noticed_and_the_files_are_read(tmp_path, images):
    path = write_ours(tmp_path / "bag", images)
    (path / "metadata.yaml").unlink()
    frames = open_recording(path)
    assert len(list(frames)) == 6
    assert reasons(frames) == ["no_metadata"]


def test_other_files_and_folders_are_refused(tmp_path):
    with pytest.raises(BagError, match="no recording at"):
        open_recording(tmp_path / "nothing")
    with pytest.raises(BagError, match=r"neither metadata.yaml nor"):
        open_recording(tmp_path)
    (tmp_path / "notes.txt").write_text("no bag")
    with pytest.raises(BagError, match="expected a rosbag2 folder or a file ending"):
        open_recording(tmp_path / "notes.txt")
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag" / "metadata.yaml").write_text("rosbag2: [")
    with pytest.raises(BagError, match="cannot be read"):
        open_recording(tmp_path / "bag")


def test_an_empty_recording(tmp_path):
    with BagWriter(tmp_path / "bag") as writer:
        writer.write_odometry(1, np.eye(4))
    with Recording(tmp_path / "bag") as recording:
        assert recording.topics["/odom"].count == 1
    with pytest.raises(BagError, match="no shipped layout fits"):
        open_recording(tmp_path / "bag")


# -- messages ------------------------------------------------------------------------------------


def test_damaged_images_drop_their_frames_only(tmp_path, images):
    damaged = list(images)
    damaged[6] = replace(damaged[6], jpeg=damaged[6].jpeg[:-100])
    damaged[20] = replace(damaged[20], jpeg=b"")
    frames = open_recording(write_ours(tmp_path / "bag", damaged))
    assert len(list(frames)) == 4
    assert reasons(frames) == ["undecodable_image"] * 2
    assert f"camera {damaged[6].channel}: JPEG of" in str(frames.problems[0])
    assert "neither JPEG nor PNG" in str(frames.problems[1])


def test_bytes_that_are_not_a_message_are_listed(tmp_path, images):
    path = write_ours(tmp_path / "bag", images)
    with Recording(path) as source:
        copied = list(source.messages())
        types = source.topic_types
    from rosbags.rosbag2 import StoragePlugin, Writer

    from occ_perception.bags.message_types import ros2_types

    with Writer(tmp_path / "new", version=8, storage_plugin=StoragePlugin.MCAP) as writer:
        connections = {
            name: writer.add_connection(name, kind, typestore=ros2_types())
            for name, kind in types.items()
        }
        spoilt = camera_topic("CAM_BACK")
        for index, message in enumerate(copied):
            raw = message.raw
            if message.topic == spoilt and index > len(copied) // 2:
                raw, spoilt = raw[:40], ""
            writer.write(connections[message.topic], message.received_ns, raw)
    frames = open_recording(tmp_path / "new")
    assert len(list(frames)) == 5
    assert reasons(frames) == ["unreadable_message", "missing_camera"]
    assert "/cam_back/image_rect/compressed: message is not a valid" in str(frames.problems[0])


def test_8uc3_is_refused_unless_the_layout_sets_an_encoding(tmp_path, images):
    messages = Messages()
    timed = []
    for image in images[:6]:
        name, stamp = image.channel, image.stamp_ns
        rgb = pixels(image)[..., ::-1] if name == "CAM_BACK" else pixels(image)
        encoding = "8UC3" if name == "CAM_BACK" else "bgr8"
        message = messages.image(stamp, name, rgb, encoding)
        timed.append((stamp, f"/{name}/image_rect_compressed", message))
        info = messages.camera_info(stamp, name, image)
        timed.append((stamp, f"/{name}/camera_info", info))
        tree = [(stamp, "map", "base_link", image.world_T_ego)]
        tree += [(stamp, "base_link", p.channel, p.ego_T_cam) for p in images[:6]]
        timed.append((stamp, "/tf", messages.tf(tree)))
    path = bag_families.write(tmp_path / "bag", messages, timed)
    frames = open_recording(path)
    assert list(frames) == []
    assert "camera CAM_BACK: encoding 8UC3" in str(frames.problems[0])
    layout = replace(
        frames.layout,
        cameras=tuple(
            replace(c, encoding="rgb8") if c.name == "CAM_BACK" else c
            for c in frames.layout.cameras
        ),
    )
    (frame,) = open_recording(path, layout=layout)
    for image in images[:6]:
        np.testing.assert_array_equal(frame.images[image.channel], pixels(image))


# -- content -------------------------------------------------------------------------------------


def test_a_gap_in_the_poses_drops_the_frames_in_it(tmp_path):
    images = drawn_images(keyframes=4)
    first = images[0].stamp_ns
    path = write_ours(
        tmp_path / "bag",
        images,
        poses=lambda p: not 350 * MS < p.stamp_ns - first < 1250 * MS,
    )
    frames = open_recording(path)
    stamps = [(frame.stamp_ns - first) / MS for frame in frames]
    assert stamps and not [stamp for stamp in stamps if 400 < stamp < 1150]
    assert min(stamps) < 300 and max(stamps) > 1300
    assert set(reasons(frames)) == {"pose_unavailable"}
    assert "lies in a gap of" in str(frames.problems[0])


def test_poses_that_end_do_not_block_later_images(tmp_path):
    images = drawn_images(keyframes=8)
    first = images[0].stamp_ns
    path = write_ours(tmp_path / "bag", images, poses=lambda p: p.stamp_ns - first < 500 * MS)
    frames = open_recording(path)
    assert len(list(frames)) == 7, "the last one extrapolates by 43 ms"
    assert set(reasons(frames)) == {"pose_not_yet"}
    assert "newer than the newest pose" in str(frames.problems[0])
    reading = Reading(frames.recording, VehicleInputs(InputPlan(frames.layout)))
    newest = 0

    def watched():
        nonlocal newest
        for message in frames.recording.messages(reading.topics):
            newest = message.received_ns
            yield message

    behind = [newest - item.frame_set.newest_stamp_ns for item in reading.frame_sets(watched())]
    assert len(behind) == 43
    assert 1_500 * MS < max(behind) < 1_700 * MS, (
        "1.5 s of frame sets, not the rest of the recording"
    )


def test_time_going_back_starts_a_new_sequence(tmp_path):
    """A recording of a looping playback: reception times continue, stamps start again."""
    once = drawn_images(keyframes=4)
    messages = Messages()
    timed, base = [], once[0].stamp_ns
    for loop in range(2):
        for image in once:
            name, stamp = image.channel, image.stamp_ns
            received = stamp + loop * 2_000 * MS
            message = messages.compressed(stamp, name, image.jpeg)
            timed.append((received, f"/{name}/image_rect_compressed", message))
            info = messages.camera_info(stamp, name, image)
            timed.append((received, f"/{name}/camera_info", info))
            tree = [(stamp, "map", "base_link", image.world_T_ego)]
            tree += [(stamp, "base_link", p.channel, p.ego_T_cam) for p in once[:6]]
            timed.append((received, "/tf", messages.tf(tree)))
    frames = open_recording(bag_families.write(tmp_path / "loop", messages, timed))
    read = list(frames)
    assert [frame.sequence for frame in read] == ["loop"] * 19 + ["loop#2"] * 19
    assert [f.stamp_ns for f in read[:19]] == [f.stamp_ns for f in read[19:]]
    assert reasons(frames) == ["time_jump"]
    assert "time went back by 1.5" in str(frames.problems[0])
    assert read[19].stamp_ns - base < 10 * MS


def test_a_camera_of_another_size_than_its_calibration(tmp_path, images):
    small = drawn_images(keyframes=1, size=(80, 46))
    other = {image.channel: image for image in small}["CAM_BACK"]
    mixed = [
        replace(p, jpeg=other.jpeg) if p.channel == "CAM_BACK" and k > 12 else p
        for k, p in enumerate(images)
    ]
    frames = open_recording(write_ours(tmp_path / "bag", mixed))
    assert len(list(frames)) == 2
    assert set(reasons(frames)) == {"size_mismatch"}
    assert "camera CAM_BACK: image is 80x46, calibrated for 160x90" in str(frames.problems[0])


def test_a_smaller_camera_with_its_own_calibration_is_fine(tmp_path, images):
    small = {p.channel: p for p in drawn_images(keyframes=1, size=(80, 46))}["CAM_BACK"]
    mixed = [
        replace(p, jpeg=small.jpeg, size=small.size, K=small.K) if p.channel == "CAM_BACK" else p
        for p in images
    ]
    frames = list(open_recording(write_ours(tmp_path / "bag", mixed)))
    assert len(frames) == 6
    assert frames[0].images["CAM_BACK"].shape == (46, 80, 3)


def test_a_missing_calibration_is_an_error(tmp_path, images):
    messages = Messages()
    timed = []
    for image in images[:6]:
        name, stamp = image.channel, image.stamp_ns
        message = messages.compressed(stamp, name, image.jpeg)
        timed.append((stamp, f"/{name}/image_rect_compressed", message))
        if name != "CAM_BACK":
            info = messages.camera_info(stamp, name, image)
            timed.append((stamp, f"/{name}/camera_info", info))
        elsewhere = messages.camera_info(stamp, "", replace(image, K=np.zeros((3, 3))))
        timed.append((stamp, "/CAM_BACK/camera_info", elsewhere))
        tree = [(stamp, "map", "base_link", image.world_T_ego)]
        tree += [(stamp, "base_link", p.channel, p.ego_T_cam) for p in images[1:6]]
        timed.append((stamp, "/tf", messages.tf(tree)))
    path = bag_families.write(tmp_path / "bag", messages, timed)
    with pytest.raises(BagError) as error:
        open_recording(path)
    text = str(error.value)
    assert (
        f"camera {images[0].channel}: no mount of {images[0].channel} in tf: tf has no frame"
        in text
    )
    assert "camera CAM_BACK: camera_info has an all-zero K" in text
    assert text.endswith("Give a rig file")


def test_poses_of_another_frame_are_not_used_for_the_vehicle(tmp_path, images):
    path = write_ours(tmp_path / "bag", images)
    frames = open_recording(path)
    layout = replace(frames.layout, pose=replace(frames.layout.pose, ego_frame="base_footprint"))
    wrong = open_recording(path, layout=layout, rig=frames.rig)
    assert list(wrong) == []
    assert reasons(wrong)[0] == "pose"
    assert "gives poses of 'base_link', expected 'base_footprint'" in str(wrong.problems[0])
