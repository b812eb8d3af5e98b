"""Frames of the synthetic town in memory, as a data set to train and evaluate on.

Nothing is written: a frame is the same for the same town, drive and time, so that a run that goes
on renders its frames again. Legend as in :mod:`occ_training.data.sample`; P lidar points.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from occ_perception.frames import CameraRig
from occ_perception.geometry import Float64, invert_transform, relative_motion, scale_intrinsics
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS
from occ_perception.metrics.rays import lidar_origins
from occ_perception.models.zoo import ModelCard
from occ_perception.sensing.point_maps import point_maps
from occ_perception.synthetic import OCC3D_GRID, Drive, DriveSensors, SensorOptions, Town
from occ_perception.synthetic.labels import camera_mask, voxelise
from occ_training.data.bev_augmentation import augment_labels
from occ_training.data.dataset import SampleOptions, Visit
from occ_training.data.grids import labels_on_grid
from occ_training.data.label_files import FrameLabels
from occ_training.data.pictures import PicturePlan, normalise
from occ_training.data.sample import Sample


@dataclass(frozen=True, eq=False)
class TownFrame:
    """Everything the sensors and the truth say at one moment, small enough to keep thousands.

    Attributes:
        sequence: name of the drive.
        stamp_ns: of the lidar.
        rig: cameras at the size of the pictures, and the lidar's mount.
        pictures: camera name -> (height, width, 3) uint8 RGB.
        world_T_ego: camera name -> (4, 4) ego pose at its exposure.
        world_T_grid: (4, 4) ego pose at the reference camera's exposure, where the labels lie.
        world_T_lidar_ego: (4, 4) ego pose at ``stamp_ns``.
        points_P3: float32, lidar frame.
        point_classes_P: uint8 Occ3D ids.
        semantics_XYZ: uint8 Occ3D ids on the Occ3D grid.
        camera_mask_bits: the camera mask, packed.
        moving_cells_M, velocities_M2: flat cells with a velocity, and it (float16, m/s).
    """

    sequence: str
    stamp_ns: int
    rig: CameraRig
    pictures: dict[str, NDArray[np.uint8]]
    world_T_ego: dict[str, Float64]
    world_T_grid: Float64
    world_T_lidar_ego: Float64
    points_P3: NDArray[np.float32]
    point_classes_P: NDArray[np.uint8]
    semantics_XYZ: NDArray[np.uint8]
    camera_mask_bits: NDArray[np.uint8]
    moving_cells_M: NDArray[np.int32]
    velocities_M2: NDArray[np.float16]

    @property
    def token(self) -> str:
        """Unique name."""
        return f"{self.sequence}-{self.stamp_ns}"

    def labels(self) -> FrameLabels:
        """Labels on the Occ3D grid."""
        shape = self.semantics_XYZ.shape
        count = int(np.prod(shape))
        mask = np.unpackbits(self.camera_mask_bits, count=count).astype(bool).reshape(shape)
        flow = np.zeros((count, 2), dtype=np.float32)
        flow[self.moving_cells_M] = self.velocities_M2
        return FrameLabels(
            self.semantics_XYZ.copy(), camera_mask_XYZ=mask, flow_XYZ2=flow.reshape(*shape, 2)
        )


def render_frame(sensors: DriveSensors, t: float) -> TownFrame:
    """What the sensors deliver for the lidar's time ``t`` (seconds of the drive)."""
    frame = sensors.frame(t)
    points = sensors.points(t)
    scene = sensors.drive.scene(sensors.reference_time(t))
    semantics, _, flow = voxelise(scene, OCC3D_GRID)
    seen = camera_mask(scene, sensors.rig, OCC3D_GRID, threads=sensors.options.threads)
    velocities = flow.reshape(-1, 2)
    moving = np.flatnonzero(velocities.any(axis=1)).astype(np.int32)
    return TownFrame(
        sequence=frame.sequence,
        stamp_ns=sensors.stamp_ns(t),
        rig=sensors.rig,
        pictures=dict(frame.images),
        world_T_ego=dict(frame.world_T_ego),
        world_T_grid=sensors.drive.pose(sensors.reference_time(t)),
        world_T_lidar_ego=sensors.drive.pose(t),
        points_P3=np.ascontiguousarray(points.points[:, :3]),
        point_classes_P=points.classes,
        semantics_XYZ=semantics,
        camera_mask_bits=np.packbits(seen),
        moving_cells_M=moving,
        velocities_M2=velocities[moving].astype(np.float16),
    )


