"""What messages state about sensors and can hardly be true is said, with advice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import matrix_from_pose
from occ_perception.sensing.calibration import CameraInfo, load_rig
from occ_perception.sensing.plausibility import (
    clocks_apart,
    distortion_of_rectified,
    doubts_about_rig,
)

CONFIG = Path(__file__).parents[2] / "config"
YAWS = {"FRONT": 0, "FRONT_LEFT": 55, "FRONT_RIGHT": -55, "SIDE_LEFT": 90, "BACK": 180}
INFO = CameraInfo(640, 480, K=(500, 0, 320, 0, 500, 240, 0, 0, 1))


def camera(name: str, yaw_deg: float, pitch_deg: float = 0.0) -> CameraCalibration:
    from scipy.spatial.transform import Rotation

    optical = Rotation.from_quat([-0.5, 0.5, -0.5, 0.5])
    body = Rotation.from_euler("ZY", [yaw_deg, pitch_deg], degrees=True)
    mount = matrix_from_pose([1.5, 0.2, 1.6], (body * optical).as_quat())
    K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    return CameraCalibration(f"CAM_{name}", 640, 480, K, mount)


def rig(**changed: CameraCalibration) -> CameraRig:
    cameras = {name: camera(name, yaw) for name, yaw in YAWS.items()}
    return CameraRig(tuple((cameras | changed).values()))


def doubt(**changed: CameraCalibration) -> str:
    (sentence,) = doubts_about_rig(rig(**changed))
    return sentence


def test_usual_rigs_raise_no_doubt() -> None:
    assert doubts_about_rig(rig()) == ()
    assert doubts_about_rig(rig(FRONT=camera("FRONT", 5, pitch_deg=30))) == ()
    assert doubts_about_rig(load_rig("nuscenes")) == ()
    assert doubts_about_rig(load_rig(CONFIG / "rig_waymo_example.yaml")) == ()


def test_a_body_frame_is_seen_by_its_direction() -> None:
    body = replace(camera("FRONT", 0), ego_T_cam=matrix_from_pose([1.5, 0, 1.6], [0, 0, 0, 1]))
    assert doubt(FRONT=body).startswith("CAM_FRONT look upwards: their frames may be those of the")


def test_a_base_link_with_z_down_is_seen() -> None:
    turned = camera("FRONT", 0)
    half_turn = matrix_from_pose([0, 0, 0], [0, 0, 1, 0])
    turned = replace(turned, ego_T_cam=turned.ego_T_cam @ half_turn)
    assert doubt(FRONT=turned).startswith("CAM_FRONT are mounted upside down")


def test_millimetres_are_seen() -> None:
    far = camera("FRONT", 0)
    mount = far.ego_T_cam.copy()
    mount[:3, 3] *= 1000
    sentence = doubt(FRONT=replace(far, ego_T_cam=mount))
    assert sentence.startswith("camera CAM_FRONT: it is mounted 2202 m from the origin")
    assert "millimetres?" in sentence


@pytest.mark.parametrize(("name", "yaw"), [
    ("FRONT", 180), ("BACK", 0), ("FRONT_LEFT", -55), ("FRONT_RIGHT", 55), ("SIDE_LEFT", -90),
])  # fmt: skip
def test_a_camera_that_looks_against_its_name_is_seen(name: str, yaw: float) -> None:
    assert doubt(**{name: camera(name, yaw)}).startswith(
        f"camera CAM_{name} looks to {yaw} degrees"
    )


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_intrinsics_of_another_image_size_are_seen(factor: float) -> None:
    front = camera("FRONT", 0)
    sentence = doubt(FRONT=replace(front, K=np.diag([factor, factor, 1]) @ front.K))
    assert "lies in a corner of 640x480; K must belong to that image size" in sentence


def test_a_focal_length_in_millimetres_is_seen() -> None:
    front = camera("FRONT", 0)
    K = np.array([[4.0, 0, 320], [0, 4.0, 240], [0, 0, 1]])
    assert "a field of view of 178.6 degrees" in doubt(FRONT=replace(front, K=K))


def test_distortion_in_rectified_images_is_seen_unless_P_takes_it_away() -> None:
    distorted = replace(INFO, D=(-0.2, 0.05, 0, 0, 0), distortion_model="plumb_bob")
    same = (500, 0, 320, 0, 0, 500, 240, 0, 0, 0, 1, 0)
    rectifying = (430, 0, 318, 0, 0, 440, 241, 0, 0, 0, 1, 0)
    topic = "/front/image_rect"
    assert distortion_of_rectified("CAM_FRONT", topic, INFO) == []
    assert distortion_of_rectified("CAM_FRONT", topic, replace(distorted, P=rectifying)) == []
    for P in ((), (0,) * 12, same):
        (sentence,) = distortion_of_rectified("CAM_FRONT", topic, replace(distorted, P=P))
        assert sentence.startswith("camera CAM_FRONT: /front/image_rect counts as rectified")
        assert "(-0.2, 0.05, 0, 0, 0)" in sentence and "set rectified: false" in sentence


def test_a_clock_off_the_others_is_seen() -> None:
    offsets = {"A": -0.05, "B": -0.04, "C": -37.05, "D": 0.0}
    assert clocks_apart(offsets) == {
        "C": "stamps are 37.0 s behind those of the other cameras; synchronise their clocks (PTP, "
        "NTP), or use stamp_source: receive"
    }
    assert clocks_apart({name: s - 1e9 for name, s in offsets.items() if name != "C"}) == {}
    assert clocks_apart({"A": 0.0}) == clocks_apart({}) == {}
    assert "ahead of" in clocks_apart({"A": 0.0, "B": 5.0})["B"]
