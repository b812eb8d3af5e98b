"""Chains of tf frames, as in four families of bags."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.geometry import invert_transform, matrix_from_pose
from occ_perception.sensing.ego_pose import PoseNotYet, PoseUnavailable
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree

MS = 1_000_000


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    quaternion = rng.normal(size=4)
    return matrix_from_pose(rng.normal(size=3), quaternion / np.linalg.norm(quaternion))


def driving(x: float) -> np.ndarray:
    return matrix_from_pose([x, 0, 0], [0, 0, 0, 1])


def test_static_chain_base_link_camera_link_optical():
    tree = TransformTree()
    mount, optical = random_pose(1), random_pose(2)
    tree.add("base_link", "camera_link", 0, mount, static=True)
    tree.add("camera_link", "camera_optical", 0, optical, static=True)
    np.testing.assert_allclose(
        tree.static_transform("base_link", "camera_optical"), mount @ optical, atol=1e-12
    )
    np.testing.assert_allclose(
        tree.static_transform("camera_optical", "base_link"),
        invert_transform(mount @ optical),
        atol=1e-12,
    )


def test_siblings_meet_at_their_common_parent():
    tree = TransformTree()
    left, right = random_pose(3), random_pose(4)
    tree.add("base_link", "left", 0, left, static=True)
    tree.add("base_link", "right", 0, right, static=True)
    np.testing.assert_allclose(
        tree.static_transform("left", "right"), invert_transform(left) @ right, atol=1e-12
    )
    np.testing.assert_array_equal(tree.static_transform("left", "left"), np.eye(4))


def test_whole_tree_restamped_in_every_message_without_tf_static():
    """As in clynamen/nuscenes2bag: mounts are published as moving frames that do not move."""
    tree = TransformTree()
    mount = random_pose(5)
    for k in range(20):
        stamp = k * 50 * MS
        tree.add("/map", "/odom", stamp, np.eye(4))
        tree.add("/odom", "/base_link", stamp, driving(k))
        tree.add("/base_link", "/cam_front", stamp, mount)
    np.testing.assert_allclose(tree.static_transform("base_link", "cam_front"), mount, atol=1e-12)
    poses = tree.poses("map", "base_link")
    np.testing.assert_allclose(poses.at(475 * MS), driving(9.5), atol=1e-12)
    np.testing.assert_array_equal(poses.at(500 * MS), driving(10))
    assert poses.settled(950 * MS) and not poses.settled(951 * MS)
    assert tree.frames == ("base_link", "cam_front", "map", "odom")


def test_a_chain_waits_for_its_slowest_edge():
    tree = TransformTree()
    poses = tree.poses("map", "base_link")
    with pytest.raises(PoseNotYet, match="no frame 'map'"):
        poses.at(0)
    assert not poses.settled(0)
    for stamp in range(0, 500, 100):
        tree.add("odom", "base_link", stamp * MS, driving(stamp))
    tree.add("map", "odom", 0, driving(1000))
    tree.add("map", "odom", 200 * MS, driving(1002))
    np.testing.assert_allclose(poses.at(150 * MS), driving(1151.5))
    assert poses.settled(200 * MS) and not poses.settled(201 * MS)
    with pytest.raises(PoseNotYet, match="tf map -> odom"):
        poses.at(400 * MS)


def test_a_world_frame_below_the_root_is_fine():
    """map is a child of earth, and so is odom."""
    tree = TransformTree()
    tree.add("earth", "map", 0, random_pose(6), static=True)
    tree.add("earth", "base_link", 0, random_pose(7))
    np.testing.assert_allclose(
        tree.poses("map", "base_link").at(0),
        invert_transform(random_pose(6)) @ random_pose(7),
        atol=1e-12,
    )


def test_gaps_carry_the_name_of_the_edge():
    tree = TransformTree()
    tree.add("map", "base_link", 0, driving(0))
    tree.add("map", "base_link", 900 * MS, driving(9))
    with pytest.raises(PoseUnavailable, match=r"tf map -> base_link: .* gap of 900 ms"):
        tree.poses("map", "base_link").at(450 * MS)


def test_unknown_and_unconnected_frames_are_named():
    tree = TransformTree()
    tree.add("base_link", "lidar", 0, np.eye(4), static=True)
    tree.add("other_robot", "its_camera", 0, np.eye(4), static=True)
    with pytest.raises(TransformError, match=r"no frame 'cam'; it has base_link, its_camera"):
        tree.static_transform("base_link", "cam")
    with pytest.raises(TransformError, match="does not connect 'its_camera'"):
        tree.static_transform("base_link", "its_camera")


def test_cycles_and_second_parents_are_refused():
    tree = TransformTree()
    tree.add("a", "b", 0, np.eye(4))
    tree.add("b", "c", 0, np.eye(4))
    with pytest.raises(TransformError, match=r"closes a cycle: c -> a -> b -> c$"):
        tree.add("c", "a", 0, np.eye(4))
    with pytest.raises(TransformError, match="cycle"):
        tree.add("d", "d", 0, np.eye(4))
    with pytest.raises(TransformError, match="'c' has two parents, 'b' and 'a'"):
        tree.add("a", "c", 0, np.eye(4))
    np.testing.assert_array_equal(tree.static_transform("a", "c"), np.eye(4))


def test_frames_without_a_name_are_refused():
    tree = TransformTree()
    for parent, child in (("", "cam"), ("base_link", ""), ("/", "cam")):
        with pytest.raises(TransformError, match="a frame has no name"):
            tree.add(parent, child, 0, np.eye(4), static=True)
    assert tree.frames == ()


@pytest.mark.parametrize("was_static", [True, False])
def test_the_newest_parent_of_a_static_frame_applies(was_static):
    """Whether the frame came on /tf_static or on /tf before."""
    tree = TransformTree()
    tree.add("base_link", "cam", 0, random_pose(1), static=was_static)
    tree.add("base_link", "roof", 0, random_pose(2), static=True)
    tree.add("roof", "cam", 0, random_pose(3), static=True)
    np.testing.assert_allclose(
        tree.static_transform("base_link", "cam"), random_pose(2) @ random_pose(3), atol=1e-12
    )
    tree.rewind()
    np.testing.assert_array_equal(tree.static_transform("base_link", "cam"), random_pose(1))
    with pytest.raises(TransformError, match="cycle"):
        tree.add("cam", "base_link", 0, np.eye(4), static=True)


def test_a_moving_transform_gives_a_static_frame_no_other_parent():
    tree = TransformTree()
    tree.add("roof", "cam", 0, random_pose(1), static=True)
    with pytest.raises(TransformError, match="'cam' has two parents, 'roof' and 'base_link'"):
        tree.add("base_link", "cam", 10_000 * MS, random_pose(2))


def test_a_moving_frame_gets_another_parent_after_the_first_fell_silent():
    tree = TransformTree(max_gap_ns=500 * MS)
    tree.add("odom", "base_link", 0, driving(0))
    with pytest.raises(TransformError, match="two parents"):
        tree.add("map", "base_link", 500 * MS, driving(0))
    tree.add("map", "base_link", 501 * MS, driving(1))
    np.testing.assert_array_equal(tree.poses("map", "base_link").at(501 * MS), driving(1))


def test_reading_again_starts_with_the_first_mounts():
    """Without the movement that comes later."""
    tree = TransformTree()
    for k in range(3):
        tree.add("base_link", "gimbal", k * 100 * MS, random_pose(k))
    with pytest.raises(TransformError, match="moves"):
        tree.static_transform("base_link", "gimbal")
    tree.rewind()
    np.testing.assert_array_equal(tree.static_transform("base_link", "gimbal"), random_pose(0))


def test_a_camera_on_a_moving_mount_is_refused():
    tree = TransformTree()
    tree.add("base_link", "gimbal", 0, random_pose(8))
    tree.add("gimbal", "cam", 0, np.eye(4), static=True)
    tree.add("base_link", "gimbal", 100 * MS, random_pose(9))
    tree.add("base_link", "gimbal", 200 * MS, random_pose(10))
    with pytest.raises(TransformError, match="'gimbal' moves in 'base_link'"):
        tree.static_transform("base_link", "cam")


def test_a_new_static_value_replaces_the_old_one():
    tree = TransformTree()
    tree.add("base_link", "cam", 0, random_pose(10), static=True)
    tree.add("base_link", "cam", 1, random_pose(11), static=True)
    np.testing.assert_allclose(tree.static_transform("base_link", "cam"), random_pose(11))


def test_another_vehicles_mounts_in_tf_replace_the_first_ones():
    """Two scenes one after the other, in time or with time going back, each with its own mounts."""
    tree = TransformTree()

    def drive_scene(start_ms: int, mount: np.ndarray) -> None:
        for stamp in range(start_ms, start_ms + 20_000, 500):
            tree.add("map", "base_link", stamp * MS, driving(stamp))
            tree.add("base_link", "cam", stamp * MS, mount)
            np.testing.assert_array_equal(tree.static_transform("base_link", "cam"), mount)

    drive_scene(100_000, random_pose(20))
    drive_scene(200_000, random_pose(21))
    tree.reset()
    with pytest.raises(TransformError, match="tf has no frame 'base_link'"):
        tree.static_transform("base_link", "cam")
    drive_scene(0, random_pose(22))


def test_a_frame_that_moved_before_a_reset_may_be_static_after_it():
    tree = TransformTree()
    for stamp in range(3):
        tree.add("base_link", "cam", stamp * 100 * MS, driving(stamp))
    tree.reset()
    tree.add("base_link", "cam", 0, random_pose(23))
    np.testing.assert_array_equal(tree.static_transform("base_link", "cam"), random_pose(23))


def test_mount_changes_count_only_changes_of_mounts():
    tree = TransformTree()

    def changes(*added, static=False) -> int:
        before = tree.mount_changes
        tree.add(*added, static=static)
        return tree.mount_changes - before

    assert changes("base_link", "lidar", 0, random_pose(24), static=True) == 1
    assert changes("base_link", "lidar", 9, random_pose(24), static=True) == 0
    assert changes("base_link", "lidar", 9, random_pose(25), static=True) == 1
    # The vehicle: known, first step, then known to move; later steps do not affect mounts.
    driven = [changes("map", "base_link", k * 100 * MS, driving(k)) for k in range(6)]
    assert driven == [1, 1, 1, 0, 0, 0]
    assert [changes("base_link", "cam", k * 100 * MS, random_pose(26)) for k in range(3)] == [
        1, 0, 0
    ]  # fmt: skip


def test_after_a_jump_back_a_reset_keeps_mounts_and_forgets_motion():
    tree = TransformTree()
    tree.add("base_link", "cam", 0, random_pose(12), static=True)
    tree.add("map", "base_link", 100_000 * MS, driving(5))
    with pytest.raises(TimeJump, match="map -> base_link"):
        tree.add("map", "base_link", 0, driving(0))
    tree.reset()
    tree.add("map", "base_link", 0, driving(0))
    np.testing.assert_array_equal(tree.poses("map", "base_link").at(0), driving(0))
    np.testing.assert_allclose(tree.static_transform("base_link", "cam"), random_pose(12))
