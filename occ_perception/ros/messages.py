"""Predictions as ROS messages. This module copies fields; ``codec`` encodes them.

The reverse functions :func:`prediction_from_message` and :func:`flow_from_message` also serve
messages from a bag; they are defined in :mod:`occ_perception.sensing.from_messages`.
"""

from __future__ import annotations

import array
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from occ_msgs.msg import GridGeometry, Latency, OccupancyFlow, SemanticOccupancy
from occ_perception.codec import FORMAT_VERSION, encode_flow, encode_observed, encode_occupancy
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, pose_from_matrix, transform_points
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS, palette_of
from occ_perception.mapping.drive_map import MapVoxels
from occ_perception.mapping.ground import class_mask
from occ_perception.mapping.obstacles import velocities_of
from occ_perception.ros.message_classes import time_message
from occ_perception.sensing.from_messages import flow_from_message, prediction_from_message

__all__ = [
    "flat",
    "flow_from_message",
    "flow_message",
    "latency_message",
    "map_message",
    "occupancy_message",
    "points_message",
    "prediction_from_message",
]

# Every field of a point has four bytes. rgb is a float by convention: its bytes are B, G, R, 0.
_POINT = {
    **dict.fromkeys("xyz", "<f4"),
    "rgb": "<u4",
    "label": "<u4",
    "vx": "<f4",
    "vy": "<f4",
}


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
    if prediction.observed is not None:
        message.observed_runs = flat(encode_observed(prediction.observed), "I")
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
    encoded = encode_flow(
        prediction.flow,
        class_mask(prediction.class_names, MOVING_CLASSES)[prediction.labels],
        min_speed,
    )
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

    Fields x, y, z (metres), rgb (packed, coloured by class name), label (class id), and vx, vy
    (velocity over ground along the axes of ``frame_id``, m/s). The velocity is 0 where nothing
    moves: in voxels of classes that cannot move, and in every voxel if the model predicts no flow.
    So the fields are the same for all models, and a viewer keeps its settings.
    """
    occupied = (prediction.labels != prediction.empty_class) & (prediction.labels != UNKNOWN_CLASS)
    centers = prediction.grid.centers(np.argwhere(occupied))
    positions = transform_points(prediction.ego_T_grid, centers)
    labels, velocities = prediction.labels[occupied], velocities_of(prediction, occupied)
    return cloud_message(prediction, positions, labels, velocities)


def map_message(prediction: OccupancyPrediction, frame_id: str, voxels: MapVoxels) -> PointCloud2:
    """Occupied voxels of a map with the fields of :func:`points_message`, and ``probability``.

    Args:
        prediction: the last one in the map.
        frame_id: world frame.
        voxels: of the map.
    """
    occupied = voxels.occupied
    positions = voxels.centres()[occupied] + voxels.origin
    standing = np.zeros((len(positions), 2), np.float32)
    return cloud_message(
        replace(prediction, frame_id=frame_id),
        positions,
        voxels.classes[occupied],
        standing,
        probability=voxels.probabilities[occupied],
    )


def cloud_message(
    prediction: OccupancyPrediction,
    positions: Float64,
    labels: NDArray[np.uint8],
    velocities: NDArray[np.float32],
    **more: NDArray[np.float32],
) -> PointCloud2:
    """Points in ``frame_id`` with the fields of :func:`points_message`, and further float32 ones.

    Args:
        prediction: stamp, frame and classes.
        positions: (n, 3) in the ego frame, metres.
        labels: (n,) class ids.
        velocities: (n, 2) over ground along the axes of ``frame_id``, m/s.
        more: (n,) values by name of the field.
    """
    kind = np.dtype(list((_POINT | dict.fromkeys(more, "<f4")).items()))
    points = np.empty(len(positions), dtype=kind)
    red, green, blue = palette_of(prediction.class_names).astype(np.uint32)[labels].T
    points["x"], points["y"], points["z"] = positions.T
    points["rgb"] = red << 16 | green << 8 | blue
    points["label"] = labels
    points["vx"], points["vy"] = velocities.T
    for name, values in more.items():
        points[name] = values

    message = PointCloud2()
    message.header.stamp = time_message(prediction.stamp_ns)
    message.header.frame_id = prediction.frame_id
    message.height, message.width = 1, len(points)
    message.fields = [
        PointField(
            name=name,
            offset=4 * number,
            datatype=PointField.UINT32 if name == "label" else PointField.FLOAT32,
            count=1,
        )
        for number, name in enumerate(kind.names or ())
    ]
    message.point_step = kind.itemsize
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
