"""A devkit folder is converted to a bag, which gives the same frames."""

from __future__ import annotations

import io
import json
from collections import defaultdict

import numpy as np
import pytest
from nuscenes_folder import OFFSETS_US, VERSION, DrawnImage, drawn_scene, real_scene
from PIL import Image
from rosbags.highlevel import AnyReader

from occ_perception.atomic import OutputError
from occ_perception.bags.drive import open_recording
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.nuscenes_tables import NuScenesError
from occ_perception.sensing.ego_pose import PoseBuffer

CAMERAS = set(OFFSETS_US)


def frame_sets_of(images: list[DrawnImage]) -> list[dict[str, DrawnImage]]:
    """Images in the order of time, six at a time: a drawn scene loses none."""
    frame_sets = [images[k : k + 6] for k in range(0, len(images), 6)]
    return [{image.channel: image for image in frame_set} for frame_set in frame_sets]


def assert_same(frames: list, images: list[DrawnImage]) -> None:
    frame_sets = frame_sets_of(images)
    assert len(frames) == len(frame_sets)
    for frame, frame_set in zip(frames, frame_sets, strict=True):
        assert set(frame.images) == set(frame_set) == CAMERAS
        assert frame.stamp_ns == frame_set["CAM_FRONT"].stamp_ns
        for name, image in frame_set.items():
            calibration = frame.rig.camera(name)
            expected = np.asarray(Image.open(io.BytesIO(image.jpeg)).convert("RGB"))
            np.testing.assert_array_equal(frame.images[name], expected)
            assert frame.stamps_ns[name] == image.stamp_ns
            np.testing.assert_array_equal(calibration.K, image.K)
            # Rotations are stored as quaternions. Matrices of the real frames have 9 decimals, so
            # the nearest rotation differs by that much; translations are exact.
            np.testing.assert_allclose(calibration.ego_T_cam, image.ego_T_cam, atol=2e-9)
            np.testing.assert_allclose(frame.world_T_ego[name], image.world_T_ego, atol=2e-9)
            np.testing.assert_array_equal(frame.world_T_ego[name][:3, 3], image.world_T_ego[:3, 3])


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_all_sweeps_come_back_as_they_were(tmp_path, storage):
    images = drawn_scene(tmp_path / "data", keyframes=3)
    done = []
    report = convert_nuscenes(
        tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag", storage,
        progress=lambda *step: done.append(step),
    )  # fmt: skip
    assert report.images == dict.fromkeys(CAMERAS, 13) and report.problems == []
    assert done[-1] == (78, 78) and len(done) == 78
    frames = open_recording(tmp_path / "bag")
    assert frames.layout.name == "occ_perception"
    assert frames.expected_frames == 13
    assert_same(list(frames), images)
    assert frames.problems == [] and frames.counters.complete == 13
    assert len(list(frames)) == 13, "a recording can be read again"


def test_keyframes_alone(tmp_path):
    images = drawn_scene(tmp_path / "data", keyframes=3)
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag", sweeps=False)
    assert_same(
        list(open_recording(tmp_path / "bag")),
        [image for image in images if image.is_key_frame],
    )


def test_real_frames_come_back_as_they_were(tmp_path, shared_dir):
    images = real_scene(tmp_path / "data", shared_dir)
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0103", tmp_path / "bag")
    frames = open_recording(tmp_path / "bag", sequence="scene-0103")
    read = list(frames)
    assert_same(read, images)
    assert frames.problems == []
    assert {frame.sequence for frame in read} == {"scene-0103"}


def test_a_ros_installation_can_read_the_recording(tmp_path):
    """Types, QoS, metadata and transforms, read with the library alone."""
    import yaml

    images = drawn_scene(tmp_path / "data", keyframes=2, lidar=True)
    convert_nuscenes(
        tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag", "sqlite3", lidar=True
    )
    assert {path.name for path in tmp_path.iterdir()} == {"data", "bag"}
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    info = metadata["rosbag2_bagfile_information"]
    assert info["version"] == 8 and info["relative_file_paths"] == ["bag.db3"]
    topics = {t["topic_metadata"]["name"]: t for t in info["topics_with_message_count"]}
    for topic, entry in topics.items():
        (qos,) = yaml.safe_load(entry["topic_metadata"]["offered_qos_profiles"])
        assert qos["reliability"] == 1
        assert qos["durability"] == (1 if topic == "/tf_static" else 2), topic
    assert topics["/lidar_top"]["message_count"] == 2
    by_topic = defaultdict(list)
    with AnyReader([tmp_path / "bag"]) as reader:
        for connection, _, raw in reader.messages():
            by_topic[connection.topic].append(reader.deserialize(raw, connection.msgtype))
    (static,) = by_topic["/tf_static"]
    assert {t.child_frame_id for t in static.transforms} == {
        *(f"{name.lower()}_optical" for name in CAMERAS), "lidar_top"}  # fmt: skip
    assert {t.header.frame_id for t in static.transforms} == {"base_link"}
    jpegs = {bytes(m.data) for name in CAMERAS
             for m in by_topic[f"/{name.lower()}/image_rect/compressed"]}  # fmt: skip
    assert jpegs == {image.jpeg for image in images}
    buffer = PoseBuffer()
    for odometry in by_topic["/odom"]:
        assert (odometry.header.frame_id, odometry.child_frame_id) == ("map", "base_link")
        p = odometry.pose.pose.position
        stamp = odometry.header.stamp.sec * 10**9 + odometry.header.stamp.nanosec
        pose = np.eye(4)
        pose[:3, 3] = p.x, p.y, p.z
        buffer.add(stamp, pose)
    for image in images:
        np.testing.assert_array_equal(buffer.at(image.stamp_ns)[:3, 3], image.world_T_ego[:3, 3])
    cloud = by_topic["/lidar_top"][0]
    points = np.frombuffer(cloud.data.tobytes(), "<f4").reshape(-1, 5)
    expected = np.random.default_rng(0).normal(size=(50, 5)).astype("<f4")
    np.testing.assert_array_equal(points, expected)
    assert [field.name for field in cloud.fields] == ["x", "y", "z", "intensity", "ring"]


