"""Calibration files of the ROS package camera_calibration: a folder with one YAML file per camera.

Such a file holds what camera_info holds, and no mount.
"""

from __future__ import annotations

from pathlib import Path

from occ_perception.sensing.calibration import CameraInfo
from occ_perception.sensing.yaml_file import YamlError, YamlSection, read_yaml


def load_camera_infos(folder: str | Path) -> dict[str, CameraInfo]:
    """Read a folder of calibration files; docs/bags.md describes it.

    Returns:
        Lower-case name of a camera -> its calibration. Each file is found under its own name
        without suffix and under its ``camera_name``.

    Raises:
        YamlError: there is no file, a key is missing or wrong, or two files have the same name.
    """
    files = sorted(path for path in Path(folder).expanduser().iterdir() if path.suffix in _SUFFIXES)
    if not files:
        raise YamlError(
            f"{folder} has no calibration file: expected one per camera, such as CAM_FRONT.yaml"
        )
    infos: dict[str, CameraInfo] = {}
    for file in files:
        top = read_yaml(file, "occ_perception.sensing.rigs", "calibration file")
        info = _camera_info(top)
        for name in {file.stem.lower(), top.text("camera_name", file.stem).lower()}:
            if name in infos:
                raise YamlError(f"{file}: another file in {folder} is for camera {name} too")
            infos[name] = info
    return infos


_SUFFIXES = (".yaml", ".yml")


def _camera_info(top: YamlSection) -> CameraInfo:
    lens = "distortion_coefficients"
    projection = "projection_matrix"
    return CameraInfo(
        width=int(top.number("image_width")),
        height=int(top.number("image_height")),
        K=top.section("camera_matrix").numbers("data", 9),
        P=top.section(projection).numbers("data", 12) if projection in top else (),
        D=top.section(lens).numbers("data") if lens in top else (),
        distortion_model=top.text("distortion_model", ""),
    )
