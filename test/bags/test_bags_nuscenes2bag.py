"""A bag with every topic of foxglove/nuscenes2bag gives the frames and sweeps of the drive."""

from __future__ import annotations

import bag_families
import numpy as np
import pytest
from mcap_files import messages_of, write_mcap
from nuscenes_folder import drawn_images

from occ_perception.bags.discovery import topic_of_points
from occ_perception.bags.drive import open_recording
from occ_perception.bags.inspection import inspect_bag
from occ_perception.bags.lidar import LidarSweeps
from occ_perception.geometry import transform_points


@pytest.fixture(scope="module")
def images():
    return drawn_images(keyframes=3, size=(80, 46))


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
@pytest.mark.parametrize("static", [False, True])
def test_every_frame_and_sweep_is_read(tmp_path, images, static, storage):
    path = bag_families.nuscenes2bag(tmp_path / "bag", images, static, storage)
    with open_recording(path) as drive:
        assert drive.layout.name == "foxglove" and drive.notes == ()
        frames = list(drive)
        assert drive.problems == []
        assert topic_of_points(drive.recording) == "/LIDAR_TOP"
    front = [image for image in images if image.channel == "CAM_FRONT"]
    assert [frame.stamp_ns for frame in frames] == [image.stamp_ns for image in front]
    for frame in frames:
        for image in images[:6]:
            camera = frame.rig.camera(image.channel)
            np.testing.assert_allclose(camera.ego_T_cam, image.ego_T_cam, atol=1e-9)
            np.testing.assert_allclose(camera.K, image.K)
    sweeps = LidarSweeps(path)
    first, *others = sweeps
    assert len(others) == 2 and sweeps.problems == []
    points = np.random.default_rng(first.stamp_ns % 1000).uniform(-20, 20, (50, 5))
    in_ego = transform_points(bag_families.LIDAR_MOUNT, points[:, :3])
    np.testing.assert_allclose(first.points, in_ego, atol=1e-4)


def test_the_report_says_that_the_node_can_run_and_lists_all_topics(tmp_path, images):
    report = inspect_bag(bag_families.nuscenes2bag(tmp_path / "bag", images, static=True))
    assert report.missing_for_node == [] and report.problems == []
    assert report.frame_sets is not None and report.frame_sets.counters.incomplete == 0
    counts = {topic.name: topic.count for topic in report.topics}
    assert counts["/tf_static"] == 1 and counts["/CAM_FRONT/camera_info"] == len(images) / 6
    assert counts["/markers/annotations"] == counts["/LIDAR_TOP"] == counts["/gps"] == 3
    assert all(counts.values())


def test_its_ros_1_messages_are_read_from_a_bag_and_from_an_mcap(tmp_path, images):
    """The first versions write ROS 1 bags, the last one an mcap with ROS 1 messages and events."""
    messages = bag_families.Messages(ros1=True)
    timed = bag_families.foxglove_topics(messages, images)
    bag = bag_families.write(tmp_path / "scene.bag", messages, timed)
    events = ("/events", "json", "Event", "jsonschema")
    mcap = write_mcap(tmp_path / "scene.mcap", messages_of(bag), "ros1", others=[events])
    stamps = [image.stamp_ns for image in images if image.channel == "CAM_FRONT"]
    for path, reasons in ((bag, []), (mcap, ["foreign_topic"])):
        with open_recording(path) as drive:
            assert drive.layout.name == "foxglove"
            assert [frame.stamp_ns for frame in drive] == stamps
            assert [problem.reason for problem in drive.problems] == reasons
