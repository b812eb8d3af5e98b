"""Small data set folders for the tests of the training data."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import synthetic_scenes as scenes
from occ_training.data.index import DatasetIndex
from occ_training.data.nuscenes import index_from_tables
from occ_training.data.records import (
    CameraRecord,
    DatasetHeader,
    FrameRecord,
    LabelFormat,
    LidarRecord,
)

from occ_perception.geometry import VoxelGrid
from occ_perception.synthetic.devkit import VERSION, write_devkit_drive
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions

IMAGE = (320, 180)
DRIVES, FRAMES = 2, 3


@cache
def _kept() -> TemporaryDirectory:
    return TemporaryDirectory(prefix="town-")


@cache
def town_folder() -> Path:
    """Two drives of three key frames in the devkit's format; read-only."""
    root = Path(_kept().name)
    for drive in range(DRIVES):
        write_devkit_drive(sensors(drive), root, frames=FRAMES)
    return root


@cache
def town_index() -> DatasetIndex:
    return index_from_tables(town_folder(), VERSION)


@cache
def sensors(drive: int) -> DriveSensors:
    return DriveSensors(scenes.drive(20_000, drive), SensorOptions(size=IMAGE))


GRID = VoxelGrid((-2.0, -2.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 2))
K = np.array([[200.0, 0.0, 160.0], [0.0, 200.0, 90.0], [0.0, 0.0, 1.0]])


def pose(x: float) -> np.ndarray:
    matrix = np.eye(4)
    matrix[0, 3] = x
    return matrix


def frame(token: str, sequence: str = "a", stamp_ns: int = 0, x: float = 0.0) -> FrameRecord:
    """A record whose files do not exist; the ego moves by x, and 0.1 m from camera to lidar."""
    camera = CameraRecord(
        f"{token}.jpg", stamp_ns - 10, K, *IMAGE, ego_T_cam=np.eye(4), world_T_ego=pose(x)
    )
    lidar = LidarRecord(f"{token}.bin", ("x", "y", "z"), stamp_ns, np.eye(4), pose(x + 0.1))
    return FrameRecord(
        token, sequence, stamp_ns, "CAM", {"CAM": camera}, lidar, {"occ3d": f"{token}.npz"}
    )


def index(root: Path, *frames: FrameRecord) -> DatasetIndex:
    header = DatasetHeader("test", ("CAM",), {"occ3d": LabelFormat("occ3d", "occ3d", GRID)})
    return DatasetIndex(root, header, frames)
