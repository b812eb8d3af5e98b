"""Predictions as foxglove_msgs/VoxelGrid, which Foxglove shows in 3D without configuration.

The message is documented at https://docs.foxglove.dev/docs/sdk/schemas/voxel-grid.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.writing import NODE_NAMESPACE, BagWriter
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import pose_from_matrix
from occ_perception.labels import UNKNOWN_CLASS, palette_of

VOXEL_GRID_TYPE = "foxglove_msgs/msg/VoxelGrid"
FIELD_TYPE = "foxglove_msgs/msg/PackedElementField"
VOXEL_GRID_TOPIC = f"{NODE_NAMESPACE}/voxel_grid"

# Foxglove takes the colour of a voxel from fields of these names.
_CHANNELS = ("red", "green", "blue", "alpha")
_UINT8 = 1  # PackedElementField.UINT8


def voxel_grid(prediction: OccupancyPrediction, new: Callable[..., Any]) -> Any:
    """The voxels as a foxglove_msgs/VoxelGrid: four bytes each, the colour of the class.

    Alpha is 0 for free and unknown voxels, 255 for all others. A row of the message runs along x, a
    layer consists of rows along y: the flat order of our own messages.

    Args:
        prediction: the prediction.
        new: makes a message: ``new("package/msg/Name", field=value, ...)``; every field is given.
    """
    nx, ny, _ = map(int, prediction.grid.dims)
    cell = len(_CHANNELS)
    ego_T_corner = np.array(prediction.ego_T_grid, dtype=np.float64)
    ego_T_corner[:3, 3] += ego_T_corner[:3, :3] @ np.asarray(prediction.grid.lower)
    translation, quaternion = pose_from_matrix(ego_T_corner)
    seconds, nanoseconds = divmod(prediction.stamp_ns, 1_000_000_000)
    return new(
        VOXEL_GRID_TYPE,
        timestamp=new("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds),
        frame_id=prediction.frame_id,
        pose=new(
            "geometry_msgs/msg/Pose",
            position=new("geometry_msgs/msg/Point", **_named("xyz", translation)),
            orientation=new("geometry_msgs/msg/Quaternion", **_named("xyzw", quaternion)),
        ),
        row_count=ny,
        column_count=nx,
        cell_size=new("geometry_msgs/msg/Vector3", **_named("xyz", prediction.grid.voxel_size)),
        slice_stride=cell * nx * ny,
        row_stride=cell * nx,
        cell_stride=cell,
        fields=[
            new(FIELD_TYPE, name=name, offset=offset, type=_UINT8)
            for offset, name in enumerate(_CHANNELS)
        ],
        data=_colours_of_ids(prediction)[prediction.labels.T].reshape(-1),
    )


def _colours_of_ids(prediction: OccupancyPrediction) -> NDArray[np.uint8]:
    """(256, 4) red, green, blue and alpha of every id."""
    names = [*prediction.class_names, *[""] * (256 - len(prediction.class_names))]
    table = np.full((256, 4), 255, np.uint8)
    table[:, :3] = palette_of(names)
    table[[prediction.empty_class, UNKNOWN_CLASS]] = 0
    return table


def _named(axes: str, values: Any) -> dict[str, float]:
    return {axis: float(value) for axis, value in zip(axes, values, strict=True)}


class PredictionWriter(BagWriter):
    """Writes predictions to a recording that Foxglove shows as it is.

    Its storage is mcap, compressed: the colours of a grid take 2.6 MB, compressed a few per cent.

    Args:
        path: see :class:`~occ_perception.bags.atomic_writer.AtomicWriter`.

    Raises:
        OutputError: see :class:`~occ_perception.bags.atomic_writer.AtomicWriter`.
    """

    compresses = True

    def write_prediction(self, prediction: OccupancyPrediction) -> None:
        """The messages of :meth:`write_occupancy`, and the same voxels for Foxglove."""
        self.write_occupancy(prediction)
        message = voxel_grid(prediction, self.new)
        self.write(VOXEL_GRID_TOPIC, prediction.stamp_ns, message)
