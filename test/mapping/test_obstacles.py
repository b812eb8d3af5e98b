"""Obstacles of a volume: positions, velocities, and the time until they are met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.mapping.collision import EgoMotion, Footprint
from occ_perception.mapping.obstacles import find_obstacles

GRID = VoxelGrid((-20.0, -10.0, -1.0), (0.5, 0.5, 0.5), (100, 40, 6))
NAMES = ("free", "car", "manmade")
CAR = Footprint(front=4.0, rear=1.0, left=1.0, right=1.0)


def scene() -> tuple[OccupancyPrediction, np.ndarray]:
    """A car 20 m ahead that drives at 5 m/s, and a wall to the left."""
    labels = np.zeros(GRID.dims, np.uint8)
    flow = np.zeros((*GRID.dims, 2), np.float32)
    x, y, _ = GRID.indices([20.2, 0.2, 0.0])
    labels[x : x + 3, y - 1 : y + 1, 2:4] = 1
    labels[:, 35, 1:5] = 2
    flow[..., 0] = 5.0  # a network gives every voxel some
    prediction = OccupancyPrediction(
        stamp_ns=0,
        frame_id="base_link",
        grid=GRID,
        ego_T_grid=np.eye(4),
        labels=labels,
        class_names=NAMES,
        empty_class=0,
        flow=flow,
    )
    return prediction, labels > 0


def test_the_car_ahead_is_met_first_and_the_wall_never() -> None:
    prediction, voxels = scene()
    found = find_obstacles(prediction, voxels, EgoMotion(10.0, 0.0), CAR)
    np.testing.assert_array_equal(
        prediction.labels[tuple(GRID.indices(found.positions).T)], found.labels
    )
    car = found.labels == 1
    assert (found.velocities[car] == (5.0, 0.0)).all() and not found.velocities[~car].any()
    # The nearest voxels of the car have their centres at 20.25 m.
    assert found.times[car].min() == pytest.approx((20.25 - 4.0) / 5.0, abs=0.01)
    assert (found.times[~car] == np.inf).all()
    assert found.soonest is not None and found.labels[found.soonest] == 1


def test_without_flow_it_stands_and_without_motion_nothing_is_met() -> None:
    prediction, voxels = scene()
    still = find_obstacles(replace(prediction, flow=None), voxels, EgoMotion(10.0, 0.0), CAR)
    assert not still.velocities.any()
    assert still.times.min() == pytest.approx(1.625, abs=0.01)
    unknown = find_obstacles(prediction, voxels)
    assert unknown.soonest is None and (unknown.times == np.inf).all()
    nothing = find_obstacles(prediction, np.zeros_like(voxels), EgoMotion(10.0, 0.0))
    assert nothing.soonest is None and nothing.positions.shape == (0, 3)


def test_a_column_moves_as_its_fastest_voxel() -> None:
    prediction, voxels = scene()
    x, y, _ = GRID.indices([20.2, 0.2, 0.0])
    prediction.labels[x, y, 5] = 2
    voxels[x, y, 5] = True
    found = find_obstacles(prediction, voxels, EgoMotion(10.0, 0.0), CAR)
    column = (GRID.indices(found.positions)[:, :2] == (x, y)).all(axis=1)
    assert len(np.unique(found.times[column])) == 1
    assert found.times[column][0] == pytest.approx(3.25, abs=0.01)


def test_a_turned_grid_gives_the_same_in_the_ego_frame() -> None:
    prediction, voxels = scene()
    turn = np.eye(4)
    turn[:2, :2] = (0.0, -1.0), (1.0, 0.0)
    turned = replace(prediction, ego_T_grid=turn)
    flow = turned.flow
    assert flow is not None
    flow[...] = (0.0, 5.0)
    # Seen in ego, the car is 20 m to the left and drives away from there; nothing is ahead.
    found = find_obstacles(turned, voxels, EgoMotion(10.0, 0.0), CAR)
    assert found.positions[found.labels == 1].mean(axis=0)[1] == pytest.approx(20.75)
    assert found.times[found.labels == 1].min() == np.inf


def test_a_flow_that_is_not_a_number_is_no_motion() -> None:
    prediction, voxels = scene()
    assert prediction.flow is not None
    prediction.flow[prediction.labels == 1, 1] = np.nan
    found = find_obstacles(prediction, voxels, EgoMotion(10.0, 0.0), CAR)
    assert not found.velocities.any()
    assert found.times[found.labels == 1].min() == pytest.approx(1.625, abs=0.01)
