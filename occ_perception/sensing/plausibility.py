"""Can what the messages state about the sensors be true? Checks whose result is said, not enforced.

Each check returns sentences: which camera, what is wrong, what to do. Numbers that make frames
impossible are refused elsewhere; these here give frames, and wrong results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import median_low

import numpy as np

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.sensing.calibration import CameraInfo

NO_STAMP = (
    "images carry stamp 0: their driver does not fill the header; mend it, or use "
    "stamp_source: receive"
)
"""What to say about images with stamp 0 where headers give the stamps."""

# sin 53 deg: no useful camera looks at the sky.
_STEEP = 0.8
# A camera may be named after a corner and look 10 degrees beyond it.
_BEYOND = 0.17
# No vehicle is longer; the millimetres of a small one are more.
_LONGEST_MOUNT_M = 50.0
_NARROWEST_DEG, _WIDEST_DEG = 3.0, 170.0
_CLOCKS_APART_S = 1.0


def doubts_about_rig(rig: CameraRig) -> tuple[str, ...]:
    """Every check of a rig: mounts, names, intrinsics."""
    return (
        *optical_axes_upwards(rig.cameras),
        *upside_down(rig.cameras),
        *mounts_far_away(rig.cameras),
        *names_against_directions(rig.cameras),
        *intrinsics_of_other_images(rig.cameras),
    )


def optical_axes_upwards(cameras: Sequence[CameraCalibration]) -> list[str]:
    """Cameras that look at the sky: their frame is that of the body, whose z axis points up."""
    names = [c.name for c in cameras if c.ego_T_cam[2, 2] > _STEEP]
    if not names:
        return []
    return [
        f"{', '.join(names)} look upwards: their frames may be those of the bodies (x forward), "
        "not the optical ones (z forward); name the optical frames in the layout (frame_id)"
    ]


def upside_down(cameras: Sequence[CameraCalibration]) -> list[str]:
    """Cameras whose images are upside down in the vehicle (y of an optical frame points down)."""
    names = [c.name for c in cameras if c.ego_T_cam[2, 1] > _STEEP]
    if not names:
        return []
    return [
        f"{', '.join(names)} are mounted upside down: base_link needs z upwards, optical frames y "
        "downwards; check their mounts"
    ]


def mounts_far_away(cameras: Sequence[CameraCalibration]) -> list[str]:
    """Mounts in millimetres."""
    return [
        f"camera {c.name}: it is mounted {distance:.0f} m from the origin of the vehicle; a mount "
        "is stated in metres, is this one in millimetres?"
        for c in cameras
        if (distance := float(np.linalg.norm(c.ego_T_cam[:3, 3]))) > _LONGEST_MOUNT_M
    ]


def names_against_directions(cameras: Sequence[CameraCalibration]) -> list[str]:
    """Cameras named front, back, left or right that look the opposite way."""
    sentences = []
    for camera in cameras:
        x, y, z = camera.ego_T_cam[:3, 2]
        words = set(re.split(r"[^A-Z]+", camera.name.upper()))
        contradictory = (
            ("FRONT" in words and x < -_BEYOND)
            or (words & {"BACK", "REAR"} and x > _BEYOND)
            or ("LEFT" in words and y < -_BEYOND)
            or ("RIGHT" in words and y > _BEYOND)
        )
        if contradictory and abs(z) <= _STEEP:
            yaw = np.degrees(np.arctan2(y, x))
            sentences.append(
                f"camera {camera.name} looks to {yaw:.0f} degrees (0 forward, 90 left), against "
                "its name; check which topic is which camera in the layout, and the mounts"
            )
    return sentences


def intrinsics_of_other_images(cameras: Sequence[CameraCalibration]) -> list[str]:
    """Intrinsics of another image size, or with an impossible field of view."""
    sentences = []
    for c in cameras:
        centre = np.array([c.K[0, 2] / c.width, c.K[1, 2] / c.height])
        field_deg = np.degrees(2 * np.arctan(c.width / (2 * c.K[0, 0])))
        if centre.max() < 0.3 or centre.min() > 0.7:
            sentences.append(
                f"camera {c.name}: the principal point ({c.K[0, 2]:.0f}, {c.K[1, 2]:.0f}) lies in "
                f"a corner of {c.width}x{c.height}; K must belong to that image size"
            )
        elif not _NARROWEST_DEG < field_deg < _WIDEST_DEG:
            sentences.append(
                f"camera {c.name}: fx = {c.K[0, 0]:.4g} pixels at a width of {c.width} give a field"
                f" of view of {field_deg:.1f} degrees; fx and fy are stated in pixels"
            )
    return sentences


def distortion_of_rectified(camera: str, topic: str, info: CameraInfo) -> list[str]:
    """Images that count as rectified, with a lens distortion that P does not take away."""
    K = np.asarray(info.K, dtype=np.float64).reshape(3, 3)
    P = np.asarray(info.P, dtype=np.float64).reshape(-1, 4)
    is_rectifying = P.any() and not np.allclose(P[:, :3], K, rtol=1e-6, atol=1e-6)
    if is_rectifying or not any(info.D):
        return []
    values = ", ".join(f"{value:.4g}" for value in info.D)
    return [
        f"camera {camera}: {topic} counts as rectified, but its camera_info has a distortion "
        f"({values}) and a P that takes none away; if the images are raw, set rectified: false "
        "in the layout"
    ]


def clocks_apart(offsets_s: Mapping[str, float]) -> dict[str, str]:
    """Cameras whose stamps are seconds off those of the others.

    Args:
        offsets_s: camera -> stamp minus time of arrival.

    Returns:
        Camera -> what is wrong.
    """
    if len(offsets_s) < 2:
        return {}
    usual = median_low(offsets_s.values())
    return {
        camera: f"stamps are {abs(offset - usual):.1f} s "
        f"{'ahead of' if offset > usual else 'behind'} those of the other cameras; synchronise "
        "their clocks (PTP, NTP), or use stamp_source: receive"
        for camera, offset in offsets_s.items()
        if abs(offset - usual) > _CLOCKS_APART_S
    }
