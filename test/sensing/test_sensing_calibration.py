"""Calibrations from camera_info, and mistakes in rig files."""

from __future__ import annotations

import numpy as np
import pytest

from occ_perception.frames import CameraRig
from occ_perception.geometry import matrix_from_pose
from occ_perception.sensing.calibration import (
    CalibrationError,
    CameraInfo,
    RegionOfInterest,
    calibration_from_camera_info,
    load_rig,
    save_rig,
)
from occ_perception.sensing.yaml_file import YamlError

K = (1266.4, 0, 816.3, 0, 1266.5, 491.5, 0, 0, 1)
P = (1200.0, 0, 800.0, 0, 0, 1210.0, 450.0, 0, 0, 0, 1, 0)
PLUMB_BOB = (-0.3, 0.1, 0.001, -0.002, 0.0)


def calibrated(rectified=True, **fields):
    info = CameraInfo(**{"width": 1600, "height": 900, "K": K, **fields})
    return calibration_from_camera_info(info, "CAM_FRONT", np.eye(4), rectified)


def test_rectified_without_distortion():
    camera = calibrated(frame_id="/cam_front", D=(0.0,) * 5, P=(0.0,) * 12)
    np.testing.assert_array_equal(camera.K, np.reshape(K, (3, 3)))
    assert (camera.width, camera.height, camera.frame_id) == (1600, 900, "cam_front")
    assert camera.is_rectified and camera.distortion == ()


def test_a_raw_image_uses_k_and_d_a_rectified_one_uses_p():
    fields = {"D": PLUMB_BOB, "distortion_model": "plumb_bob", "P": P}
    raw = calibrated(rectified=False, **fields)
    assert raw.distortion == PLUMB_BOB and raw.K[0, 0] == 1266.4
    rect = calibrated(rectified=True, **fields)
    assert rect.is_rectified
    np.testing.assert_array_equal(rect.K, [[1200, 0, 800], [0, 1210, 450], [0, 0, 1]])


def test_region_of_interest_and_binning_move_the_pixels():
    """A point keeps its position on the sensor, checked by projection in both ways."""
    roi = RegionOfInterest(x_offset=200, y_offset=100, width=1200, height=600)
    camera = calibrated(roi=roi, binning_x=2, binning_y=3)
    assert (camera.width, camera.height) == (600, 200)
    point = np.array([0.4, -0.1, 5.0])
    full = np.reshape(K, (3, 3)) @ point
    here = camera.K @ point
    u, v = full[:2] / full[2]
    np.testing.assert_allclose(here[:2] / here[2], [(u - 200) / 2, (v - 100) / 3])


@pytest.mark.parametrize(("fields", "message"), [
    ({"K": (0,) * 9}, "camera CAM_FRONT: camera_info has an all-zero K"),
    ({"width": 16000, "height": 16000}, "16000x16000 pixels according to its camera_info, at most"),
    ({"roi": RegionOfInterest(0, 0, 60_000, 60_000)}, "images of 60000x60000 pixels"),
    ({"D": PLUMB_BOB, "distortion_model": "thin_prism"}, "'thin_prism' cannot be undistorted"),
    ({"D": PLUMB_BOB}, "lens model '' cannot be undistorted"),
    ({"D": PLUMB_BOB, "distortion_model": "equidistant"}, "has 4 coefficients, got 5"),
])  # fmt: skip
def test_unusable_camera_info_is_refused(fields, message):
    with pytest.raises(CalibrationError, match=message):
        calibrated(rectified=False, **fields)


def test_the_shipped_rig_looks_all_around():
    rig = load_rig("nuscenes")
    assert len(rig.cameras) == 6 and rig.ego_T_lidar is not None
    yaw = {
        c.name: np.degrees(np.arctan2(c.ego_T_cam[1, 2], c.ego_T_cam[0, 2])) for c in rig.cameras
    }
    for name, expected in {"CAM_FRONT": 0, "CAM_FRONT_LEFT": 55, "CAM_BACK_RIGHT": -111}.items():
        assert yaw[name] == pytest.approx(expected, abs=1e-3)
    for camera in rig.cameras:
        # In the image x is to the right and y down, so y points to the ground.
        assert camera.ego_T_cam[2, 1] < -0.99
        assert (camera.width, camera.height) == (1600, 900)


