"""Our predictions as ROS messages and back: this module copies fields, ``codec`` does the coding.

Subscribers use :func:`prediction_from_message` and :func:`flow_from_message`; both refuse messages
that contradict themselves with a ``ValueError`` that says what is wrong, and never return a grid
they are not sure of.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose
from numpy.typing import NDArray
from sensor_msgs.msg import PointCloud2, PointField

from occ_msgs.msg import GridGeometry, OccupancyFlow, SemanticOccupancy
from occ_perception.codec import (
    LAYOUT_VERSION,
    EncodedFlow,
    EncodedOccupancy,
    check_layout_version,
    decode_flow,
    decode_occupancy,
    encode_flow,
    encode_occupancy,
)
from occ_perception.frames import Float64, OccupancyPrediction
from occ_perception.geometry import (
    VoxelGrid,
    matrix_from_pose,
    pose_from_matrix,
    transform_points,
)
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS, palette_of
from occ_perception.ros.stamps import time_message
from occ_perception.sensing.message_fields import stamp_ns

_POINT = np.dtype(
    [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4"), ("label", "<u4")], align=False
)


def flat(values: NDArray[Any], typecode: str) -> array.array[Any]:
    """A numpy array as the ``array.array`` that message fields store without a per-element copy.

    Assigning the numpy array itself converts element by element, about a thousand times slower.
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
    message.layout_version = LAYOUT_VERSION
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


def flow_message(prediction: OccupancyPrediction, min_speed: float) -> OccupancyFlow:
    """The velocity of voxels of moving classes that are at least ``min_speed`` m/s fast.

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
    message.layout_version = LAYOUT_VERSION
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


def prediction_from_message(message: SemanticOccupancy) -> OccupancyPrediction:
    """Decode and check a SemanticOccupancy message.

    The grid's position is given by ``grid.lower`` along the axes of ``ego_T_grid``, which holds
    the rotation only. Flow and timings are not part of this message.

    Raises:
        ValueError: the message contradicts itself or has a layout this version does not know; the
            text says which field, what was expected and what was got.
    """
    check_layout_version(message.layout_version)
    grid, ego_T_grid = _grid_from_message(message.grid)
    names = tuple(message.class_names)
    if not 0 < len(names) <= UNKNOWN_CLASS:
        raise ValueError(f"class_names has {len(names)} entries, expected 1 to {UNKNOWN_CLASS}")
    if message.empty_class >= len(names):
        raise ValueError(
            f"empty_class is {message.empty_class}, but class_names ends at id {len(names) - 1}"
        )
    if len(message.camera_names) != len(message.camera_stamps):
        raise ValueError(
            f"camera_names has {len(message.camera_names)} entries and camera_stamps "
            f"{len(message.camera_stamps)}, expected as many"
        )
    encoded = EncodedOccupancy(
        encoding=message.encoding,
        labels=_numbers(message.labels, np.uint8),
        indices=_numbers(message.indices, np.uint32),
        run_lengths=_numbers(message.run_lengths, np.uint16),
        confidence=_numbers(message.confidence, np.uint8),
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
        model=message.model,
        camera_stamps_ns=dict(zip(message.camera_names, stamps, strict=True)),
        committed=message.committed,
        history_length=message.history_length,
        history_break=message.history_break,
    )


def flow_from_message(message: OccupancyFlow) -> tuple[NDArray[np.float32], VoxelGrid]:
    """Decode an OccupancyFlow message: (X, Y, Z, 2) float32 m/s, zero where nothing is reported.

    Raises:
        ValueError: as in :func:`prediction_from_message`.
    """
    check_layout_version(message.layout_version)
    grid, _ = _grid_from_message(message.grid)
    encoded = EncodedFlow(
        indices=_numbers(message.indices, np.uint32),
        vx=_numbers(message.vx, np.float32),
        vy=_numbers(message.vy, np.float32),
        min_speed=message.min_speed,
    )
    return decode_flow(encoded, grid.dims), grid


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


def _grid_from_message(message: GridGeometry) -> tuple[VoxelGrid, Float64]:
    dims = tuple(int(count) for count in message.dims)
    if 0 in dims:
        raise ValueError(f"grid.dims is {dims}, expected three positive counts")
    sizes = tuple(_shortest_decimal(size) for size in message.voxel_size)
    if not all(np.isfinite(sizes)) or min(sizes) <= 0:
        raise ValueError(f"grid.voxel_size is {sizes} m, expected three positive lengths")
    position, orientation = message.origin.position, message.origin.orientation
    try:
        ego_T_corner = matrix_from_pose(
            (position.x, position.y, position.z),
            (orientation.x, orientation.y, orientation.z, orientation.w),
        )
    except ValueError as error:
        raise ValueError(f"grid.origin: {error}") from None
    ego_T_grid = np.eye(4)
    ego_T_grid[:3, :3] = ego_T_corner[:3, :3]
    x, y, z = (float(value) for value in ego_T_corner[:3, :3].T @ ego_T_corner[:3, 3])
    return VoxelGrid((x, y, z), (sizes[0], sizes[1], sizes[2]), (dims[0], dims[1], dims[2])), (
        ego_T_grid
    )


def _shortest_decimal(value: float) -> float:
    """0.4 for the float32 nearest to 0.4: the number somebody wrote, not its binary shadow."""
    return float(str(np.float32(value)))


def _numbers(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
    # A sequence field that was just received is an array.array: np.asarray shares its memory.
    return np.asarray(values, dtype=dtype)
