"""Towns and drives: the result of a seed, and properties of every one of them."""

from __future__ import annotations

import itertools
import subprocess
import sys

import cv2
import numpy as np
import pytest
import synthetic_scenes as scenes

from occ_perception.cli import town as cli
from occ_perception.errors import OptionError
from occ_perception.synthetic import seeds
from occ_perception.synthetic.drive import Drive
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.rig import CAMERAS, STAGGER_NS, synthetic_rig
from occ_perception.synthetic.route import DURATION_S
from occ_perception.synthetic.seeds import SPLITS, random_for, split_of
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions, frame_times
from occ_perception.synthetic.town import Town


def test_splits_share_no_town() -> None:
    for first, second in itertools.combinations(SPLITS.values(), 2):
        assert not set(first) & set(second)
    assert split_of(30_000) == "demo"
    assert (cli.DEMO_TOWN, cli.DEMO_DRIVE) == (seeds.DEMO_TOWN, seeds.DEMO_DRIVE)


@pytest.mark.parametrize("seed", [-1, 10_500, 19_999, 30_001])
def test_a_seed_of_no_split_is_refused(seed: int) -> None:
    with pytest.raises(OptionError, match=r"belongs to no split; splits are train 0\.\.9999"):
        Town(seed)


def test_a_drive_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OptionError, match=r"0\.\.999"):
        Drive(scenes.town(20_000), 1000)
    with pytest.raises(OptionError, match="at 2 Hz give 1 to 41 frames, got 42"):
        frame_times(42, 2.0)


def test_importing_the_town_loads_no_compiler() -> None:
    code = (
        "import sys, occ_perception.synthetic.sensors, occ_perception.synthetic.devkit,"
        "occ_perception.synthetic.recording, occ_perception.cli.town;"
        "print([m for m in ('numba', 'cv2', 'torch', 'rosbags') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_purpose_draws_the_same_whatever_else_is_drawn() -> None:
    before = random_for("traffic", 5, 1).random(4)
    random_for("weather", 5, 1).random(100)
    assert np.array_equal(random_for("traffic", 5, 1).random(4), before)
    assert not np.array_equal(random_for("traffic", 5, 2).random(4), before)


def test_ego_motion_is_bounded_and_stays_in_town() -> None:
    town = scenes.town(20_001)
    turns = 0
    times = np.arange(-0.05, DURATION_S, 0.1)
    for index in range(60):
        drive = Drive(town, index)
        poses = np.array([drive.pose(float(t)) for t in times])
        position = poses[:, :3, 3]
        assert np.abs(position[:, :2]).max() < columns.HALF_TOWN - 40
        speed = np.linalg.norm(np.diff(position, axis=0), axis=1) / 0.1
        assert speed.max() < 12.5
        along = np.array([drive.route.profile.speed(float(t)) for t in times[1:]])
        assert np.abs(np.diff(along)).max() / 0.1 < 2.0
        assert np.allclose(0.5 * (along[1:] + along[:-1]), speed[1:], atol=0.15)
        up = poses[:, :3, 2]
        assert np.degrees(np.arccos(up[:, 2].min())) < 3.0
        heading = np.unwrap(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
        turns += bool(abs(heading[-1] - heading[0]) > 0.9)
        assert drive.route.turns == bool(np.ptp(heading) > 0.6) or drive.route.turns
    assert 8 <= turns <= 30


@pytest.mark.parametrize("frame", scenes.FRAMES[:2], ids=str)
def test_no_vehicle_overlaps_another_at_a_keyframe(frame) -> None:
    """Rectangle intersection by OpenCV, not by the filter's own separating axes."""
    drive = scenes.drive(frame[0], frame[1])
    for t in (0.0, 5.0, 12.5, 20.0):
        bodies = [b for b in drive.scene(t).bodies if b.class_id != columns.PEDESTRIAN]
        moving = [n for n, b in enumerate(bodies) if np.hypot(*b.velocity) > 0.3]
        boxes = [rotated(b) for b in bodies]
        for n in moving:
            for m in range(len(bodies)):
                if m == n or np.hypot(*np.subtract(boxes[n][0], boxes[m][0])) > 14:
                    continue
                _, corners = cv2.rotatedRectangleIntersection(boxes[n], boxes[m])
                shared = 0.0 if corners is None else cv2.contourArea(cv2.convexHull(corners))
                assert shared < 0.05, (t, bodies[n], bodies[m])


def rotated(body) -> tuple[tuple[float, float], tuple[float, float], float]:
    x, y, _, yaw = body.pose
    middle = (np.array(body.lower) + np.array(body.upper))[:2] / 2
    c, s = np.cos(yaw), np.sin(yaw)
    centre = (float(x + c * middle[0] - s * middle[1]), float(y + s * middle[0] + c * middle[1]))
    size = np.array(body.upper)[:2] - np.array(body.lower)[:2]
    return centre, (float(size[0]), float(size[1])), float(np.degrees(yaw))


def test_nothing_is_on_top_of_the_ego_vehicle() -> None:
    for frame in scenes.FRAMES:
        drive = scenes.drive(frame[0], frame[1])
        for t in np.arange(0, 20.1, 2.5):
            pose = drive.pose(float(t))
            for body in drive.scene(float(t)).bodies:
                distance = np.hypot(body.pose[0] - pose[0, 3], body.pose[1] - pose[1, 3])
                assert distance > 2.0, (t, body)


def test_small_images_are_scaled_and_cropped_at_the_top() -> None:
    native = synthetic_rig().camera("CAM_BACK")
    small = synthetic_rig((704, 256)).camera("CAM_BACK")
    expected = native.K.copy()
    expected[:2] *= 0.44
    expected[1, 2] -= 140
    assert np.allclose(small.K, expected)


@pytest.mark.parametrize("size", [(800, 451), (0, 0), (704, -4), (100, 900)])
def test_a_size_that_breaks_the_crop_is_refused(size) -> None:
    with pytest.raises(OptionError, match="cannot be cropped from 1600x900"):
        synthetic_rig(size)


def test_the_rig_is_jittered_by_drive_only_when_asked() -> None:
    drives = [scenes.drive(20_000, 0), scenes.drive(20_000, 1)]
    nominal = {DriveSensors(drive).rig.fingerprint() for drive in drives}
    jittered = SensorOptions(jitter_rig=True)
    moved = {DriveSensors(drive, jittered).rig.fingerprint() for drive in drives}
    assert len(nominal) == 1
    assert len(moved | nominal) == 3


def test_cameras_fire_one_after_the_other_each_with_its_own_pose() -> None:
    sensors = DriveSensors(scenes.drive(20_000, 0), SensorOptions(size=(64, 36)))
    frame = sensors.frame(3.0)
    offsets = {name: stamp - sensors.stamp_ns(3.0) for name, stamp in frame.stamps_ns.items()}
    assert offsets == STAGGER_NS
    assert set(frame.images) == set(CAMERAS)
    for name, pose in frame.world_T_ego.items():
        assert np.array_equal(pose, sensors.drive.pose(3.0 + STAGGER_NS[name] * 1e-9))
    still = DriveSensors(sensors.drive, SensorOptions(size=(64, 36), stagger=False)).frame(3.0)
    assert set(still.stamps_ns.values()) == {sensors.stamp_ns(3.0)}
