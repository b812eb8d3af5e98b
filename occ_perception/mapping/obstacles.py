"""Obstacles of a prediction with their motion, and when the vehicle meets them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import Float64, transform_points
from occ_perception.labels import MOVING_CLASSES
from occ_perception.mapping.collision import EgoMotion, Footprint, times_to_collision
from occ_perception.mapping.ground import class_mask


@dataclass(frozen=True, eq=False)
class Obstacles:
    """Obstacle voxels, in the order of their indices.

    Attributes:
        positions: (n, 3) centres in the ego frame, metres.
        labels: (n,) uint8 class ids.
        velocities: (n, 2) float32 over ground along the ego axes, m/s; zero for classes that do not
            move, and without flow.
        times: (n,) float32 seconds until the vehicle meets the column of the voxel; inf if it does
            not within the horizon, or if its own motion is not known.
    """

    positions: Float64
    labels: NDArray[np.uint8]
    velocities: NDArray[np.float32]
    times: NDArray[np.float32]

    @property
    def soonest(self) -> int | None:
        """Number of the obstacle that is met first; None if none is met."""
        if not np.isfinite(self.times).any():
            return None
        return int(self.times.argmin())


def velocities_of(
    prediction: OccupancyPrediction, chosen_XYZ: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """(n, 2) velocities over ground along the ego axes of the chosen voxels, m/s, always finite.

    Zero for classes that do not move, without flow, and where the flow is not a number.
    """
    if prediction.flow is None:
        return np.zeros((int(chosen_XYZ.sum()), 2), np.float32)
    flow = prediction.flow[chosen_XYZ]
    moves = class_mask(prediction.class_names, MOVING_CLASSES)[prediction.labels[chosen_XYZ]]
    moves &= np.isfinite(flow).all(axis=1)
    velocities: NDArray[np.float32] = np.where(moves[:, None], flow, np.float32(0))
    return velocities


def find_obstacles(
    prediction: OccupancyPrediction,
    obstacles_XYZ: NDArray[np.bool_],
    motion: EgoMotion | None = None,
    footprint: Footprint | None = None,
    horizon_s: float = 8.0,
) -> Obstacles:
    """List obstacle voxels, with their velocities and the times to collision.

    A column moves as its fastest voxel: a vehicle's outline mixes with what stands beside it. It is
    met when the vehicle reaches its centre: a voxel is occupied as soon as something touches it,
    so the surface lies before the centre as often as behind it.

    Args:
        prediction: volume, and flow if there is one.
        obstacles_XYZ: which of its voxels are obstacles, see
            :func:`~occ_perception.mapping.costmap.view_from_ground`.
        motion: of the vehicle; None = unknown, so nothing is met.
        footprint: of the vehicle; None = that of a car.
        horizon_s: how far to look ahead, seconds.
    """
    grid = prediction.grid
    voxels = np.argwhere(obstacles_XYZ)
    labels = prediction.labels[obstacles_XYZ]
    velocities = velocities_of(prediction, obstacles_XYZ)
    positions = transform_points(prediction.ego_T_grid, grid.centers(voxels))
    times = np.full(len(voxels), np.inf, np.float32)
    if motion is not None and len(voxels):
        fastest_first = np.argsort(-np.hypot(*velocities.T), kind="stable")
        columns = voxels[:, 0] * grid.dims[1] + voxels[:, 1]
        _, first, column_of = np.unique(
            columns[fastest_first], return_index=True, return_inverse=True
        )
        chosen = fastest_first[first]
        met = times_to_collision(
            positions[chosen, :2],
            velocities[chosen].astype(np.float64),
            motion,
            footprint or Footprint(),
            horizon_s=horizon_s,
        )
        times[fastest_first] = met[column_of]
    return Obstacles(positions, labels, velocities, times)
