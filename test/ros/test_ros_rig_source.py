"""The rig that a running node has, made of camera_info and tf as they come."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from occ_perception.geometry import matrix_from_pose
from occ_perception.ros.rig_source import RigSource
from occ_perception.sensing.calibration import CameraInfo
from occ_perception.sensing.layouts import CameraTopics
from occ_perception.sensing.transform_tree import TransformTree

MS = 1_000_000
INFO = CameraInfo(640, 480, K=(500, 0, 320, 0, 500, 240, 0, 0, 1), frame_id="CAM_FRONT")


def mount(x: float) -> np.ndarray:
    return matrix_from_pose([x, 0, 1.5], [-0.5, 0.5, -0.5, 0.5])


@pytest.fixture
def tree() -> TransformTree:
    return TransformTree()


@pytest.fixture
def source(tree: TransformTree) -> RigSource:
    cameras = (CameraTopics("CAM_FRONT", "/CAM_FRONT/image_rect", "/CAM_FRONT/camera_info"),)
    source = RigSource(cameras, "base_link", None, tree)
    source.take_camera_info("CAM_FRONT", INFO)
    return source


def drive(tree: TransformTree, start_ms: int, x: float) -> None:
    """A scene of a bag whose mounts come in /tf only, with every pose."""
    for stamp in range(start_ms, start_ms + 20_000, 500):
        tree.add("map", "base_link", stamp * MS, mount(stamp))
        tree.add("base_link", "CAM_FRONT", stamp * MS, mount(x))


@pytest.mark.parametrize("goes_back", [False, True])
def test_a_second_bag_with_other_mounts_is_seen_with_the_same_camera_info(
    tree: TransformTree, source: RigSource, goes_back: bool
) -> None:
    drive(tree, 100_000, 1.70)
    first = source.rig()
    assert first is not None and first.camera("CAM_FRONT").ego_T_cam[0, 3] == 1.70
    if goes_back:
        tree.reset()
        assert source.rig() is None
        assert "waiting for the mount of CAM_FRONT" in source.problem("CAM_FRONT")
    drive(tree, 0 if goes_back else 200_000, 1.72)
    second = source.rig()
    assert second is not None and second.camera("CAM_FRONT").ego_T_cam[0, 3] == 1.72


@pytest.mark.parametrize(("stated", "topic", "rectified"), [
    (None, "", True),
    (None, "/front/image_raw/compressed", False),
    (None, "/front/image_rect_color", True),
    (True, "/front/image_raw", True),
    (False, "", False),
])  # fmt: skip
def test_pictures_are_rectified_where_the_topic_they_come_from_says_so(
    tree: TransformTree, stated: bool | None, topic: str, rectified: bool
) -> None:
    camera = CameraTopics(
        "CAM_FRONT", "/CAM_FRONT/image_rect", "/CAM_FRONT/camera_info", rectified=stated
    )
    source = RigSource((camera,), "base_link", None, tree)
    lens = {"D": (-0.2, 0.05, 0.0, 0.0, 0.0), "distortion_model": "plumb_bob"}
    source.take_camera_info("CAM_FRONT", replace(INFO, **lens))
    drive(tree, 0, 1.70)
    assert source.rig() is not None
    if topic:
        source.take_picture_topic("CAM_FRONT", topic)
    assert source.rig().camera("CAM_FRONT").is_rectified is rectified


def test_the_rig_is_the_same_object_while_its_numbers_are(
    tree: TransformTree, source: RigSource
) -> None:
    drive(tree, 0, 1.70)
    first = source.rig()
    drive(tree, 20_000, 1.70)
    tree.add("base_link", "lidar", 0, np.eye(4), static=True)
    assert source.rig() is first
    assert source.changes == 0
