"""Points out of messages; bags and the node read them alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.codec import MessageError
from occ_perception.errors import OccError

POINTS_TYPE = "sensor_msgs/msg/PointCloud2"

# sensor_msgs/PointField.datatype
_NUMPY_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}


class LidarTopicError(OccError):
    """It is not clear which topic the lidar's points are on; the text lists the candidates."""


def lidar_topic(topics: Mapping[str, str], wanted: str | None = None) -> str:
    """The topic of point clouds: the one asked for, or the only one, or the one called lidar.

    Args:
        topics: topic name -> message type.
        wanted: a topic's name; None to find it.

    Raises:
        LidarTopicError: it is not there, or several may be meant.
    """
    clouds = sorted(name for name, kind in topics.items() if kind == POINTS_TYPE)
    if not clouds:
        raise LidarTopicError(f"there is no topic of type {POINTS_TYPE}")
    likely = [name for name in clouds if "lidar" in name.lower()] if len(clouds) > 1 else clouds
    if wanted is not None:
        likely = [name for name in clouds if name == wanted]
    if len(likely) != 1:
        fault = "there are several" if wanted is None else f"{wanted} is none"
        raise LidarTopicError(
            f"{fault} of type {POINTS_TYPE}; choose one of {', '.join(clouds)} (--lidar-topic)"
        )
    return likely[0]


def points_from_message(message: Any) -> NDArray[np.void]:
    """The points (n,) of a sensor_msgs/PointCloud2 with its fields as named columns.

    Raises:
        MessageError: no x, y, z, a field of no known type, or less data than promised.
    """
    fields = {field.name: field for field in message.fields}
    order = ">" if message.is_bigendian else "<"
    if not {"x", "y", "z"} <= fields.keys():
        raise MessageError(f"points have fields {', '.join(fields) or 'none'}, expected x, y and z")
    strange = [name for name, f in fields.items() if f.datatype not in _NUMPY_TYPES]
    if strange:
        raise MessageError(f"fields {', '.join(strange)} of points have an unknown type")
    count = int(message.width) * int(message.height)
    if message.point_step * count > len(message.data):
        raise MessageError(
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
        MessageError: as :func:`points_from_message`.
    """
    rows = points_from_message(message)
    positions = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
    measured: NDArray[np.float64] = positions[np.isfinite(positions).all(axis=1)]
    return measured
