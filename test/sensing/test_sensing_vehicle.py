"""Vehicle inputs: rig, mounts and poses from messages, as fed by the node and the bag reader."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import matrix_from_pose, pose_from_matrix
from occ_perception.sensing.calibration import CameraInfo, load_rig
from occ_perception.sensing.ego_pose import PoseNotYet
from occ_perception.sensing.input_plan import InputPlan, InputPlanError, plan_inputs
from occ_perception.sensing.layouts import (
    POINTS_TYPE,
    CameraTopics,
    LidarTopicError,
    PoseSource,
    TopicLayout,
    lidar_topic,
    load_layout,
)
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError
from occ_perception.sensing.vehicle import VehicleInputs

MS = 1_000_000
INFO = CameraInfo(640, 480, K=(500, 0, 320, 0, 500, 240, 0, 0, 1), frame_id="CAM_FRONT")
LENS = {"D": (-0.2, 0.05, 0.0, 0.0, 0.0), "distortion_model": "plumb_bob"}
FRONT = CameraTopics("CAM_FRONT", "/CAM_FRONT/image_rect", "/CAM_FRONT/camera_info")
ODOMETRY = PoseSource("odometry", "/odom", "map", "base_link")
TF = PoseSource("tf", "/tf", "map", "base_link")


def mount(x: float) -> np.ndarray:
    return matrix_from_pose([x, 0, 1.5], [-0.5, 0.5, -0.5, 0.5])


def driven(x: float) -> np.ndarray:
    return matrix_from_pose([x, 0, 0], [0, 0, 0, 1])


def layout(*cameras: CameraTopics, pose: PoseSource = ODOMETRY, **more: Any) -> TopicLayout:
    return TopicLayout("test", cameras or (FRONT,), pose, "CAM_FRONT", **more)


def vehicle_with(*cameras: CameraTopics, pose: PoseSource = ODOMETRY, **more: Any) -> VehicleInputs:
    return VehicleInputs(plan_inputs(layout(*cameras, pose=pose), **more))


def stamp(ns: int) -> SimpleNamespace:
    return SimpleNamespace(sec=ns // 10**9, nanosec=ns % 10**9)


def fields(matrix: np.ndarray) -> tuple[SimpleNamespace, SimpleNamespace]:
    (x, y, z), (qx, qy, qz, qw) = pose_from_matrix(matrix)
    return SimpleNamespace(x=x, y=y, z=z), SimpleNamespace(x=qx, y=qy, z=qz, w=qw)


def transform(parent: str, child: str, ms: int, matrix: np.ndarray) -> SimpleNamespace:
    translation, rotation = fields(matrix)
    return SimpleNamespace(
        header=SimpleNamespace(frame_id=parent, stamp=stamp(ms * MS)),
        child_frame_id=child,
        transform=SimpleNamespace(translation=translation, rotation=rotation),
    )


def tf(*transforms: SimpleNamespace) -> SimpleNamespace:
    return SimpleNamespace(transforms=list(transforms))


def odometry(ms: int, x: float, child: str = "base_link") -> SimpleNamespace:
    position, orientation = fields(driven(x))
    pose = SimpleNamespace(position=position, orientation=orientation)
    return SimpleNamespace(
        header=SimpleNamespace(frame_id="map", stamp=stamp(ms * MS)),
        child_frame_id=child,
        pose=SimpleNamespace(pose=pose),
    )


def bad(item: SimpleNamespace) -> SimpleNamespace:
    item.transform.rotation = SimpleNamespace(x=0.0, y=0.0, z=0.0, w=0.0)
    return item


def drive(vehicle: VehicleInputs, start_ms: int, x: float) -> None:
    """A scene of a bag whose mounts come in /tf only, with every pose."""
    for ms in range(start_ms, start_ms + 20_000, 500):
        message = tf(
            transform("map", "base_link", ms, driven(ms)),
            transform("base_link", "CAM_FRONT", ms, mount(x)),
        )
        assert vehicle.take_transforms(message, static=False) == ()


def front_x(vehicle: VehicleInputs) -> float:
    rig = vehicle.rig()
    assert rig is not None, vehicle.problems
    return float(rig.camera("CAM_FRONT").ego_T_cam[0, 3])


# -- camera_info and mounts ----------------------------------------------------------------------


@pytest.mark.parametrize("goes_back", [False, True])
def test_other_mounts_of_a_second_bag_are_used_with_the_same_camera_info(goes_back: bool) -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 100_000, 1.70)
    assert front_x(vehicle) == 1.70
    if goes_back:
        vehicle.reset()
        assert vehicle.rig() is None
        assert "no mount of CAM_FRONT in tf" in vehicle.problem("CAM_FRONT")
    drive(vehicle, 0 if goes_back else 200_000, 1.72)
    assert front_x(vehicle) == 1.72


@pytest.mark.parametrize(("stated", "topic", "rectified"), [
    (None, "", True),
    (None, "/front/image_raw/compressed", False),
    (None, "/front/image_rect_color", True),
    (True, "/front/image_raw", True),
    (False, "", False),
])  # fmt: skip
def test_images_are_rectified_if_their_actual_topic_says_so(
    stated: bool | None, topic: str, rectified: bool
) -> None:
    vehicle = vehicle_with(replace(FRONT, rectified=stated))
    vehicle.take_camera_info("CAM_FRONT", replace(INFO, **LENS))
    drive(vehicle, 0, 1.70)
    assert vehicle.rig() is not None
    if topic:
        vehicle.take_image_topic("CAM_FRONT", topic)
    assert vehicle.rig().camera("CAM_FRONT").is_rectified is rectified


def test_the_rig_is_the_same_object_until_a_number_changes() -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 0, 1.70)
    first = vehicle.rig()
    drive(vehicle, 20_000, 1.70)
    vehicle.take_transforms(tf(transform("base_link", "lidar", 0, np.eye(4))), static=True)
    assert vehicle.take_camera_info("CAM_FRONT", replace(INFO)) == ()
    assert vehicle.rig() is first
    assert vehicle.changes == 0


def test_the_newest_camera_info_applies() -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 0, 1.70)
    assert vehicle.rig().camera("CAM_FRONT").K[0, 0] == 500
    zoomed = replace(INFO, K=(1000, 0, 320, 0, 1000, 240, 0, 0, 1))
    assert vehicle.take_camera_info("CAM_FRONT", zoomed) == ()
    assert vehicle.rig().camera("CAM_FRONT").K[0, 0] == 1000
    assert vehicle.changes == 1


def test_flickering_digits_of_a_camera_info_are_no_change() -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 0, 1.70)
    rig = vehicle.rig()
    for k in range(1, 6):
        flickering = replace(INFO, K=(500, 0, 320 + k * 0.009, 0, 500, 240, 0, 0, 1))
        vehicle.take_camera_info("CAM_FRONT", flickering)
        assert vehicle.rig() is rig
    vehicle.take_camera_info("CAM_FRONT", replace(INFO, K=(500, 0, 320.06, 0, 500, 240, 0, 0, 1)))
    assert vehicle.rig().camera("CAM_FRONT").K[0, 2] == 320.06, "drift adds up to a change"
    vehicle.take_camera_info("CAM_FRONT", replace(INFO, width=641))
    assert vehicle.rig().camera("CAM_FRONT").width == 641
    assert vehicle.changes == 2


def test_an_unusable_camera_info_does_not_replace_a_usable_one() -> None:
    vehicle = vehicle_with()
    drive(vehicle, 0, 1.70)
    broken = replace(INFO, K=(0.0,) * 9)
    assert vehicle.take_camera_info("CAM_FRONT", broken) == (), "there is none before it"
    assert not vehicle.has_camera_info("CAM_FRONT")
    assert vehicle.take_camera_info("CAM_FRONT", INFO) == ()
    rig = vehicle.rig()
    (refusal,) = vehicle.take_camera_info("CAM_FRONT", broken)
    assert "all-zero K" in refusal
    assert refusal.endswith("the calibration before it stays in effect")
    assert vehicle.take_camera_info("CAM_FRONT", broken) == (), "reported once"
    assert vehicle.rig() is rig
    assert vehicle.problem("CAM_FRONT") == refusal
    assert vehicle.take_camera_info("CAM_FRONT", INFO) == ()
    assert vehicle.problem("CAM_FRONT") == ""
    assert vehicle.changes == 0


@pytest.mark.parametrize(("info", "problem"), [
    (None, "camera CAM_FRONT: no camera_info on /CAM_FRONT/camera_info"),
    (replace(INFO, width=0, height=0), "camera CAM_FRONT: size 0x0"),
    (replace(INFO, K=(0.0,) * 9), "camera CAM_FRONT: camera_info has an all-zero K"),
    (replace(INFO, frame_id="front"), "camera CAM_FRONT: no mount of front in tf: tf has no frame"),
    (replace(INFO, frame_id=""), "camera CAM_FRONT: no frame_id in its camera_info and images"),
])  # fmt: skip
def test_why_a_camera_cannot_be_used_is_named(info: CameraInfo | None, problem: str) -> None:
    vehicle = vehicle_with()
    drive(vehicle, 0, 1.70)
    if info is not None:
        vehicle.take_camera_info("CAM_FRONT", info)
    assert vehicle.rig() is None
    assert vehicle.problem("CAM_FRONT").startswith(problem)
    assert not vehicle.is_complete


def test_the_frame_comes_from_layout_camera_info_or_the_images() -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", replace(INFO, frame_id=""))
    drive(vehicle, 0, 1.70)
    assert vehicle.rig() is None
    vehicle.take_image_frame("CAM_FRONT", "/CAM_FRONT")
    assert vehicle.rig().camera("CAM_FRONT").frame_id == "CAM_FRONT"


def test_a_body_frame_is_detected_by_its_direction() -> None:
    vehicle = vehicle_with()
    vehicle.take_camera_info("CAM_FRONT", INFO)
    vehicle.take_transforms(tf(transform("base_link", "CAM_FRONT", 0, driven(1.7))), static=True)
    assert vehicle.rig() is not None
    assert "CAM_FRONT look upwards" in vehicle.doubts[0]
    vehicle.take_transforms(tf(transform("base_link", "CAM_FRONT", 0, mount(1.7))), static=True)
    assert vehicle.doubts == ()
    vehicle.take_camera_info("CAM_FRONT", replace(INFO, **LENS))
    assert "/CAM_FRONT/image_rect counts as rectified" in vehicle.doubts[0]
    vehicle.take_image_topic("CAM_FRONT", "/CAM_FRONT/image_raw")
    assert vehicle.doubts == ()


# -- rigs given and nominal ----------------------------------------------------------------------


def small_rig(x: float) -> CameraRig:
    K = np.array([[250.0, 0, 160], [0, 250, 90], [0, 0, 1]])
    return CameraRig((CameraCalibration("CAM_FRONT", 320, 180, K, mount(x)),))


def test_a_given_rig_takes_precedence() -> None:
    vehicle = vehicle_with(rig=small_rig(3.0), needs_lidar_mount=True)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    assert "needs the mount of the lidar: no mount of lidar_top" in vehicle.problem("CAM_FRONT")
    drive(vehicle, 0, 1.70)
    vehicle.take_transforms(tf(transform("base_link", "lidar_top", 0, driven(0.9))), static=True)
    assert front_x(vehicle) == 3.0
    assert vehicle.rig().camera("CAM_FRONT").K[0, 0] == 250
    assert vehicle.rig().ego_T_lidar[0, 3] == 0.9
    assert vehicle.notes == ("the rig is the given one",)
    assert vehicle.is_complete


def nominal_vehicle(camera: CameraTopics) -> VehicleInputs:
    return VehicleInputs(InputPlan(layout(camera, rig="nominal"), nominal=small_rig(3.0)))


def test_without_a_camera_info_topic_the_nominal_rig_applies_until_tf_has_the_mount() -> None:
    vehicle = nominal_vehicle(replace(FRONT, camera_info="", frame_id="CAM_FRONT"))
    assert front_x(vehicle) == 3.0
    assert vehicle.notes == (
        "intrinsics of CAM_FRONT are those of rig nominal",
        "mounts of CAM_FRONT are those of rig nominal",
    )
    assert not vehicle.is_complete, "tf may still have the mount"
    drive(vehicle, 0, 1.70)
    assert front_x(vehicle) == 1.70
    assert vehicle.notes == ("intrinsics of CAM_FRONT are those of rig nominal",)
    assert vehicle.is_complete


def test_a_camera_info_topic_is_waited_for_until_a_recording_was_searched() -> None:
    vehicle = nominal_vehicle(FRONT)
    assert vehicle.rig() is None
    vehicle.fill_in()
    assert front_x(vehicle) == 3.0
    vehicle.take_camera_info("CAM_FRONT", INFO)
    assert vehicle.rig().camera("CAM_FRONT").K[0, 0] == 500
    assert vehicle.notes == ("mounts of CAM_FRONT are those of rig nominal",)


def test_a_lidars_mount_is_that_of_its_frame() -> None:
    vehicle = vehicle_with()
    np.testing.assert_array_equal(vehicle.mount("/base_link"), np.eye(4))
    vehicle.take_transforms(tf(transform("base_link", "velodyne", 0, driven(0.9))), static=True)
    assert vehicle.mount("/velodyne")[0, 3] == 0.9
    with pytest.raises(TransformError, match="no frame 'roof'"):
        vehicle.mount("roof")
    given = VehicleInputs(plan_inputs(layout(), replace(small_rig(3.0), ego_T_lidar=driven(2.0))))
    given.take_transforms(tf(transform("base_link", "velodyne", 0, driven(0.9))), static=True)
    assert given.mount("velodyne")[0, 3] == 2.0


# -- bad transforms and odometry -----------------------------------------------------------------


def test_one_bad_transform_is_refused_by_name_without_the_others() -> None:
    vehicle = vehicle_with(pose=TF)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    refused = vehicle.take_transforms(
        tf(
            bad(transform("base_link", "wheel", 0, np.eye(4))),
            transform("base_link", "CAM_FRONT", 0, mount(1.7)),
            transform("gnss", "CAM_FRONT", 0, mount(1.7)),
            transform("map", "base_link", 0, driven(1.0)),
        ),
        static=False,
    )
    assert len(refused) == 2
    assert refused[0].startswith("transform base_link -> wheel: quaternion (x, y, z, w) = [0.0, ")
    assert refused[1].startswith("frame 'CAM_FRONT' has two parents")
    assert front_x(vehicle) == 1.7
    np.testing.assert_array_equal(vehicle.poses.at(0), driven(1.0))


def test_a_frame_twice_in_one_message_is_not_a_time_jump() -> None:
    vehicle = vehicle_with(pose=TF)
    twice = [transform("map", "base_link", ms, driven(ms)) for ms in (5_000, 3_000)]
    assert vehicle.take_transforms(tf(*twice), static=False) == ()
    np.testing.assert_array_equal(vehicle.poses.at(3_000 * MS), driven(3_000))
    np.testing.assert_array_equal(vehicle.poses.at(5_000 * MS), driven(5_000))
    with pytest.raises(TimeJump):
        vehicle.take_transforms(tf(*[transform("map", "base_link", 1_000, driven(0))]), False)


def test_a_transform_out_of_this_world_is_refused() -> None:
    vehicle = vehicle_with(pose=TF)
    (refused,) = vehicle.take_transforms(tf(transform("map", "odom", 0, driven(1e300))), True)
    assert refused.startswith("transform map -> odom: translation [") and "away" in refused


def test_an_old_transform_beside_a_new_one_of_its_frame_is_refused_alone() -> None:
    vehicle = vehicle_with(pose=TF)
    for ms in (10_000, 10_100, 10_200):
        both = [transform("map", "base_link", at, driven(at)) for at in (ms - 2_000, ms)]
        refused = vehicle.take_transforms(tf(*both), static=False)
    (sentence,) = refused
    assert sentence == (
        "transform map -> base_link: 2.0 s older than another one of the same message"
    )
    (sentence,) = vehicle.take_transforms(tf(transform("map", "base_link", 0, driven(0))), False)
    assert sentence == "transform map -> base_link: it has stamp 0"
    np.testing.assert_array_equal(vehicle.poses.at(10_100 * MS), driven(10_100))


def test_a_deviating_clock_matters_if_pose_or_mounts_depend_on_it() -> None:
    vehicle = vehicle_with(pose=TF)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 10_000, 1.70)
    for ms in (30_000, 25_000, 30_100, 25_100):
        tag = tf(transform("base_link", "tag", ms, driven(ms)))
        assert vehicle.take_transforms(tag, static=False) == ()
    assert vehicle.poses.settled(29_000 * MS)
    for parent, child in (("map", "base_link"), ("base_link", "CAM_FRONT")):
        with pytest.raises(TimeJump, match=f"tf {parent} -> {child}: time went back"):
            vehicle.take_transforms(tf(transform(parent, child, 20_000, mount(1.7))), False)


def test_odometry_of_another_frame_or_not_finite_is_refused() -> None:
    vehicle = vehicle_with()
    (refused,) = vehicle.take_odometry(odometry(0, 0.0, child="base_footprint"))
    assert "gives poses of 'base_footprint', expected 'base_link'" in refused
    nan = odometry(0, 0.0)
    nan.pose.pose.position.x = float("nan")
    (refused,) = vehicle.take_odometry(nan)
    assert "pose is not finite" in refused
    assert not vehicle.poses.settled(0)
    assert vehicle.take_odometry(odometry(5_000, 1.0)) == ()
    (refused,) = vehicle.take_odometry(odometry(0, 1.0))
    assert refused.startswith("odometry carries stamp 0")
    with pytest.raises(TimeJump, match="ego pose: time went back by 4"):
        vehicle.take_odometry(odometry(100, 1.0))
    vehicle.reset()
    assert vehicle.take_odometry(odometry(0, 2.0)) == ()
    np.testing.assert_array_equal(vehicle.poses.at(0), driven(2.0))


def test_reading_again_keeps_the_rig_and_drops_the_poses() -> None:
    vehicle = vehicle_with(pose=TF)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    drive(vehicle, 0, 1.70)
    first = vehicle.rig()
    vehicle.rewind()
    assert vehicle.rig() is first
    with pytest.raises(PoseNotYet):
        vehicle.poses.at(0)
    drive(vehicle, 0, 1.70)
    assert vehicle.rig() is first


# -- which inputs --------------------------------------------------------------------------------


def test_every_camera_needs_a_source_of_its_calibration() -> None:
    with pytest.raises(InputPlanError, match="CAM_FRONT has no camera_info topic and there is no"):
        plan_inputs(layout(replace(FRONT, camera_info="")))
    left = CameraTopics("CAM_LEFT", "/left")
    with pytest.raises(InputPlanError, match="CAM_LEFT has no camera_info topic and the rig has "):
        plan_inputs(layout(FRONT, left, rig="nuscenes"))
    with pytest.raises(InputPlanError, match="given rig has no CAM_LEFT; it has CAM_FRONT"):
        plan_inputs(layout(FRONT, left), small_rig(1.0))


def test_a_model_runs_without_the_cameras_that_its_rig_does_not_have() -> None:
    left = CameraTopics("CAM_LEFT", "/left", "/left/camera_info")
    plan = plan_inputs(layout(FRONT, left), small_rig(1.0), ["CAM_LEFT", "CAM_FRONT", "CAM_BACK"])
    assert [camera.name for camera in plan.cameras] == ["CAM_FRONT"]
    assert plan.absent == ("CAM_LEFT", "CAM_BACK")
    assert not plan.reads_tf
    assert plan_inputs(layout(FRONT, left)).needs_tf


def test_tf_is_read_but_not_needed_if_a_nominal_rig_has_the_mounts() -> None:
    plan = plan_inputs(load_layout("clynamen"), needs_lidar_mount=True)
    assert plan.nominal is not None and plan.given is None
    assert plan.nominal.fingerprint() == load_rig("nuscenes").fingerprint()
    assert plan.reads_tf and not plan.needs_tf
    assert plan.lidar_frame == "lidar_top"


def test_the_lidar_topic_is_the_only_one_or_the_one_named_lidar() -> None:
    image = {"/front": "sensor_msgs/msg/Image"}
    assert lidar_topic({**image, "/points": POINTS_TYPE}) == "/points"
    several = {"/LIDAR_TOP": POINTS_TYPE, "/radar": POINTS_TYPE}
    assert lidar_topic(several) == "/LIDAR_TOP"
    assert lidar_topic(several, "/radar") == "/radar"
    with pytest.raises(
        LidarTopicError, match=r"/front is not a topic of type .*; choose one of /LIDAR_TO"
    ):
        lidar_topic({**image, **several}, "/front")
    with pytest.raises(LidarTopicError, match=r"there are several .* choose one of /a, /b"):
        lidar_topic({"/a": POINTS_TYPE, "/b": POINTS_TYPE})
    with pytest.raises(LidarTopicError, match="no topic of type"):
        lidar_topic(image)


def test_a_camera_that_is_done_without_may_lack_its_calibration() -> None:
    back = CameraTopics("CAM_BACK", "/CAM_BACK/image_rect", "/CAM_BACK/camera_info")
    vehicle = vehicle_with(FRONT, back)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    for child in ("CAM_FRONT", "CAM_BACK"):
        vehicle.take_transforms(tf(transform("base_link", child, 0, mount(1.7))), static=True)
    assert vehicle.rig() is None
    vehicle.do_without(["CAM_BACK"])
    rig = vehicle.rig()
    assert rig is not None and rig.names == ("CAM_FRONT",)
    assert "no camera_info on /CAM_BACK/camera_info" in vehicle.problem("CAM_BACK")
    vehicle.do_without([])
    assert vehicle.rig() is None
    vehicle.take_camera_info("CAM_BACK", replace(INFO, frame_id="CAM_BACK"))
    whole = vehicle.rig()
    assert whole is not None and whole.names == ("CAM_FRONT", "CAM_BACK")
    vehicle.do_without(["CAM_BACK"])
    assert vehicle.rig() is whole, "what is known stays"


STAMPS = st.sampled_from([-5_000, 0, 1, 1_000, 2_500, 100_000, 100_500, 160_000])
FRAMES = st.sampled_from(["map", "odom", "base_link", "/base_link", "CAM_FRONT", "tag", ""])
MATRICES = st.sampled_from([np.eye(4), mount(1.7), driven(5.0), driven(1e300)])
GOOD = st.builds(transform, FRAMES, FRAMES, STAMPS, MATRICES)
TRANSFORMS = GOOD | GOOD.map(bad)


@settings(max_examples=200, deadline=None)
@given(
    messages=st.lists(
        st.tuples(st.lists(TRANSFORMS, max_size=5), st.booleans()), min_size=1, max_size=8
    )
)
def test_whatever_a_tf_message_holds_it_is_taken_at_the_latest_after_a_reset(messages) -> None:
    """The node resets itself after a TimeJump and takes the message again; nothing else ends it."""
    vehicle = vehicle_with(pose=TF)
    vehicle.take_camera_info("CAM_FRONT", INFO)
    for transforms, static in messages:
        message = tf(*transforms)
        try:
            refusals = vehicle.take_transforms(message, static)
        except TimeJump:
            vehicle.reset()
            refusals = vehicle.take_transforms(message, static)
        assert all(isinstance(sentence, str) and sentence for sentence in refusals)
        vehicle.rig()
        vehicle.poses.settled(100_000 * MS)