def test_scenes_are_kept_apart(tmp_path):
    drawn_scene(tmp_path / "data", "scene-0001", keyframes=2)
    other = drawn_scene(
        tmp_path / "data", "scene-0002", keyframes=2, start_us=1_540_000_000_000_000
    )
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0002", tmp_path / "bag")
    assert_same(list(open_recording(tmp_path / "bag")), other)


def test_unknown_names_list_the_known_ones(tmp_path):
    drawn_scene(tmp_path / "data", "scene-0001", keyframes=1)
    drawn_scene(tmp_path / "data", "scene-0007", keyframes=1)
    with pytest.raises(NuScenesError, match=r"no scene 'scene-9'.* scene-0001, scene-0007"):
        convert_nuscenes(tmp_path / "data", VERSION, "scene-9", tmp_path / "bag")
    with pytest.raises(NuScenesError, match=r"no nuScenes tables in .*v1.0-trainval; .* v1.0-mini"):
        convert_nuscenes(tmp_path / "data", "v1.0-trainval", "scene-0001", tmp_path / "bag")
    with pytest.raises(NuScenesError, match=r"no folder with a scene.json"):
        convert_nuscenes(tmp_path / "elsewhere", VERSION, "scene-0001", tmp_path / "bag")
    assert not (tmp_path / "bag").exists()


def test_damaged_tables_are_named(tmp_path):
    drawn_scene(tmp_path / "data", keyframes=1)
    table = tmp_path / "data" / VERSION / "ego_pose.json"
    table.write_text(table.read_text()[:-20])
    with pytest.raises(NuScenesError, match=r"ego_pose.json is damaged"):
        convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    table.unlink()
    with pytest.raises(NuScenesError, match=r"ego_pose.json is missing"):
        convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize("table", ["sensor", "calibrated_sensor", "ego_pose"])
def test_a_record_that_a_table_lacks_is_named(tmp_path, table):
    drawn_scene(tmp_path / "data", keyframes=1)
    file = tmp_path / "data" / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    lost = records.pop(2)["token"]
    file.write_text(json.dumps(records))
    report = convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    assert f"{table}.json has no record '{lost}'" in report.problems[0]
    assert (len(report.problems), len(report.images)) == (1, 5)


def test_missing_and_damaged_files_are_listed_and_the_rest_is_kept(tmp_path):
    images = drawn_scene(tmp_path / "data", keyframes=2)
    frame_sets = frame_sets_of(images)
    gone, cut = frame_sets[1]["CAM_BACK"], frame_sets[3]["CAM_FRONT_LEFT"]
    (tmp_path / "data" / gone.filename).unlink()
    (tmp_path / "data" / cut.filename).write_bytes(cut.jpeg[:-200])
    report = convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    assert report.images["CAM_BACK"] == 6 and report.images["CAM_FRONT"] == 7
    assert [str(gone.stamp_us) in p or str(cut.stamp_us) in p for p in report.problems] == [
        True
    ] * 2
    assert "No such file" in report.problems[0] and "truncated" in report.problems[1]
    frames = open_recording(tmp_path / "bag")
    assert [f.stamp_ns for f in frames] == [
        frame_set["CAM_FRONT"].stamp_ns for k, frame_set in enumerate(frame_sets) if k not in (1, 3)
    ]
    assert [(p.reason, p.stamp_ns) for p in frames.problems] == [
        ("missing_camera", frame_sets[1]["CAM_FRONT"].stamp_ns),
        ("missing_camera", frame_sets[3]["CAM_FRONT"].stamp_ns),
    ]
    assert "camera CAM_BACK: no image" in str(frames.problems[0])
    reusing = list(open_recording(tmp_path / "bag", missing_camera="reuse_last"))
    assert len(reusing) == 7 and reusing[1].reused == ("CAM_BACK",)
    assert reusing[1].stamps_ns["CAM_BACK"] == frame_sets[0]["CAM_BACK"].stamp_ns


def test_tables_without_sensor_data_leave_nothing_behind(tmp_path):
    images = drawn_scene(tmp_path / "data", keyframes=1)
    for image in images:
        (tmp_path / "data" / image.filename).unlink()
    with pytest.raises(
        NuScenesError,
        match=r"no image that can be used: .*\.jpg: No such file.*Is the sensor data unpacked",
    ):
        convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path):
    drawn_scene(tmp_path / "data", keyframes=1)
    (tmp_path / "bag").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")

    def interrupted(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_nuscenes(
            tmp_path / "data", VERSION, "scene-0001", tmp_path / "new", progress=interrupted
        )
    assert {path.name for path in tmp_path.iterdir()} == {"data", "bag"}


def test_the_order_of_records_in_the_tables_does_not_matter(tmp_path):
    images = drawn_scene(tmp_path / "data", keyframes=2)
    for table in (tmp_path / "data" / VERSION).glob("*.json"):
        table.write_text(json.dumps(json.loads(table.read_text())[::-1]))
    convert_nuscenes(tmp_path / "data", VERSION, "scene-0001", tmp_path / "bag")
    assert_same(list(open_recording(tmp_path / "bag")), images)
