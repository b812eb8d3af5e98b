"""Lidar sweeps of a recording in the world frame, with motion compensation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.drive import RecordedDrive
from occ_perception.bags.reading import RecordedCloud
from occ_perception.errors import OccError
from occ_perception.geometry import Float64
from occ_perception.sensing.ego_pose import PoseUnavailable
from occ_perception.sensing.from_messages import points_from_message
from occ_perception.sensing.point_times import point_offsets_ns
from occ_perception.sensing.transform_tree import TransformError

NO_CLASS = 255
CLASS_FIELDS = ("label", "class", "class_id", "semantic", "classification")
"""Names of the point field that holds a class id."""

# Points are grouped by this time. Vehicles turn by less than a hundredth of a degree in it.
_PART_NS = 5_000_000
_NEAREST_M = 1.5


@dataclass(frozen=True, eq=False)
class Sweep:
    """One sweep of the sensor.

    Attributes:
        time_line: how often time went back in the recording before it.
        stamp_ns: of its message.
        world_T_ego: (4, 4) at that stamp.
        ego_T_lidar: (4, 4) mount.
        origins: (m, 3) float64 positions of the sensor, world, metres.
        starts: (m + 1,) points ``starts[i]:starts[i + 1]`` were measured from ``origins[i]``.
        points: (n, 3) float64 world, metres.
        classes: (n,) uint8 class ids, NO_CLASS if unknown.
    """

    time_line: int
    stamp_ns: int
    world_T_ego: Float64
    ego_T_lidar: Float64
    origins: Float64
    starts: NDArray[np.int64]
    points: Float64
    classes: NDArray[np.uint8]


class WorldSweeps:
    """Iterates over the sweeps of one topic, with the ego poses of the recording.

    Points are placed with the pose at their own time if they carry one, see
    :func:`~occ_perception.sensing.point_times.point_offsets_ns`, else with the pose at the sweep's
    stamp. Points within 1.5 m of the sensor belong to the vehicle and are left out.

    Args:
        drive: the recording.
        topic: of sensor_msgs/PointCloud2.
        class_ids: value of the class field -> class id; None = the values are class ids.
        num_classes: ids from this one on count as no class.
        period_ns: least time between sweeps that are used.
        only_ns: stamps of the wanted sweeps; None = all.
    """

    def __init__(
        self,
        drive: RecordedDrive,
        topic: str,
        class_ids: Mapping[int, int] | None,
        num_classes: int,
        period_ns: int = 0,
        only_ns: frozenset[int] | None = None,
    ) -> None:
        self._drive = drive
        self.topic = topic
        self._table = _class_table(class_ids, num_classes)
        self._period = period_ns
        self._only = only_ns

    def __iter__(self) -> Iterator[Sweep]:
        time_line = last = None
        for cloud in self._drive.clouds(self.topic):
            if cloud.time_line != time_line:
                time_line, last = cloud.time_line, None
            if self._only is not None and cloud.stamp_ns not in self._only:
                continue
            if last is not None and 0 <= cloud.stamp_ns - last < self._period:
                continue
            last = cloud.stamp_ns
            try:
                yield self._placed(cloud)
            except (OccError, ValueError, TransformError, PoseUnavailable) as error:
                self._drive.recording.note(
                    "lidar", f"{self.topic}: {error}", cloud.message.received_ns
                )

    def _placed(self, cloud: RecordedCloud) -> Sweep:
        message = self._drive.recording.decode(cloud.message)
        rows = points_from_message(message)
        ego_T_lidar = cloud.vehicle.mount(message.header.frame_id)
        poses, stamp = cloud.vehicle.poses, cloud.stamp_ns
        places = np.column_stack([rows[name] for name in "xyz"]).astype(np.float64)
        kept = np.isfinite(places).all(axis=1)
        kept &= np.einsum("ij,ij->i", places, places) > _NEAREST_M**2
        places, rows = places[kept], rows[kept]
        offsets = point_offsets_ns(rows, stamp)
        part = np.zeros(len(rows), np.int64) if offsets is None else offsets // _PART_NS
        order = np.argsort(part, kind="stable")
        times, starts = np.unique(part[order], return_index=True)
        starts = np.append(starts, len(rows))
        places = places[order]
        points, origins = np.empty_like(places), np.empty((len(times), 3))
        for n, time in enumerate(times):
            when = stamp if offsets is None else stamp + int(time) * _PART_NS + _PART_NS // 2
            world_T_lidar = poses.at(when) @ ego_T_lidar
            some = slice(starts[n], starts[n + 1])
            points[some] = places[some] @ world_T_lidar[:3, :3].T + world_T_lidar[:3, 3]
            origins[n] = world_T_lidar[:3, 3]
        return Sweep(
            cloud.time_line, stamp, poses.at(stamp), ego_T_lidar, origins, starts, points,
            self._classes(rows[order]),
        )  # fmt: skip

    def _classes(self, rows: NDArray[np.void]) -> NDArray[np.uint8]:
        name = next((name for name in CLASS_FIELDS if name in (rows.dtype.names or ())), None)
        if name is None:
            return np.full(len(rows), NO_CLASS, np.uint8)
        values = np.nan_to_num(rows[name].astype(np.float64), nan=-1.0)
        bounded = np.clip(values, -1, len(self._table) - 1).astype(np.int64)
        classes: NDArray[np.uint8] = self._table[bounded]
        return classes


def _class_table(class_ids: Mapping[int, int] | None, num_classes: int) -> NDArray[np.uint8]:
    """Class id by value of the class field; the last row is for unknown values."""
    if class_ids is None:
        class_ids = {n: n for n in range(num_classes)}
    table = np.full(max(class_ids, default=0) + 3, NO_CLASS, np.uint8)
    for value, class_id in class_ids.items():
        table[value] = class_id
    return table