def render_drive(
    town: int, drive: int, times: Iterable[float], options: SensorOptions | None = None
) -> list[TownFrame]:
    """Frames of one drive, in the order of ``times``; a process can be given this to do."""
    sensors = DriveSensors(Drive(Town(town), drive), options)
    return [render_frame(sensors, t) for t in times]


class TownDataset(torch.utils.data.Dataset[Sample]):
    """Town frames as samples of one model; see
    :class:`~occ_training.data.dataset.OccupancyDataset` for what the options mean.

    Args:
        frames: drive after drive, each in the order of time.
        card: cameras, preprocessing, grid; its classes must be Occ3D's.
        options: what is made of a frame, and how it is changed.

    Attributes:
        groups_F: (frames,) int64; a group is a drive, or a piece of one.

    Raises:
        ValueError: there are no frames, or the model has other classes.
    """

    def __init__(
        self, frames: Sequence[TownFrame], card: ModelCard, options: SampleOptions | None = None
    ) -> None:
        if not frames or card.labels.class_names != LABEL_SETS["occ3d"].class_names:
            raise ValueError(
                f"town frames ({len(frames)}) have Occ3D classes and ego-frame labels; "
                f"model {card.name} has those of {card.label_set}"
            )
        self.frames = list(frames)
        self.card = card
        self.options = options or SampleOptions()
        self._geometry = card.config.geometry
        self.groups_F = _groups(self.frames, self.options.pieces)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, item: int | Visit) -> Sample:
        """A frame; plain, or augmented from the seed, the frame and the visit."""
        index, visit = item if isinstance(item, tuple) else (item, 0)
        frame, options = self.frames[index], self.options
        rng = np.random.default_rng([options.seed, visit, index])
        plans = [self._plan(frame, name, rng) for name in self.card.cameras]
        bda_33 = np.eye(3) if options.bev is None else options.bev.draw(rng)
        previous = self._frame_before(index)
        start = index == 0 or bool(self.groups_F[index] != self.groups_F[index - 1])
        motion = np.eye(4)
        if not start:
            motion = relative_motion(self.frames[index - 1].world_T_grid, frame.world_T_grid)
        native_columns = self.card.preprocessing.native_size[1]
        maps = [plan.pixel_map(native_columns) for plan in plans]
        depth, classes = self._point_maps(frame, maps)
        labels = self._labels(frame, bda_33)
        matched = "previous_pictures" in options.contents
        return Sample(
            index=index,
            token=frame.token,
            sequence=frame.sequence,
            group=int(self.groups_F[index]),
            start=start,
            images_N3HW=self._images(frame, plans),
            grid_T_cam_N44=_float32(invert_transform(frame.world_T_grid) @ self._cameras(frame)),
            K_N33=_float32(np.stack([self._K(frame, name) for name in self.card.cameras])),
            image_rotation_N33=_float32(np.stack([matrix for matrix, _ in maps])),
            image_translation_N3=_float32(np.stack([offset for _, offset in maps])),
            bev_augmentation_33=_float32(bda_33),
            previous_T_current_44=torch.from_numpy(motion),
            previous_cam_T_cam_N44=torch.from_numpy(
                invert_transform(self._cameras(previous)) @ self._cameras(frame)
            ),
            matches_itself=previous is frame,
            previous_images_N3HW=self._images(previous, plans) if matched else None,
            depth_NHW=depth,
            semantics_NHW=classes,
            labels_XYZ=torch.from_numpy(labels.semantics_XYZ),
            camera_mask_XYZ=torch.from_numpy(labels.camera_mask_XYZ),
            flow_XYZ2=torch.from_numpy(labels.flow_XYZ2),
            lidar_origins_T3=self._ray_origins(index),
        )

    def _plan(self, frame: TownFrame, camera: str, rng: np.random.Generator) -> PicturePlan:
        calibration = frame.rig.camera(camera)
        size = (calibration.width, calibration.height)
        if self.options.image is None:
            return PicturePlan.plain(size, self.card.preprocessing)
        return self.options.image.draw(rng, size, self.card.preprocessing)

    def _images(self, frame: TownFrame, plans: Sequence[PicturePlan]) -> torch.Tensor:
        filter_name = self.card.preprocessing.interpolation
        crops = [
            plan.apply(frame.pictures[name], filter_name)
            for name, plan in zip(self.card.cameras, plans, strict=True)
        ]
        return normalise(np.stack(crops), self.card.preprocessing)

    def _cameras(self, frame: TownFrame) -> Float64:
        """(N, 4, 4) pose of every camera at its own exposure."""
        return np.stack(
            [frame.world_T_ego[n] @ frame.rig.camera(n).ego_T_cam for n in self.card.cameras]
        )

    def _K(self, frame: TownFrame, camera: str) -> Float64:
        calibration = frame.rig.camera(camera)
        native_columns = self.card.preprocessing.native_size[1]
        return scale_intrinsics(calibration.K, native_columns / calibration.width)

    def _frame_before(self, index: int) -> TownFrame:
        """The frame before in the drive, else itself."""
        frame = self.frames[index]
        before = self.frames[index - 1] if index else frame
        return before if before.sequence == frame.sequence else frame

    def _point_maps(
        self, frame: TownFrame, maps: Sequence[tuple[Float64, Float64]]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if not {"depth", "point_classes"} & set(self.options.contents):
            return None, None
        bins = self._geometry.depth
        world_T_lidar = frame.world_T_lidar_ego @ _lidar_mount(frame)
        found = [
            point_maps(
                frame.points_P3,
                frame.point_classes_P,
                invert_transform(world_T_cam) @ world_T_lidar,
                self._K(frame, name),
                pixel_map,
                self._geometry.input_size,
                (bins.lower, bins.upper),
                self.options.winners,
            )
            for name, world_T_cam, pixel_map in zip(
                self.card.cameras, self._cameras(frame), maps, strict=True
            )
        ]
        depth = torch.from_numpy(np.stack([m.depth_HW for m in found]))
        return depth, torch.from_numpy(
            np.stack([m.classes_HW for m in found if m.classes_HW is not None])
        )

    def _labels(self, frame: TownFrame, bda_33: Float64) -> FrameLabels:
        labels = frame.labels()
        if self.options.ignore_unseen == "camera":
            assert labels.camera_mask_XYZ is not None
            labels.semantics_XYZ[~labels.camera_mask_XYZ] = UNKNOWN_CLASS
        free = self.card.labels.empty_class
        labels = labels_on_grid(labels, OCC3D_GRID, self.card.grid, free)
        return augment_labels(labels, bda_33, self.card.grid)

    def _ray_origins(self, index: int) -> torch.Tensor | None:
        if "ray_origins" not in self.options.contents:
            return None
        frame = self.frames[index]
        drive = [f for f in self.frames if f.sequence == frame.sequence]
        origins = lidar_origins(
            np.stack([f.world_T_lidar_ego for f in drive]),
            np.stack([_lidar_mount(f) for f in drive]),
            drive.index(frame),
        )
        return torch.from_numpy(origins)


def _lidar_mount(frame: TownFrame) -> Float64:
    assert frame.rig.ego_T_lidar is not None
    return frame.rig.ego_T_lidar


def _groups(frames: Sequence[TownFrame], pieces: int) -> NDArray[np.int64]:
    """Numbers of the groups: drives cut into pieces of equal length, the last one shorter."""
    lengths: dict[str, int] = {}
    for frame in frames:
        lengths[frame.sequence] = lengths.get(frame.sequence, 0) + 1
    groups: list[int] = []
    for length in lengths.values():
        first = groups[-1] + 1 if groups else 0
        piece = -(-length // pieces)
        groups += [first + position // piece for position in range(length)]
    return np.array(groups, dtype=np.int64)


def _float32(array: Float64) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.float32))
