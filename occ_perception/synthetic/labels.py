"""Occupancy, instances, flow and masks of a scene, exact by construction.

A voxel is occupied if a solid touches it, so nearly every visible surface lies in an occupied
voxel. Buildings are hollow; vehicles, people and tree crowns are not. Class ids are those of
Occ3D-nuScenes (arXiv 2304.14365). The OpenOcc variant has the order of that set and no ``others``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import CameraRig
from occ_perception.geometry import Float64, VoxelGrid, invert_transform
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.drive import Drive, Scene
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.lidar import LidarSweep, ray_sweep
from occ_perception.synthetic.render import default_threads

Mask = NDArray[np.bool_]

OCC3D_GRID = VoxelGrid.from_ranges((-40.0, 40.0, 0.4), (-40.0, 40.0, 0.4), (-1.0, 5.4, 0.4))
CAMERA_MASK_RANGE = 80.0
LIDAR_MASK_SPAN_S = 2.0

_PRIORITY = {
    columns.FREE: 0,
    columns.DRIVEABLE: 1,
    columns.OTHER_FLAT: 1,
    columns.SIDEWALK: 1,
    columns.TERRAIN: 1,
    columns.VEGETATION: 2,
    columns.MANMADE: 3,
    columns.CAR: 5,
    columns.BUS: 5,
    columns.TRUCK: 5,
    columns.TRAILER: 5,
    columns.OTHERS: 6,
    columns.CONSTRUCTION_VEHICLE: 8,
    columns.TRAFFIC_CONE: 9,
    columns.BARRIER: 9,
    columns.BICYCLE: 9,
    columns.MOTORCYCLE: 9,
    columns.PEDESTRIAN: 9,
}
PRIORITY = np.array([_PRIORITY[n] for n in range(columns.FREE + 1)], dtype=np.int64)
"""Priority of classes in a voxel that several solids touch: the highest wins; thin objects lead."""


@dataclass(frozen=True, eq=False)
class OccupancyLabels:
    """Labels at one time, in the ego frame at that time.

    Attributes:
        grid: voxel layout in ego axes.
        semantics: (X, Y, Z) uint8 Occ3D class ids, 17 free.
        instances: (X, Y, Z) int32 instance ids of the drive, 0 = none.
        flow: (X, Y, Z, 2) float32 velocity over ground (vx, vy) along the ego axes, m/s; one
            vector per instance, exactly zero elsewhere.
        mask_camera: (X, Y, Z) whether any camera sees the voxel.
        mask_lidar: (X, Y, Z) whether the lidar sees it within two seconds.
    """

    grid: VoxelGrid
    semantics: NDArray[np.uint8]
    instances: NDArray[np.int32]
    flow: NDArray[np.float32]
    mask_camera: Mask
    mask_lidar: Mask

    @property
    def mask_like_occ3d(self) -> Mask:
        """(X, Y, Z) voxels seen by camera and lidar; Occ3D's camera mask lies in its lidar mask."""
        return self.mask_camera & self.mask_lidar


@dataclass(frozen=True, eq=False)
class OpenOccLabels:
    """The same labels in the format of OpenOcc.

    Attributes:
        semantics: (X, Y, Z) uint8 in OpenOcc's order, 16 free; ``others`` is mapped to free.
        instances: (X, Y, Z): movable objects 1..n, then one number per stuff class, 0 free; uint8
            unless there are more than 255.
        flow: (X, Y, Z, 2) float32.
    """

    semantics: NDArray[np.uint8]
    instances: NDArray[np.uint8] | NDArray[np.uint16]
    flow: NDArray[np.float32]


def _openocc_table() -> NDArray[np.uint8]:
    names = LABEL_SETS["openocc"].class_names
    free = LABEL_SETS["openocc"].empty_class
    order = [
        names.index(name) if name in names else free for name in LABEL_SETS["occ3d"].class_names
    ]
    return np.array(order, dtype=np.uint8)


OPENOCC_OF_OCC3D = _openocc_table()
"""OpenOcc id of each Occ3D id."""


def openocc_labels(labels: OccupancyLabels) -> OpenOccLabels:
    """The OpenOcc variant of a frame's labels."""
    semantics = OPENOCC_OF_OCC3D[labels.semantics]
    present = np.unique(labels.instances)
    numbers = np.zeros(int(present[-1]) + 1, dtype=np.int64)
    movers = present[present > 0]
    numbers[movers] = np.arange(1, len(movers) + 1)
    instances = numbers[labels.instances]
    free = LABEL_SETS["openocc"].empty_class
    count = len(movers)
    for class_id in np.unique(semantics[(instances == 0) & (semantics != free)]):
        count += 1
        instances[(instances == 0) & (semantics == class_id)] = count
    kind = np.uint8 if count <= 255 else np.uint16
    return OpenOccLabels(semantics, instances.astype(kind), labels.flow)


