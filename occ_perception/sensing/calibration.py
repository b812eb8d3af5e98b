"""Camera calibration from camera_info messages and from rig files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from occ_perception.atomic import write_whole
from occ_perception.errors import OccError
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import Float64, matrix_from_pose, pose_from_matrix
from occ_perception.sensing.yaml_file import YamlError, YamlSection, read_yaml

_MOST_PIXELS = 40_000_000
"""Larger images are not read: a message of a few bytes must not take the memory. 8K video has 33
million pixels."""

DISTORTION_COEFFICIENTS = {
    "plumb_bob": (4, 5),
    "rational_polynomial": (8, 12, 14),
    "equidistant": (4,),
}
"""Supported lens models, each with its possible numbers of coefficients."""


class CalibrationError(OccError):
    """An unusable calibration; the message names the camera and the field."""


@dataclass(frozen=True)
class RegionOfInterest:
    """The part of the sensor that is read out, in unbinned pixels; zero size = the whole sensor."""

    x_offset: int = 0
    y_offset: int = 0
    width: int = 0
    height: int = 0


@dataclass(frozen=True, eq=False)
class CameraInfo:
    """The fields of sensor_msgs/CameraInfo that are used, of ROS 1 and ROS 2.

    The rectification matrix R is not used: it has no meaning for a single camera, and a widely
    used converter fills it with a matrix that is not a rotation.

    Attributes:
        width, height: full resolution of the calibration, pixels.
        K: 9 numbers, row-major intrinsics of the raw image.
        P: 12 numbers, row-major projection of the rectified image; may be all zero.
        D: distortion coefficients; empty or zero for rectified images.
        distortion_model: name; empty from drivers of rectified images.
        binning_x, binning_y: pixels binned by the camera; 0 and 1 both mean no binning.
        roi: region of the sensor in the images.
        frame_id: optical frame of the camera.
    """

    width: int
    height: int
    K: Sequence[float]
    P: Sequence[float] = ()
    D: Sequence[float] = ()
    distortion_model: str = ""
    binning_x: int = 0
    binning_y: int = 0
    roi: RegionOfInterest = RegionOfInterest()
    frame_id: str = ""


def calibration_from_camera_info(
    info: CameraInfo, name: str, ego_T_cam: Float64, rectified: bool
) -> CameraCalibration:
    """The calibration of the images that belong to a camera_info.

    Args:
        info: the message.
        name: camera name in the model's vocabulary.
        ego_T_cam: (4, 4) extrinsics, optical frame to ego.
        rectified: whether the images come from an ``image_rect`` topic. Then P applies without
            distortion; otherwise K and D apply.

    Raises:
        CalibrationError: missing or invalid intrinsics, too many pixels, an unknown lens model, or
            a wrong number of coefficients.
    """
    K = np.asarray(info.K, dtype=np.float64).reshape(3, 3)
    P = np.asarray(info.P, dtype=np.float64).reshape(-1, 4)
    model, coefficients = info.distortion_model, tuple(float(value) for value in info.D)
    if rectified:
        K = P[:, :3].copy() if P.any() else K
        model, coefficients = "", ()
    if not any(coefficients):
        model, coefficients = "", ()
    if coefficients:
        _check_distortion(f"camera {name}: camera_info", model, coefficients)
    if not K.any():
        raise CalibrationError(
            f"camera {name}: camera_info has an all-zero K, the driver is not calibrated; "
            "calibrate it"
        )
    if not (info.width and info.height):
        raise CalibrationError(
            f"camera {name}: size {info.width}x{info.height} in its camera_info, the driver is not "
            "calibrated; calibrate it"
        )
    roi = info.roi
    bin_x, bin_y = max(info.binning_x, 1), max(info.binning_y, 1)
    K = np.diag([1 / bin_x, 1 / bin_y, 1.0]) @ (
        K - np.array([[0, 0, roi.x_offset], [0, 0, roi.y_offset], [0, 0, 0.0]])
    )
    width, height = (roi.width or info.width) // bin_x, (roi.height or info.height) // bin_y
    if width * height > _MOST_PIXELS:
        raise CalibrationError(
            f"camera {name}: images of {width}x{height} pixels according to its camera_info, at "
            f"most {_MOST_PIXELS // 10**6} million pixels are read; the driver's calibration is "
            "damaged, or send smaller images"
        )
    try:
        return CameraCalibration(
            name=name,
            width=width,
            height=height,
            K=K,
            ego_T_cam=np.asarray(ego_T_cam, dtype=np.float64),
            frame_id=info.frame_id.lstrip("/"),
            distortion_model=model,
            distortion=coefficients,
        )
    except ValueError as error:
        raise CalibrationError(f"{error} (from its camera_info)") from error


def _check_distortion(where: str, model: str, coefficients: Sequence[float]) -> None:
    allowed = DISTORTION_COEFFICIENTS.get(model)
    if allowed is None:
        raise CalibrationError(
            f"{where}: lens model {model!r} cannot be undistorted; "
            f"supported: {', '.join(DISTORTION_COEFFICIENTS)}"
        )
    if len(coefficients) not in allowed:
        raise CalibrationError(
            f"{where}: lens model {model} has {' or '.join(map(str, allowed))} coefficients, "
            f"got {len(coefficients)}"
        )


# -- rig files -----------------------------------------------------------------------------------


def load_rig(name_or_path: str | Path) -> CameraRig:
    """Read a rig file; docs/bags.md describes the keys.

    Args:
        name_or_path: a path, or the shipped rig ``nuscenes``, with rounded nominal numbers of the
            nuScenes vehicles.

    Raises:
        YamlError: the file is missing, or a key is missing or wrong.
    """
    top = read_yaml(name_or_path, "occ_perception.sensing.rigs", "rig")
    if "camera_matrix" in top:
        raise YamlError(
            f"{top.source} is the calibration of one camera, without a mount; put one file per "
            "camera (CAM_FRONT.yaml and so on) into a folder and give the folder; the mounts then "
            "come from tf"
        )
    top.allow("cameras", "lidar", "description")
    cameras = tuple(
        _camera_from_section(name, section) for name, section in top.section("cameras").sections()
    )
    lidar = _pose_from_section(top.section("lidar")) if "lidar" in top else None
    return CameraRig(cameras=cameras, ego_T_lidar=lidar)


def save_rig(path: str | Path, rig: CameraRig, description: str = "") -> None:
    """Write a rig file; :func:`load_rig` reads back the same numbers."""
    content: dict[str, Any] = {"description": description} if description else {}
    content["cameras"] = {camera.name: _section_from_camera(camera) for camera in rig.cameras}
    if rig.ego_T_lidar is not None:
        content["lidar"] = _section_from_pose(rig.ego_T_lidar)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
    write_whole(path, text)


def _camera_from_section(name: str, section: YamlSection) -> CameraCalibration:
    section.allow("size", "intrinsics", "pose", "frame_id", "distortion_model", "distortion")
    width, height = section.numbers("size", 2)
    fx, fy, cx, cy = section.numbers("intrinsics", 4)
    distortion = section.numbers("distortion") if "distortion" in section else ()
    model = section.text("distortion_model", "")
    try:
        if any(distortion):
            _check_distortion("distortion", model, distortion)
        return CameraCalibration(
            name=name,
            width=int(width),
            height=int(height),
            K=np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]),
            ego_T_cam=_pose_from_section(section.section("pose")),
            frame_id=section.text("frame_id", ""),
            distortion_model=model,
            distortion=distortion,
        )
    except (CalibrationError, ValueError) as error:
        raise YamlError(f"{section.source}: {section.path}: {error}") from error


def _pose_from_section(section: YamlSection) -> Float64:
    section.allow("translation", "quaternion_xyzw")
    translation = section.numbers("translation", 3)
    quaternion = section.numbers("quaternion_xyzw", 4)
    try:
        return matrix_from_pose(translation, quaternion)
    except ValueError as error:
        raise YamlError(f"{section.source}: {section.path}: {error}") from error


def _section_from_camera(camera: CameraCalibration) -> dict[str, Any]:
    K = camera.K
    section: dict[str, Any] = {
        "size": [camera.width, camera.height],
        "intrinsics": [float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])],
        "pose": _section_from_pose(camera.ego_T_cam),
    }
    if camera.frame_id:
        section["frame_id"] = camera.frame_id
    if camera.distortion:
        section["distortion_model"] = camera.distortion_model
        section["distortion"] = list(camera.distortion)
    return section


def _section_from_pose(matrix: Float64) -> dict[str, list[float]]:
    translation, quaternion = pose_from_matrix(matrix)
    return {"translation": translation.tolist(), "quaternion_xyzw": quaternion.tolist()}
