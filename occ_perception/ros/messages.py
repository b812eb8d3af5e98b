"""Predictions as ROS messages. This module copies fields; ``codec`` encodes them.

The reverse functions :func:`prediction_from_message` and :func:`flow_from_message` also serve
messages from a bag; they are defined in :mod:`occ_perception.sensing.from_messages`.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from occ_msgs.msg import GridGeometry, Latency, OccupancyFlow, SemanticOccupancy
from occ_perception.codec import FORMAT_VERSION, encode_flow, encode_occupancy
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, pose_from_matrix, transform_points
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS, palette_of
from occ_perception.ros.message_classes import time_message
from occ_perception.sensing.from_messages import flow_from_message, prediction_from_message

__all__ = [
    "flat",
    "flow_from_message",
    "flow_message",
    "latency_message",
    "occupancy_message",
    "points_message",
    "prediction_from_message",
]

_POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")], align=False
)


def flat(values: NDArray[Any], typecode: str) -> array.array[Any]:
    """A numpy array as an ``array.array``, which message fields store without a copy per element.

    Assigning the numpy array itself converts it element by element, about a thousand times slower.
    """
    dtype = np.dtype(typecode)
    result: array.array[Any] = array.array(typecode)
    if values.size:
        result.frombytes(np.ascontiguousarray(values, dtype=dtype).tobytes())
    return result


def occupancy_message(prediction: OccupancyPrediction, encoding: int) -> SemanticOccupancy:
    """The prediction's labels in one of the codec's encodings (``codec.RLE`` ...)."""
    encoded = encode_occupancy(prediction.labels, prediction.empty_class, encoding)
    message = SemanticOccupancy()
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    message.format_version = FORMAT_VERSION
    message.grid = _grid_message(prediction.grid, prediction.ego_T_grid)
    message.encoding = encoded.encoding
    message.empty_class = prediction.empty_class
    message.unknown_class = UNKNOWN_CLASS
    message.class_names = list(prediction.class_names)
    message.labels = flat(encoded.labels, "B")
    message.indices = flat(encoded.indices, "I")
    message.run_lengths = flat(encoded.run_lengths, "H")
    message.confidence = flat(encoded.confidence, "B")
    message.model = prediction.model
    message.camera_names = list(prediction.camera_stamps_ns)
    message.camera_stamps = [time_message(ns) for ns in prediction.camera_stamps_ns.values()]
    message.committed = prediction.committed
    message.history_length = prediction.history_length
    message.history_break = prediction.history_break
    return message


def latency_message(prediction: OccupancyPrediction, milliseconds: Mapping[str, float]) -> Latency:
    """Durations by stage; keys are the message's fields without ``_ms``."""
    message = Latency(**{f"{stage}_ms": duration for stage, duration in milliseconds.items()})
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    return message


def flow_message(prediction: OccupancyPrediction, min_speed: float) -> OccupancyFlow:
    """The velocities of voxels of movable classes with a speed of at least ``min_speed`` m/s.

    Raises:
        ValueError: the prediction has no flow.
    """
    if prediction.flow is None:
        raise ValueError(f"model {prediction.model} predicts no flow")
    moving_ids = [i for i, name in enumerate(prediction.class_names) if name in MOVING_CLASSES]
    moving = np.isin(prediction.labels, np.array(moving_ids, dtype=np.uint8))
    encoded = encode_flow(prediction.flow, moving, min_speed)
    message = OccupancyFlow()
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    message.format_version = FORMAT_VERSION
    message.grid = _grid_message(prediction.grid, prediction.ego_T_grid)
    message.indices = flat(encoded.indices, "I")
    message.vx = flat(encoded.vx, "f")
    message.vy = flat(encoded.vy, "f")
    message.min_speed = float(encoded.min_speed)
    message.model = prediction.model
    return message


def points_message(prediction: OccupancyPrediction) -> PointCloud2:
    """Centres of the occupied voxels in ``frame_id``, for RViz and Foxglove.

    Fields x, y, z (metres), rgb (packed, coloured by class name) and label (class id).
    """
    occupied = (prediction.labels != prediction.empty_class) & (prediction.labels != UNKNOWN_CLASS)
    indices = np.argwhere(occupied)
    labels = prediction.labels[occupied]
    centers = transform_points(prediction.ego_T_grid, prediction.grid.centers(indices))
    red, green, blue = palette_of(prediction.class_names).astype(np.uint32)[labels].T
    points = np.empty(len(indices), dtype=_POINT)
    points["x"], points["y"], points["z"] = centers.T
    points["rgb"] = red << 16 | green << 8 | blue
    points["label"] = labels

    message = PointCloud2()
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    message.height, message.width = 1, len(points)
    message.fields = [
        PointField(name=name, offset=offset, datatype=datatype, count=1)
        for name, offset, datatype in (
            ("x", 0, PointField.FLOAT32),
            ("y", 4, PointField.FLOAT32),
            ("z", 8, PointField.FLOAT32),
            ("rgb", 12, PointField.FLOAT32),  # by convention four bytes B, G, R, 0 in a float
            ("label", 16, PointField.UINT32),
        )
    ]
    message.point_step = _POINT.itemsize
    message.row_step = message.point_step * len(points)
    message.is_dense = True
    message.data = flat(points.view(np.uint8), "B")
    return message


def _grid_message(grid: VoxelGrid, ego_T_grid: Float64) -> GridGeometry:
    corner = np.eye(4)
    corner[:3, 3] = grid.lower
    translation, quaternion = pose_from_matrix(ego_T_grid @ corner)
    message = GridGeometry()
    message.origin = Pose()
    position, orientation = message.origin.position, message.origin.orientation
    position.x, position.y, position.z = map(float, translation)
    orientation.x, orientation.y, orientation.z, orientation.w = map(float, quaternion)
    message.voxel_size = np.array(grid.voxel_size, dtype=np.float32)
    message.dims = np.array(grid.dims, dtype=np.uint32)
    return message
