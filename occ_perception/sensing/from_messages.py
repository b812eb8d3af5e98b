"""Converts ROS messages into plain values, for message objects of rclpy and of the bag reader.

Both libraries use the same attribute names, so the conversion is written once and imports neither.
Messages of grids and points that contradict themselves are refused with a ``MessageError`` that
says what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.codec import (
    EncodedFlow,
    EncodedOccupancy,
    MessageError,
    check_format_version,
    decode_flow,
    decode_observed,
    decode_occupancy,
)
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, matrix_from_pose
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.sensing.calibration import CameraInfo, RegionOfInterest
from occ_perception.sensing.images import EncodedImage, SensorImage

# sensor_msgs/PointField.datatype
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
# Positions may be relative to the centre of the Earth. Products of larger numbers overflow.
_FARTHEST_M = 1e9


# -- sensors ---------------------------------------------------------------------------------------


def stamp_ns(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def image_from_message(message: Any) -> SensorImage | EncodedImage:
    """The image of a sensor_msgs/Image or sensor_msgs/CompressedImage; data is not copied."""
    if hasattr(message, "format"):
        return EncodedImage(message.format, message.data)
    return SensorImage(
        encoding=message.encoding,
        height=int(message.height),
        width=int(message.width),
        step=int(message.step),
        data=message.data,
        is_bigendian=bool(message.is_bigendian),
    )


def camera_info_from_message(message: Any) -> CameraInfo:
    """The fields of a sensor_msgs/CameraInfo; in ROS 1 the matrices have upper-case names."""

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


def gives_pose_of(odometry: Any, frame: str) -> bool:
    """Whether a nav_msgs/Odometry gives the pose of ``frame``.

    True if ``child_frame_id`` equals ``frame`` or is empty.
    """
    child = odometry.child_frame_id.lstrip("/")
    return child in ("", frame)


def pose_from_odometry(message: Any) -> Float64:
    """``frame_T_child`` (4, 4) of a nav_msgs/Odometry.

    Raises:
        ValueError: the orientation is not a unit quaternion, or a value is not finite or farther
            away than a million kilometres.
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
    translation = (vector.x, vector.y, vector.z)
    if max(map(abs, translation)) > _FARTHEST_M:
        raise ValueError(f"translation {list(translation)} m leads away from the Earth")
    return matrix_from_pose(translation, (quaternion.x, quaternion.y, quaternion.z, quaternion.w))


def points_from_message(message: Any) -> NDArray[np.void]:
    """The points (n,) of a sensor_msgs/PointCloud2, with its fields as named columns.

    Rows may be padded (``row_step``). A ``row_step`` for which data is too short is ignored: some
    drivers fill it in wrongly.

    Raises:
        MessageError: x, y or z is missing, a field has an unknown type or lies outside of the
            point, or data is too short.
    """
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    if not {"x", "y", "z"} <= fields.keys():
        raise MessageError(f"points have fields {', '.join(fields) or 'none'}, expected x, y and z")
    unknown = [name for name, f in fields.items() if f.datatype not in _NUMPY_TYPES]
    if unknown:
        raise MessageError(f"fields {', '.join(unknown)} of points have an unknown type")
    count = int(message.width) * int(message.height)
    if message.point_step * count > len(message.data):
        raise MessageError(
            f"{count} points of {message.point_step} bytes, but only {len(message.data)} bytes"
        )
    formats = [order + _NUMPY_TYPES[field.datatype] for field in fields.values()]
    offsets = [int(field.offset) for field in fields.values()]
    names, itemsize = list(fields), int(message.point_step)
    try:
        dtype = np.dtype(
            {"names": names, "formats": formats, "offsets": offsets, "itemsize": itemsize}
        )
    except ValueError as error:
        raise MessageError(f"fields of points contradict point_step {itemsize}: {error}") from None
    height, width, row_step = int(message.height), int(message.width), int(message.row_step)
    row_bytes = width * dtype.itemsize
    is_padded = row_step > row_bytes and (height - 1) * row_step + row_bytes <= len(message.data)
    strides = (row_step if is_padded else row_bytes, dtype.itemsize)
    rows = np.ndarray((height, width), dtype, message.data, strides=strides)
    points: NDArray[np.void] = rows.reshape(-1)  # a copy if rows are padded
    return points


def positions_from_message(message: Any) -> NDArray[np.float64]:
    """The positions (n, 3) of a sensor_msgs/PointCloud2, without points that are not finite.

    Raises:
        MessageError: as :func:`points_from_message`.
    """
    rows = points_from_message(message)
    positions = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
    measured: NDArray[np.float64] = positions[np.isfinite(positions).all(axis=1)]
    return measured


