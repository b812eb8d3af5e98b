"""Small recordings of occupancy with flow, images, lidar points and ground truth, in pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from small_streams import drive, surround_rig

from occ_perception.bags.writing import BagWriter, optical_frame
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS

OCC3D = LABEL_SETS["occ3d"]
CAR, ROAD, FREE = (OCC3D.class_names.index(n) for n in ("car", "driveable_surface", "free"))
GRID = VoxelGrid.from_ranges((-8, 8, 0.5), (-8, 8, 0.5), (-1, 3, 0.5))
CAMERAS = (
    "CAM_FRONT",
    "CAM_FRONT_LEFT",
    "CAM_BACK_LEFT",
    "CAM_BACK",
    "CAM_BACK_RIGHT",
    "CAM_FRONT_RIGHT",
)
BASE_T_LIDAR = matrix_from_pose((0.9, 0.1, 1.8), (0.0, 0.0, -0.70711, 0.70711))


def truth_at(stamp_ns: int) -> OccupancyPrediction:
    """A road, and a car that drives along x at 2 m/s."""
    labels = np.full(GRID.dims, FREE, np.uint8)
    labels[:, :, 1] = ROAD
    first = int(stamp_ns * 1e-9 * 2.0 / 0.5) % 24
    labels[first : first + 8, 20:24, 2:5] = CAR
    flow = np.zeros((*GRID.dims, 2), np.float32)
    flow[labels == CAR] = (2.0, 0.0)
    return OccupancyPrediction(
        stamp_ns=stamp_ns,
        frame_id="base_link",
        grid=GRID,
        ego_T_grid=np.eye(4),
        labels=labels,
        class_names=OCC3D.class_names,
        empty_class=FREE,
        flow=flow,
        model="ground truth",
    )


def guess_at(stamp_ns: int) -> OccupancyPrediction:
    """The ground truth without a strip of road."""
    truth = truth_at(stamp_ns)
    labels = truth.labels.copy()
    labels[:, :3, 1] = FREE
    return replace(truth, labels=labels, model="a model (12345678)", history_length=2)


SEEN = np.broadcast_to(np.arange(GRID.dims[0])[:, None, None] >= 16, GRID.dims)
"""Voxels that a camera sees: those ahead."""


@dataclass(frozen=True)
class SmallFootage:
    """Paths and contents of the recordings."""

    predictions: Path
    cameras: Path
    frames: list[CameraFrame]
    stamps: list[int]


def write_footage(folder: Path, count: int = 4, with_truth: bool = True) -> SmallFootage:
    """Write a bag of predictions, and a bag of a vehicle with ground truth."""
    rig = surround_rig(CAMERAS)
    frames = drive([10.0 + 0.5 * n for n in range(count)], rig)
    with BagWriter(folder / "predicted") as predicted, BagWriter(folder / "vehicle") as vehicle:
        mounts = [("base_link", optical_frame(c.name), c.ego_T_cam) for c in rig.cameras]
        mounts.append(("base_link", "lidar_top", BASE_T_LIDAR))
        vehicle.write_transforms(frames[0].stamp_ns, mounts, static=True)
        for frame in frames:
            for camera in rig.cameras:
                stamp = frame.stamps_ns[camera.name]
                image = frame.images[camera.name][..., ::-1]
                jpeg = cv2.imencode(".jpg", image)[1].tobytes()
                vehicle.write_camera(camera.name, stamp, jpeg)
                vehicle.write_camera_info(camera, stamp)
                vehicle.write_odometry(stamp, frame.world_T_ego[camera.name])
            points = points_at(frame.stamp_ns)
            vehicle.write_points("/lidar_top", frame.stamp_ns + 20_000_000, "lidar_top", points)
            predicted.write_occupancy(guess_at(frame.stamp_ns))
            if with_truth:
                truth = truth_at(frame.stamp_ns)
                vehicle.write_occupancy(truth, namespace="/ground_truth")
                labels = np.where(SEEN, truth.labels, np.uint8(UNKNOWN_CLASS))
                hidden = replace(truth, labels=labels, flow=None)
                vehicle.write_occupancy(hidden, namespace="/ground_truth_in_view")
    stamps = [frame.stamp_ns for frame in frames]
    return SmallFootage(folder / "predicted", folder / "vehicle", frames, stamps)


def points_at(stamp_ns: int) -> np.ndarray:
    """A lidar sweep (n, 5) in the lidar's frame, with one lost return."""
    rng = np.random.default_rng(stamp_ns % 2**32)
    points = rng.uniform(-8, 8, (50, 5)).astype(np.float32)
    points[:, 3] = np.arange(50)
    points[7, :3] = np.nan
    return points
