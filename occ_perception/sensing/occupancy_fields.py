"""Occupancy messages as predictions, whichever library made the message object.

As in :mod:`occ_perception.sensing.message_fields`, rclpy and the bag reader give objects with the
same attribute names. Messages that contradict themselves are refused with a ``MessageError`` that
says what is wrong; nothing here returns a grid that it is not sure of.
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
    check_layout_version,
    decode_flow,
    decode_occupancy,
)
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid, matrix_from_pose
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.sensing.message_fields import stamp_ns


def prediction_from_message(message: Any) -> OccupancyPrediction:
    """Decode and check an occ_msgs/SemanticOccupancy.

    The grid's position is given by ``grid.lower`` along the axes of ``ego_T_grid``, which holds
    the rotation only. Flow and timings are not part of this message.

    Raises:
        MessageError: the message contradicts itself or has a layout this version does not know; the
            text says which field, what was expected and what was got.
    """
    check_layout_version(message.layout_version)
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


def flow_from_message(message: Any) -> tuple[NDArray[np.float32], VoxelGrid]:
    """Decode an occ_msgs/OccupancyFlow: (X, Y, Z, 2) float32 m/s, zero where none is reported.

    Raises:
        MessageError: as in :func:`prediction_from_message`.
    """
    check_layout_version(message.layout_version)
    grid, _ = _grid(message.grid)
    encoded = EncodedFlow(
        indices=_numbers(message.indices, np.uint32),
        vx=_numbers(message.vx, np.float32),
        vy=_numbers(message.vy, np.float32),
        min_speed=message.min_speed,
    )
    return decode_flow(encoded, grid.dims), grid


def _grid(message: Any) -> tuple[VoxelGrid, Float64]:
    """Cells of an occ_msgs/GridGeometry, and the rotation of their axes as ``ego_T_grid``."""
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
    """0.4 for the float32 nearest to 0.4: the number somebody wrote, not its binary shadow."""
    return float(str(np.float32(value)))


def _numbers(values: Sequence[Any], dtype: type[np.generic]) -> NDArray[Any]:
    # A sequence field that rclpy received is an array.array: np.asarray shares its memory.
    return np.asarray(values, dtype=dtype)