# -- occupancy -------------------------------------------------------------------------------------


def prediction_from_message(message: Any) -> OccupancyPrediction:
    """Decode and check an occ_msgs/SemanticOccupancy.

    The grid's position is ``grid.lower`` along the axes of ``ego_T_grid``, which holds only the
    rotation. Flow and timings are not part of this message.

    Raises:
        MessageError: the message contradicts itself or has an unknown format version; the text
            names the field, the expected and the actual value.
    """
    check_format_version(message.format_version)
    grid, ego_T_grid = _grid(message.grid)
    names = tuple(message.class_names)
    if not 0 < len(names) <= UNKNOWN_CLASS:
        raise MessageError(f"class_names has {len(names)} entries, expected 1 to {UNKNOWN_CLASS}")
    if message.empty_class >= len(names):
        raise MessageError(
            f"empty_class is {message.empty_class}, but class_names ends at id {len(names) - 1}"
        )
    if len(message.camera_names) != len(message.camera_stamps):
        raise MessageError(
            f"camera_names has {len(message.camera_names)} entries and camera_stamps "
            f"{len(message.camera_stamps)}, expected the same number"
        )
    encoded = EncodedOccupancy(
        encoding=message.encoding,
        labels=_numbers(message.labels, np.uint8),
        indices=_numbers(message.indices, np.uint32),
        run_lengths=_numbers(message.run_lengths, np.uint16),
    )
    labels = decode_occupancy(
        encoded, grid.dims, message.empty_class, len(names), message.unknown_class
    )
    stamps = (stamp_ns(time) for time in message.camera_stamps)
    return OccupancyPrediction(
        stamp_ns=stamp_ns(message.header.stamp),
        frame_id=message.header.frame_id,
        grid=grid,
        ego_T_grid=ego_T_grid,
        labels=labels,
        class_names=names,
        empty_class=message.empty_class,
        observed=decode_observed(_numbers(message.observed_runs, np.uint32), grid.dims),
        model=message.model,
        camera_stamps_ns=dict(zip(message.camera_names, stamps, strict=True)),
        committed=message.committed,
        history_length=message.history_length,
        history_break=message.history_break,
    )


def flow_from_message(message: Any) -> tuple[NDArray[np.float32], VoxelGrid]:
    """Decode an occ_msgs/OccupancyFlow: (X, Y, Z, 2) float32 m/s, zero for unlisted voxels.

    Raises:
        MessageError: as in :func:`prediction_from_message`.
    """
    check_format_version(message.format_version)
    grid, _ = _grid(message.grid)
    encoded = EncodedFlow(
        indices=_numbers(message.indices, np.uint32),
        vx=_numbers(message.vx, np.float32),
        vy=_numbers(message.vy, np.float32),
        min_speed=message.min_speed,
    )
    return decode_flow(encoded, grid.dims), grid


def _grid(message: Any) -> tuple[VoxelGrid, Float64]:
    """The grid of an occ_msgs/GridGeometry, and the rotation of its axes as ``ego_T_grid``."""
    dims = tuple(int(count) for count in message.dims)
    if 0 in dims:
        raise MessageError(f"grid.dims is {dims}, expected three positive counts")
    sizes = tuple(_shortest_decimal(size) for size in message.voxel_size)
    if not all(np.isfinite(sizes)) or min(sizes) <= 0:
        raise MessageError(f"grid.voxel_size is {sizes} m, expected three positive lengths")
    position, orientation = message.origin.position, message.origin.orientation
    try:
        ego_T_corner = matrix_from_pose(
            (position.x, position.y, position.z),
            (orientation.x, orientation.y, orientation.z, orientation.w),
        )
    except ValueError as error:
        raise MessageError(f"grid.origin: {error}") from None
    ego_T_grid = np.eye(4)
    ego_T_grid[:3, :3] = ego_T_corner[:3, :3]
    x, y, z = (float(value) for value in ego_T_corner[:3, :3].T @ ego_T_corner[:3, 3])
    grid = VoxelGrid((x, y, z), (sizes[0], sizes[1], sizes[2]), (dims[0], dims[1], dims[2]))
    return grid, ego_T_grid


def _shortest_decimal(value: float) -> float:
    """The shortest decimal that gives this float32, e.g. 0.4 for the float32 nearest to 0.4."""
    return float(str(np.float32(value)))


def _numbers(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
    # A sequence field that rclpy received is an array.array: np.asarray shares its memory.
    return np.asarray(values, dtype=dtype)
