"""A 32-beam lidar in the scene: points with intensity, ring, class and instance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.synthetic.drive import Scene
from occ_perception.synthetic.kernels import columns

BEAMS, COLUMNS = 32, 1085
LOWEST, HIGHEST = -30.67, 10.67
"""Elevation of the first and last beam, degrees."""
NEAREST, FARTHEST = 0.5, 100.0
_RANGE_NOISE = 0.02
_DROPOUT = 0.05


@dataclass(frozen=True, eq=False)
class LidarSweep:
    """One rotation of the sensor: every ray, before noise.

    Attributes:
        world_T_lidar: (4, 4) sensor pose, the same for the whole rotation.
        rays: (n, 3) unit directions in the lidar frame; column by column, rings within a column.
        exact_ranges: (n,) metres; FARTHEST for rays without a return.
        classes: (n,) uint8 Occ3D class; free for rays without a return.
        instances: (n,) int32 instance ids, 0 = none.
        brightness: (n,) 0..1.
    """

    world_T_lidar: Float64
    rays: Float64
    exact_ranges: Float64
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]
    brightness: Float64


@dataclass(frozen=True, eq=False)
class LidarPoints:
    """The points that the sensor reports.

    Attributes:
        points: (n, 5) float32 x, y, z in the lidar frame (metres), intensity 0..255, ring.
        classes: (n,) uint8 Occ3D class of each point.
        instances: (n,) int32 instance of each point, 0 = none.
    """

    points: NDArray[np.float32]
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]


def lidar_rays() -> Float64:
    """(BEAMS * COLUMNS, 3) unit directions in the lidar frame."""
    elevation = np.radians(np.linspace(LOWEST, HIGHEST, BEAMS))
    azimuth = -2 * np.pi * np.arange(COLUMNS) / COLUMNS
    flat = np.cos(elevation)[None]
    x = np.cos(azimuth)[:, None] * flat
    y = np.sin(azimuth)[:, None] * flat
    z = np.broadcast_to(np.sin(elevation)[None], x.shape)
    return np.ascontiguousarray(np.stack([x, y, z], axis=-1).reshape(-1, 3))


def ray_sweep(scene: Scene, ego_T_lidar: Float64) -> LidarSweep:
    """Cast the rays of one rotation into a scene."""
    from occ_perception.synthetic.kernels.volumes import sweep

    world_T_lidar = scene.world_T_ego @ ego_T_lidar
    rays = lidar_rays()
    count = len(rays)
    result = LidarSweep(
        world_T_lidar,
        rays,
        np.empty(count),
        np.empty(count, np.uint8),
        np.empty(count, np.int32),
        np.empty(count),
    )
    sweep(
        scene.world,
        np.ascontiguousarray(world_T_lidar[:3, 3]),
        np.ascontiguousarray(rays @ world_T_lidar[:3, :3].T),
        FARTHEST,
        result.exact_ranges,
        result.classes,
        result.instances,
        result.brightness,
    )
    return result


def sense(sweep: LidarSweep, rng: np.random.Generator) -> LidarPoints:
    """The reported points of a sweep: 2 cm range noise, 5 % lost returns, none from the sky."""
    count = len(sweep.rays)
    noise = rng.normal(0.0, _RANGE_NOISE, count)
    kept = rng.random(count) >= _DROPOUT
    kept &= (sweep.classes != columns.FREE) & (sweep.exact_ranges > NEAREST)
    kept &= sweep.exact_ranges < FARTHEST
    ranges = sweep.exact_ranges[kept] + noise[kept]
    points = np.empty((int(kept.sum()), 5), np.float32)
    points[:, :3] = sweep.rays[kept] * ranges[:, None]
    points[:, 3] = np.round(255 * np.clip(sweep.brightness[kept], 0, 1))
    points[:, 4] = np.tile(np.arange(BEAMS), COLUMNS)[kept]
    return LidarPoints(points, sweep.classes[kept], sweep.instances[kept])
