"""Fields of messages, for the node and for bags."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from nuscenes_folder import drawn_images

from occ_perception.bags.drive import open_recording
from occ_perception.bags.writing import BagWriter
from occ_perception.frames import CameraCalibration
from occ_perception.sensing.from_messages import gives_pose_of


@pytest.mark.parametrize(("child", "about"), [
    ("base_link", True), ("/base_link", True), ("", True), ("base_footprint", False),
])  # fmt: skip
def test_odometry_without_a_child_frame_id_is_used(child, about):
    assert gives_pose_of(SimpleNamespace(child_frame_id=child), "base_link") is about


def test_a_bag_whose_odometry_has_no_child_frame_id_gives_frames(tmp_path):
    images = drawn_images(keyframes=1, size=(320, 180))[:6]
    with BagWriter(tmp_path / "bag", ego_frame="") as writer:
        mounts = [("base_link", f"{p.channel.lower()}_optical", p.ego_T_cam) for p in images]
        writer.write_transforms(images[0].stamp_ns, mounts, static=True)
        for p in images:
            camera = CameraCalibration(p.channel, *p.size, p.K, p.ego_T_cam)
            writer.write_odometry(p.stamp_ns, p.world_T_ego)
            writer.write_camera_info(camera, p.stamp_ns)
            writer.write_camera(p.channel, p.stamp_ns, p.jpeg)
    with open_recording(tmp_path / "bag") as frames:
        assert len(list(frames)) == 1
        assert frames.problems == []
