"""Points out of messages; bags and the node read them alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

POINTS_TYPE = "sensor_msgs/msg/PointCloud2"

# sensor_msgs/PointField.datatype
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


def points_from_message(message: Any) -> NDArray[np.void]:
    """The points (n,) of a sensor_msgs/PointCloud2 with its fields as named columns.

    Raises:
        ValueError: no x, y, z, a field of no known type, or less data than promised.
    """
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    if not {"x", "y", "z"} <= fields.keys():
        raise ValueError(f"points have fields {', '.join(fields) or 'none'}, expected x, y and z")
    strange = [name for name, f in fields.items() if f.datatype not in _NUMPY_TYPES]
    if strange:
        raise ValueError(f"fields {', '.join(strange)} of points have an unknown type")
    count = int(message.width) * int(message.height)
    if message.point_step * count > len(message.data):
        raise ValueError(
            f"{count} points of {message.point_step} bytes, but only {len(message.data)} bytes"
        )
    dtype = np.dtype(
        {
            "names": list(fields),
            "formats": [order + _NUMPY_TYPES[f.datatype] for f in fields.values()],
            "offsets": [int(f.offset) for f in fields.values()],
            "itemsize": int(message.point_step),
        }
    )
    points: NDArray[np.void] = np.frombuffer(message.data, dtype, count)
    return points


def positions_from_message(message: Any) -> NDArray[np.float64]:
    """Where the points of a sensor_msgs/PointCloud2 lie, (n, 3), without those not measured.

    Raises:
        ValueError: as :func:`points_from_message`.
    """
    rows = points_from_message(message)
    positions = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
    measured: NDArray[np.float64] = positions[np.isfinite(positions).all(axis=1)]
    return measured