def voxelise(
    scene: Scene, grid: VoxelGrid = OCC3D_GRID
) -> tuple[NDArray[np.uint8], NDArray[np.int32], NDArray[np.float32]]:
    """Semantics (X, Y, Z), instances (X, Y, Z) and flow (X, Y, Z, 2) of a scene."""
    from occ_perception.synthetic.kernels.volumes import fill_ground, fill_solids

    semantics = np.full(grid.dims, columns.FREE, dtype=np.uint8)
    instances = np.zeros(grid.dims, dtype=np.int32)
    lower, size = np.array(grid.lower), np.array(grid.voxel_size)
    pose = np.ascontiguousarray(scene.world_T_ego)
    votes = np.empty((grid.dims[2], columns.FREE), dtype=np.uint8)
    fill_ground(scene.world, pose, lower, size, votes, semantics)
    fill_solids(scene.world, pose, lower, size, PRIORITY, semantics, instances)
    over_ground = np.zeros((len(scene.velocities), 3))
    over_ground[:, :2] = scene.velocities
    in_ego = (over_ground @ pose[:3, :3])[:, :2].astype(np.float32)
    return semantics, instances, in_ego[instances]


def camera_mask(
    scene: Scene,
    rig: CameraRig,
    grid: VoxelGrid = OCC3D_GRID,
    stride: int = 4,
    stop_at: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> Mask:
    """(X, Y, Z) voxels that the rig's images see at the scene's time.

    Args:
        scene: the world.
        rig: cameras; use those of uncropped images.
        grid: voxel layout in ego axes.
        stride: pixels between rays.
        stop_at: (X, Y, Z) labels; rays end at their first occupied voxel, as in Occ3D. With None
            they end at the surface itself, which leaves no stripes on rising ground.
        threads: None = all CPUs.
    """
    from occ_perception.synthetic.kernels.volumes import observe_rows

    mask = np.zeros(grid.dims, dtype=np.uint8)
    labels = np.zeros((1, 1, 1), dtype=np.uint8) if stop_at is None else stop_at
    lower, size = np.array(grid.lower), np.array(grid.voxel_size)
    pose = np.ascontiguousarray(scene.world_T_ego)

    def task(job: tuple[int, int]) -> None:
        camera = rig.cameras[job[0]]
        K = camera.K
        observe_rows(
            scene.world,
            pose,
            pose @ camera.ego_T_cam,
            (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])),
            job[1],
            min(job[1] + 30 * stride, camera.height),
            camera.width,
            stride,
            CAMERA_MASK_RANGE,
            lower,
            size,
            labels,
            stop_at is not None,
            mask,
        )

    jobs = [
        (index, row)
        for index, camera in enumerate(rig.cameras)
        for row in range(0, camera.height, 30 * stride)
    ]
    # Threads only write ones, so their order does not matter.
    with ThreadPoolExecutor(threads or default_threads()) as pool:
        list(pool.map(task, jobs))
    return mask.astype(bool)


class LidarMasks:
    """Lidar masks along a drive; sweeps of static solids are cached between frames."""

    def __init__(self, drive: Drive, ego_T_lidar: Float64, grid: VoxelGrid = OCC3D_GRID) -> None:
        self._drive = drive
        self._ego_T_lidar = ego_T_lidar
        self._grid = grid
        self._static: dict[float, LidarSweep] = {}

    def at(self, t: float, current: LidarSweep) -> Mask:
        """(X, Y, Z) voxels seen by the sweep at ``t`` and by static sweeps within 2 s of it."""
        from occ_perception.synthetic.kernels.volumes import observe_points

        mask = np.zeros(self._grid.dims, dtype=np.uint8)
        nothing = np.zeros((1, 1, 1), dtype=np.uint8)
        lower, size = np.array(self._grid.lower), np.array(self._grid.voxel_size)
        ego_T_world = invert_transform(self._drive.pose(t))
        near = np.arange(-LIDAR_MASK_SPAN_S, LIDAR_MASK_SPAN_S + 1e-9, 0.5)
        times = [round(t + float(offset), 6) for offset in near if abs(offset) > 1e-9]
        for sweep in (current, *(self._static_sweep(time) for time in times)):
            origin = ego_T_world[:3, :3] @ sweep.world_T_lidar[:3, 3] + ego_T_world[:3, 3]
            turn = ego_T_world[:3, :3] @ sweep.world_T_lidar[:3, :3]
            directions = np.ascontiguousarray(sweep.rays @ turn.T)
            reach = sweep.exact_ranges + 0.12
            observe_points(origin, directions, reach, lower, size, nothing, mask)
        kept = {time: self._static[time] for time in times}
        self._static = kept
        return mask.astype(bool)

    def _static_sweep(self, t: float) -> LidarSweep:
        if t not in self._static:
            scene = self._drive.scene(t, moving=False)
            self._static[t] = ray_sweep(scene, self._ego_T_lidar)
        return self._static[t]
