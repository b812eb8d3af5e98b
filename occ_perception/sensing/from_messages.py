"""Fields of ROS messages as plain values, whichever library made the message object.

rclpy and the bag reader give objects with the same attribute names, so the mapping from message to
value is written once, here, without importing either.
"""

from __future__ import annotations

from typing import Any

from occ_perception.geometry import Float64, matrix_from_pose
from occ_perception.sensing.calibration import CameraInfo, RegionOfInterest
from occ_perception.sensing.images import CompressedPicture, SensorImage


def stamp_ns(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def picture_from_message(message: Any) -> SensorImage | CompressedPicture:
    """The picture of a sensor_msgs/Image or sensor_msgs/CompressedImage; data is not copied."""
    if hasattr(message, "format"):
        return CompressedPicture(message.format, message.data)
    return SensorImage(
        encoding=message.encoding,
        height=int(message.height),
        width=int(message.width),
        step=int(message.step),
        data=message.data,
        is_bigendian=bool(message.is_bigendian),
    )


def camera_info_from_message(message: Any) -> CameraInfo:
    """The fields of a sensor_msgs/CameraInfo; ROS 1 names its matrices in upper case."""

    def matrix(name: str) -> tuple[float, ...]:
        values = (
            getattr(message, name) if hasattr(message, name) else getattr(message, name.upper())
        )
        return tuple(map(float, values))

    roi = message.roi
    return CameraInfo(
        width=int(message.width),
        height=int(message.height),
        K=matrix("k"),
        P=matrix("p"),
        D=matrix("d"),
        distortion_model=message.distortion_model,
        binning_x=int(message.binning_x),
        binning_y=int(message.binning_y),
        roi=RegionOfInterest(int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)),
        frame_id=message.header.frame_id,
    )


def is_about(odometry: Any, frame: str) -> bool:
    """Whether a nav_msgs/Odometry is about a frame; one that names none is believed."""
    child = odometry.child_frame_id.lstrip("/")
    return child in ("", frame)


def pose_from_odometry(message: Any) -> Float64:
    """``frame_T_child`` (4, 4) of a nav_msgs/Odometry.

    Raises:
        ValueError: the orientation is not a unit quaternion, or a value is not finite.
    """
    pose = message.pose.pose
    return _matrix(pose.position, pose.orientation)


def transform_from_message(message: Any) -> Float64:
    """``parent_T_child`` (4, 4) of a geometry_msgs/TransformStamped.

    Raises:
        ValueError: as in :func:`pose_from_odometry`.
    """
    return _matrix(message.transform.translation, message.transform.rotation)


def _matrix(vector: Any, quaternion: Any) -> Float64:
    return matrix_from_pose(
        (vector.x, vector.y, vector.z),
        (quaternion.x, quaternion.y, quaternion.z, quaternion.w),
    )
