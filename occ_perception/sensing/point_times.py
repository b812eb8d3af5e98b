"""Times of a lidar's points, in the fields and units of the drivers in use."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from occ_perception.codec import MessageError

TIME_FIELDS = (
    "time_offset",
    "offset_time",
    "time_stamp",
    "timestamp",
    "time",
    "t",
)
"""Names of the point field that holds its time, the preferred first."""

_LONGEST_SWEEP_NS = 300_000_000

_INTEGER_UNITS = ((1.0, False, 0.0),)
_FLOAT_UNITS = (
    (1e9, False, 0.0),
    (1e9, True, 0.0),
    (1e3, True, 0.0),
    (1.0, True, 0.0),
    (1e3, False, 1e6),
    (1.0, False, 1e6),
)
"""Nanoseconds per unit, whether times are absolute, and how far the farthest point must be from the
stamp, ns. The first unit that fits is used."""


def point_offsets_ns(rows: NDArray[np.void], stamp_ns: int) -> NDArray[np.int64] | None:
    """Each point's time after the stamp of its sweep; None if the points carry no times.

    Integers are nanoseconds after the stamp (Ouster, Livox, Autoware). The unit of floating-point
    numbers follows from their size: seconds after the stamp (Velodyne), or absolute seconds or
    nanoseconds (Hesai, RoboSense, Livox). A point without a finite time counts as measured at the
    stamp.

    Args:
        rows: (n,) points with their fields, see :func:`~.from_messages.points_from_message`.
        stamp_ns: stamp of the sweep.

    Raises:
        MessageError: in no unit the times lie within 300 ms of the stamp.
    """
    name = next((name for name in TIME_FIELDS if name in (rows.dtype.names or ())), None)
    if name is None:
        return None
    times = rows[name]
    is_float = np.issubdtype(times.dtype, np.floating)
    values = times.astype(np.float64)
    finite = np.isfinite(values)
    offsets = np.zeros(len(rows), np.int64)
    if not finite.any():
        return offsets
    for unit_ns, is_absolute, least_ns in _FLOAT_UNITS if is_float else _INTEGER_UNITS:
        # The difference of large numbers comes first: it is exact.
        after = (values[finite] - (stamp_ns / unit_ns if is_absolute else 0.0)) * unit_ns
        farthest = np.abs(after).max()
        if least_ns <= farthest <= _LONGEST_SWEEP_NS:
            offsets[finite] = np.round(after)
            return offsets
    low, high = values[finite].min(), values[finite].max()
    raise MessageError(
        f"points have times {low:g} to {high:g} in their field {name}, in every known unit more "
        f"than {_LONGEST_SWEEP_NS / 1e6:.0f} ms from their sweep's stamp; it has another unit or "
        "clock"
    )
