"""Rigs, frames and predictions refuse impossible values; the message names camera and reason."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from occ_perception.frames import (
    CameraCalibration,
    CameraFrame,
    CameraRig,
    OccupancyPrediction,
)
from occ_perception.geometry import VoxelGrid, matrix_from_pose

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
EGO_T_CAM = matrix_from_pose((1.5, 0, 1.6), (-0.5, 0.5, -0.5, 0.5))
GRID = VoxelGrid((-2.0, -2.0, -1.0), (0.5, 0.5, 0.5), (8, 8, 4))


def calibration(name: str = "CAM_FRONT", **changes) -> CameraCalibration:
    arguments = {"name": name, "width": 64, "height": 48, "K": K, "ego_T_cam": EGO_T_CAM}
    return CameraCalibration(**{**arguments, **changes})


def frame(**changes) -> CameraFrame:
    names = ("CAM_FRONT", "CAM_BACK")
    arguments = {
        "rig": CameraRig(tuple(calibration(name) for name in names)),
        "images": {name: np.zeros((48, 64, 3), np.uint8) for name in names},
        "stamps_ns": {"CAM_FRONT": 1_000_000_020, "CAM_BACK": 1_000_000_000},
        "world_T_ego": {name: np.eye(4) for name in names},
        "reference_camera": "CAM_FRONT",
    }
    return CameraFrame(**{**arguments, **changes})


def prediction(**changes) -> OccupancyPrediction:
    arguments = {
        "stamp_ns": 5,
        "frame_id": "base_link",
        "grid": GRID,
        "ego_T_grid": np.eye(4),
        "labels": np.full(GRID.dims, 1, np.uint8),
        "class_names": ("car", "free"),
        "empty_class": 1,
    }
    return OccupancyPrediction(**{**arguments, **changes})


TURNED_ROUND = K.T.copy()
MIRROR = np.diag([1.0, -1, 1, 1])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"width": 0}, "camera CAM_FRONT: size 0x48 is not positive"),
        ({"height": -1}, "size 64x-1 is not positive"),
        ({"K": np.zeros((3, 4))}, r"K must be a finite \(3, 3\) matrix, got shape \(3, 4\)"),
        ({"K": np.full((3, 3), np.nan)}, r"K must be a finite \(3, 3\) matrix"),
        ({"K": np.zeros((3, 3))}, "an all-zero K means the driver publishes no calibration"),
        ({"K": TURNED_ROUND}, "last row of K is .* is it transposed"),
        ({"ego_T_cam": np.eye(3)}, r"camera CAM_FRONT: ego_T_cam must be a finite \(4, 4\)"),
        ({"ego_T_cam": EGO_T_CAM.T}, "ego_T_cam is not a rigid transform: .* is it transposed"),
        ({"ego_T_cam": MIRROR}, "ego_T_cam is not a rigid transform: it mirrors"),
        ({"distortion": (0.1, np.nan)}, "distortion .* is not finite"),
    ],
)
def test_impossible_calibrations_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        calibration(**changes)


@pytest.mark.parametrize(
    ("distortion", "rectified"),
    [((), True), ((0.0, 0.0, 0.0, 0.0, 0.0), True), ((-0.3, 0.1, 0.0, 0.0, 0.0), False)],
)
def test_images_without_distortion_count_as_rectified(distortion, rectified):
    camera = calibration(distortion_model="plumb_bob", distortion=distortion)
    assert camera.is_rectified is rectified


def test_a_rig_names_its_cameras_once():
    with pytest.raises(ValueError, match=r"unique, got .*CAM_FRONT.*CAM_FRONT"):
        CameraRig((calibration(), calibration()))
    with pytest.raises(ValueError, match="ego_T_lidar is not a rigid transform"):
        CameraRig((calibration(),), ego_T_lidar=MIRROR)
    rig = CameraRig((calibration(), calibration("CAM_BACK")))
    assert rig.names == ("CAM_FRONT", "CAM_BACK")
    assert rig.camera("CAM_BACK").name == "CAM_BACK"
    with pytest.raises(KeyError, match="no camera 'CAM_LEFT'; it has CAM_FRONT, CAM_BACK"):
        rig.camera("CAM_LEFT")


def test_a_fingerprint_changes_with_everything_a_table_depends_on():
    moved, refocused = EGO_T_CAM.copy(), K.copy()
    moved[0, 3] += 1e-6
    refocused[0, 0] += 1e-6
    variants = [
        CameraRig((calibration(),)),
        CameraRig((calibration(ego_T_cam=moved),)),
        CameraRig((calibration(K=refocused),)),
        CameraRig((calibration(width=65),)),
        CameraRig((calibration("CAM_BACK"),)),
        CameraRig((calibration(distortion_model="plumb_bob"),)),
        CameraRig((calibration(distortion=(0.1,)),)),
        CameraRig((calibration(),), ego_T_lidar=np.eye(4)),
        CameraRig((calibration(), calibration("CAM_BACK"))),
        CameraRig((calibration("CAM_BACK"), calibration())),
    ]
    assert len({rig.fingerprint() for rig in variants}) == len(variants)


def test_equal_rigs_have_equal_fingerprints_whatever_their_frame_ids():
    """The tf name of a camera does not affect geometry."""
    one = CameraRig((calibration(frame_id="cam_front"),), ego_T_lidar=np.eye(4))
    other = CameraRig((calibration(K=K.copy()),), ego_T_lidar=np.eye(4))
    assert one.fingerprint() == other.fingerprint()


def test_the_stamp_of_a_frame_is_that_of_its_reference_camera():
    pose = matrix_from_pose((7, 0, 0), (0, 0, 0, 1))
    made = frame(world_T_ego={"CAM_FRONT": pose, "CAM_BACK": np.eye(4)})
    assert made.stamp_ns == 1_000_000_020
    np.testing.assert_array_equal(made.world_T_reference_ego, pose)


IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"reference_camera": "CAM_LEFT"}, "no image of its reference camera 'CAM_LEFT'"),
        (
            {"images": {"CAM_FRONT": IMAGE[:40]}},
            r"camera CAM_FRONT: image is uint8 \(40, 64, 3\), expected uint8 \(48, 64, 3\)",
        ),
        ({"images": {"CAM_FRONT": IMAGE[..., 0]}}, r"image is uint8 \(48, 64\)"),
        ({"images": {"CAM_FRONT": IMAGE.astype(float)}}, "image is float64"),
        ({"stamps_ns": {"CAM_FRONT": 1}}, "camera CAM_BACK: image without a stamp"),
        ({"world_T_ego": {"CAM_FRONT": np.eye(4)}}, "CAM_BACK: image without .* an ego pose"),
        (
            {"world_T_ego": {"CAM_FRONT": np.eye(4), "CAM_BACK": np.eye(4) * np.nan}},
            "camera CAM_BACK: world_T_ego must be a finite",
        ),
        ({"reused": ("CAM_LEFT",)}, "reused images of CAM_LEFT, but the frame has only"),
    ],
)
def test_impossible_frames_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        frame(**changes)


def test_an_image_of_a_camera_that_the_rig_lacks_is_refused():
    with pytest.raises(KeyError, match="rig has no camera 'CAM_LEFT'"):
        frame(images={"CAM_FRONT": IMAGE, "CAM_LEFT": IMAGE})


def test_a_frame_may_lack_cameras_of_its_rig():
    assert list(frame(images={"CAM_FRONT": IMAGE}).images) == ["CAM_FRONT"]


STILL = np.zeros((*GRID.dims, 2), np.float32)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": np.zeros((8, 8, 5), np.uint8)}, r"labels are uint8 \(8, 8, 5\), expected"),
        ({"labels": np.zeros(GRID.dims, np.int64)}, r"labels are int64 .* expected uint8"),
        ({"empty_class": 2}, "empty class 2 is not one of 2 class names"),
        ({"ego_T_grid": MIRROR}, "ego_T_grid is not a rigid transform"),
        ({"flow": STILL[..., 0]}, r"flow is float32 \(8, 8, 4\), expected float32 \(8, 8, 4, 2\)"),
        ({"flow": STILL.astype(np.float64)}, "flow is float64 .* expected float32"),
    ],
)
def test_impossible_predictions_are_refused(changes, text):
    assert prediction(flow=STILL).flow is STILL
    with pytest.raises(ValueError, match=text):
        prediction(**changes)


@pytest.mark.parametrize("make", [calibration, frame, prediction])
def test_frames_are_frozen(make):
    made = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, dataclasses.fields(made)[0].name, None)
