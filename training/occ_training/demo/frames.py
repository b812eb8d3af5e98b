"""Frames of the town as training wants them: small enough to keep thousands in memory.

Legend: N cameras, H, W network input size, h = H/16, w = W/16, X, Y, Z cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64, VoxelGrid, invert_transform
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.models.zoo import ModelCard
from occ_perception.synthetic.drive import KEYFRAME_PERIOD_S, Drive
from occ_perception.synthetic.labels import camera_mask, voxelise
from occ_perception.synthetic.render import develop_picture, draw_sensor
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions
from occ_perception.synthetic.town import Town

Float32 = NDArray[np.float32]

FEATURE_STRIDE = 16
_SKY = 17


@dataclass(frozen=True)
class Clip:
    """Consecutive keyframes of one drive.

    Attributes:
        town, drive: seeds.
        first: number of the first keyframe.
        frames: how many.
    """

    town: int
    drive: int
    first: int
    frames: int


@dataclass(frozen=True, eq=False)
class TownFrame:
    """One keyframe.

    Attributes:
        token: its name.
        crops_NHW3: uint8 RGB pictures at network input size.
        ego_T_cam_N44: float32, each camera at its own exposure to ego at the reference stamp.
        K_N33: float32 intrinsics at native size.
        world_T_ego: (4, 4) float64 at the reference stamp.
        depth_Nhw: float16 metres, nearest surface within each feature pixel, 0 = sky.
        classes_Nhw: uint8 class of that surface, 255 = sky.
        labels_XYZ: uint8 Occ3D classes at the reference stamp.
        seen_packed: bits of the camera mask over the flattened cells.
        moving: flattened indices of cells that move.
        velocities: (m, 2) float16, theirs.
    """

    token: str
    crops_NHW3: NDArray[np.uint8]
    ego_T_cam_N44: Float32
    K_N33: Float32
    world_T_ego: Float64
    depth_Nhw: NDArray[np.float16]
    classes_Nhw: NDArray[np.uint8]
    labels_XYZ: NDArray[np.uint8]
    seen_packed: NDArray[np.uint8]
    moving: NDArray[np.int32]
    velocities: NDArray[np.float16]


@lru_cache(maxsize=2)
def _town(seed: int) -> Town:
    return Town(seed)


def render_clip(clip: Clip, card: ModelCard) -> list[TownFrame]:
    """Render a clip with one thread; rigs differ a little from drive to drive.

    Args:
        clip: which frames.
        card: gives camera order, input size and grid.
    """
    rows, columns = card.preprocessing.input_size
    drive = Drive(_town(clip.town), clip.drive)
    options = SensorOptions(size=(columns, rows), jitter_rig=True, threads=1)
    sensors = DriveSensors(drive, options)
    first = clip.first
    times = [n * KEYFRAME_PERIOD_S for n in range(first, first + clip.frames)]
    return [_frame(sensors, card, clip, t) for t in times]


def _frame(sensors: DriveSensors, card: ModelCard, clip: Clip, t: float) -> TownFrame:
    pictures, depths, classes = zip(
        *(_look(sensors, name, t) for name in card.cameras), strict=True
    )
    when = sensors.reference_time(t)
    ego_T_world = invert_transform(sensors.drive.pose(when))
    cameras = [sensors.rig.camera(name) for name in card.cameras]
    poses = [
        ego_T_world @ sensors.drive.pose(sensors.exposure(camera.name, t)) @ camera.ego_T_cam
        for camera in cameras
    ]
    labels, seen, flow = _truth(sensors, card.grid, clip, when)
    moving = np.flatnonzero(np.any(flow != 0.0, axis=-1))
    input_K = np.stack([camera.K for camera in cameras])
    return TownFrame(
        token=f"{sensors.drive.name}-{round(t / KEYFRAME_PERIOD_S):03d}",
        crops_NHW3=np.stack(pictures),
        ego_T_cam_N44=np.stack(poses).astype(np.float32),
        K_N33=(np.linalg.inv(input_from_native(card)) @ input_K).astype(np.float32),
        world_T_ego=sensors.drive.pose(when),
        depth_Nhw=np.stack(depths),
        classes_Nhw=np.stack(classes),
        labels_XYZ=labels,
        seen_packed=np.packbits(seen),
        moving=moving.astype(np.int32),
        velocities=flow.reshape(-1, 2)[moving].astype(np.float16),
    )


def input_from_native(card: ModelCard) -> Float64:
    """(3, 3) native pixel -> network input pixel: scaled to the width, the bottom kept."""
    rows, columns = card.preprocessing.input_size
    native_rows, native_columns = card.preprocessing.native_size
    scale = columns / native_columns
    above = int(native_rows * scale) - rows
    return np.array([[scale, 0.0, 0.0], [0.0, scale, -float(above)], [0.0, 0.0, 1.0]])


def _look(
    sensors: DriveSensors, camera: str, t: float
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    """Picture, and nearest depth and its class per feature pixel."""
    when = sensors.exposure(camera, t)
    view = sensors.view(camera, when)
    seeds = (sensors.drive.town.seed, sensors.drive.index, round((when + 10) * 1e6))
    rng = random_for("demo sensor", *seeds, list(sensors.rig.names).index(camera))
    picture = develop_picture(view, draw_sensor(rng, int(rng.integers(1 << 20))))
    depth = view.depth(sensors.rig.camera(camera).K)
    depth = np.where((depth > 0.0) & (view.classes != _SKY), depth, np.inf)
    blocks, kinds = _blocks(depth), _blocks(view.classes)
    nearest = blocks.argmin(axis=-1)[..., None]
    depth_hw = np.take_along_axis(blocks, nearest, axis=-1)[..., 0]
    class_hw = np.take_along_axis(kinds, nearest, axis=-1)[..., 0]
    sky = np.isinf(depth_hw)
    return (
        picture,
        np.where(sky, 0.0, depth_hw).astype(np.float16),
        np.where(sky, UNKNOWN_CLASS, class_hw).astype(np.uint8),
    )


def _blocks(image_HW: NDArray[np.generic]) -> NDArray[np.generic]:
    """(h, w, 256): the pixels of each feature pixel."""
    s = FEATURE_STRIDE
    h, w = image_HW.shape[0] // s, image_HW.shape[1] // s
    return image_HW.reshape(h, s, w, s).transpose(0, 2, 1, 3).reshape(h, w, s * s)


def _truth(
    sensors: DriveSensors, grid: VoxelGrid, clip: Clip, when: float
) -> tuple[NDArray[np.uint8], NDArray[np.bool_], Float32]:
    """Labels, camera mask and flow at the reference stamp."""
    scene = sensors.drive.scene(when)
    labels, _, flow = voxelise(scene, grid)
    rig = synthetic_rig(jitter=random_for("rig", clip.town, clip.drive))
    return labels, camera_mask(scene, rig, grid, threads=1), flow