def test_the_shipped_rig_is_near_the_real_cars(shared_dir):
    import json

    rig = load_rig("nuscenes")
    for folder in ("nuscenes-scene0103-seq4", "nuscenes-keyframe-n015-0802"):
        frame = json.loads((shared_dir / "data" / folder / "frames.json").read_text())["frames"][0]
        for name, real in frame["cams"].items():
            nominal = rig.camera(name)
            off = np.linalg.inv(nominal.ego_T_cam) @ np.array(real["cam2ego"])
            assert np.degrees(np.arccos((np.trace(off[:3, :3]) - 1) / 2)) < 2.6
            assert np.abs(off[:3, 3]).max() < 0.06
            assert np.abs(nominal.K - np.array(real["K"])).max() < 36


def test_a_rig_survives_saving(tmp_path):
    rig = load_rig("nuscenes")
    fisheye = calibrated(
        rectified=False, D=(0.1, 0.2, 0.3, 0.4), distortion_model="equidistant", frame_id="fish"
    )
    others = [camera for camera in rig.cameras if camera.name != fisheye.name]
    rig = CameraRig((*others, fisheye), ego_T_lidar=rig.ego_T_lidar)
    save_rig(tmp_path / "car.yaml", rig, "my car")
    read = load_rig(tmp_path / "car.yaml")
    assert read.names == rig.names
    for camera in rig.cameras:
        other = read.camera(camera.name)
        np.testing.assert_array_equal(other.K, camera.K)
        np.testing.assert_allclose(other.ego_T_cam, camera.ego_T_cam, atol=1e-9)
        assert (other.distortion_model, other.distortion, other.frame_id) == (
            camera.distortion_model, camera.distortion, camera.frame_id)  # fmt: skip


CAMERA = """
cameras:
  CAM_FRONT:
    size: [1600, 900]
    intrinsics: [1266, 1266, 816, 491]
    pose: {translation: [1.7, 0, 1.5], quaternion_xyzw: [-0.5, 0.5, -0.5, 0.5]}
"""


@pytest.mark.parametrize(("change", "message"), [
    (("[1600, 900]", "1600x900"), r"cameras.CAM_FRONT.size must be 2 numbers, got '1600x900'"),
    (("[1266, 1266, 816, 491]", "[1266, 816, 491]"), r"cameras.CAM_FRONT.intrinsics must be 4 num"),
    (("1266, 1266", "oops, 1266"), r"CAM_FRONT.intrinsics must be a number .*got 'oops'"),
    (("1266, 1266", ".nan, 1266"), r"finite number"),
    (("1266, 1266", "-1266, 1266"), r"focal lengths must be positive"),
    (("-0.5, 0.5, -0.5, 0.5", "0, 0, 0, 0"), r"CAM_FRONT.pose: quaternion .* length 0"),
    (("translation", "position"), r"unknown key cameras.CAM_FRONT.pose.position; .*translation"),
    (("    pose:", "    pos:"), r"unknown key cameras.CAM_FRONT.pos;"),
    (("    size: [1600, 900]\n", ""), r"cameras.CAM_FRONT.size is missing"),
    (("cameras:", "cameras: {"), r"car.yaml is not YAML"),
    (("cameras:", "sensors:"), r"unknown key sensors"),
])  # fmt: skip
def test_mistakes_in_a_rig_file_name_file_and_key(tmp_path, change, message):
    path = tmp_path / "car.yaml"
    path.write_text(CAMERA)
    np.testing.assert_allclose(
        load_rig(path).camera("CAM_FRONT").ego_T_cam,
        matrix_from_pose([1.7, 0, 1.5], [-0.5, 0.5, -0.5, 0.5]),
    )
    assert CAMERA.count(change[0]) == 1
    path.write_text(CAMERA.replace(*change))
    with pytest.raises(YamlError, match=message) as error:
        load_rig(path)
    assert "car.yaml" in str(error.value)


def test_an_unknown_rig_lists_the_shipped_ones():
    with pytest.raises(YamlError, match=r"no rig 'waymo': .* shipped nuscenes"):
        load_rig("waymo")
