"""Files of the ROS package camera_calibration in the place of a rig file."""

from __future__ import annotations

from pathlib import Path

import pytest

from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.calibration_files import load_camera_infos
from occ_perception.sensing.input_plan import InputPlanError, plan_inputs
from occ_perception.sensing.layouts import CameraTopics, PoseSource, TopicLayout
from occ_perception.sensing.vehicle import VehicleInputs
from occ_perception.sensing.yaml_file import YamlError

FILE = """
image_width: 640
image_height: 480
camera_name: {name}
camera_matrix: {{rows: 3, cols: 3, data: [500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0]}}
distortion_model: plumb_bob
distortion_coefficients: {{rows: 1, cols: 5, data: [-0.2, 0.05, 0.0, 0.0, 0.0]}}
rectification_matrix: {{rows: 3, cols: 3, data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}}
projection_matrix: {{rows: 3, cols: 4, data: [430.0, 0, 318, 0, 0, 440.0, 241, 0, 0, 0, 1, 0]}}
"""
ODOMETRY = PoseSource("odometry", "/odom", "map", "base_link")


def camera(name: str, topic: str = "image_raw") -> CameraTopics:
    return CameraTopics(
        name, f"/{name}/{topic}", f"/{name}/camera_info", frame_id=f"{name}_optical"
    )


def layout(*cameras: CameraTopics, **more: str) -> TopicLayout:
    return TopicLayout("test", cameras, ODOMETRY, cameras[0].name, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """CAM_FRONT is named by its file, CAM_BACK by its camera_name; notes lie beside them."""
    (tmp_path / "cam_front.yaml").write_text(FILE.format(name="narrow_stereo"))
    (tmp_path / "rear.yml").write_text(FILE.format(name="CAM_BACK"))
    (tmp_path / "notes.txt").write_text("calibrated in May")
    return tmp_path


def test_intrinsics_come_from_the_files_and_mounts_from_elsewhere(folder: Path) -> None:
    plan = plan_inputs(layout(camera("CAM_FRONT"), camera("CAM_BACK", "image_rect")), folder)
    assert [c.camera_info for c in plan.cameras] == ["", ""]
    assert plan.needs_tf
    vehicle = VehicleInputs(plan)
    assert vehicle.rig() is None
    problem = vehicle.problem("CAM_FRONT")
    assert "no mount of CAM_FRONT_optical in tf" in problem
    assert problem.endswith(
        "calibration files have no mounts: publish them on tf, or give a rig file"
    )
    nominal = layout(camera("CAM_FRONT"), camera("CAM_BACK", "image_rect"), rig="nuscenes")
    vehicle = VehicleInputs(plan_inputs(nominal, folder))
    rig = vehicle.rig()
    assert rig is not None, vehicle.problems
    front, back = rig.camera("CAM_FRONT"), rig.camera("CAM_BACK")
    assert (front.width, front.height, front.K[1, 1]) == (640, 480, 510)
    assert front.distortion == (-0.2, 0.05, 0, 0, 0) and front.distortion_model == "plumb_bob"
    assert back.is_rectified and back.K[1, 1] == 440, "P applies to a rectified topic"
    assert (front.ego_T_cam == load_rig("nuscenes").camera("CAM_FRONT").ego_T_cam).all()
    assert vehicle.notes == (
        "intrinsics of CAM_FRONT, CAM_BACK are those of the given files",
        "mounts of CAM_FRONT, CAM_BACK are those of rig nuscenes",
    )


def test_cameras_without_a_file_keep_their_camera_info(folder: Path) -> None:
    plan = plan_inputs(layout(camera("CAM_FRONT"), camera("CAM_LEFT")), str(folder))
    assert [c.camera_info for c in plan.cameras] == ["", "/CAM_LEFT/camera_info"]


def test_files_that_fit_no_camera_are_listed(folder: Path) -> None:
    with pytest.raises(InputPlanError, match="there are files for cam_back, cam_front, narrow_st"):
        plan_inputs(layout(camera("CAM_LEFT")), folder)


def test_one_file_is_no_rig(folder: Path) -> None:
    with pytest.raises(YamlError, match="calibration of one camera, without a mount; put one file"):
        load_rig(folder / "rear.yml")


@pytest.mark.parametrize(("name", "content", "message"), [
    ("left.yaml", FILE.format(name="cam_back"), "another file in .* is for camera cam_back too"),
    ("left.yaml", "image_width: 640", "left.yaml: image_height is missing"),
    ("left.yaml", FILE.format(name="x").replace("320.0, ", ""), "camera_matrix.data must be 9"),
])  # fmt: skip
def test_wrong_files_are_named(folder: Path, name: str, content: str, message: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(YamlError, match=message):
        load_camera_infos(folder)


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=r"expected one per camera, such as CAM_FRONT\.yaml"):
        load_camera_infos(tmp_path)
