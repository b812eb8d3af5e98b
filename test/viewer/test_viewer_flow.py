"""Flow as hue: the direction gives the hue, the speed the saturation."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.viewer.flow_views import FULL_SPEED, flow_colours, flow_view, flow_wheel
from occ_perception.viewer.views import ViewerError

GRID = VoxelGrid((-10.0, -10.0, -1.0), (1.0, 1.0, 1.0), (20, 20, 4))
NAMES = ("car", "driveable_surface", "vegetation", "free")
CAR, ROAD, TREE, FREE = range(4)


def scene(velocity: tuple[float, float]) -> OccupancyPrediction:
    """A road with a car ahead and to the left, below a tree, and one that stands."""
    labels = np.full(GRID.dims, FREE, np.uint8)
    labels[:, :, 0] = ROAD
    labels[15:18, 14:16, 1] = CAR
    labels[15:18, 14:16, 3] = TREE
    labels[3:6, 3:5, 1] = CAR
    flow = np.zeros((*GRID.dims, 2), np.float32)
    flow[15:18, 14:16, 1] = velocity
    return OccupancyPrediction(0, "base_link", GRID, np.eye(4), labels, NAMES, FREE, flow)


def hue_and_strength(rgb: np.ndarray) -> tuple[float, float]:
    hue, strength, _ = colorsys.rgb_to_hsv(*(rgb / 255))
    return hue, strength


def colour_at(view, x: float, y: float) -> np.ndarray:
    column, row = view.pixel(y, x)
    return view.rgb[int(row), int(column)]


@pytest.mark.parametrize("angle_deg", range(0, 360, 30))
def test_hue_is_the_direction_and_strength_the_speed(angle_deg: int) -> None:
    angle = np.radians(angle_deg)
    for speed in (0.3 * FULL_SPEED, FULL_SPEED, 3 * FULL_SPEED):
        rgb = flow_colours(speed * np.array([np.cos(angle), np.sin(angle)]))
        hue, strength = hue_and_strength(rgb)
        off = (hue - angle_deg / 360 + 0.5) % 1 - 0.5
        assert abs(off) < 0.03
        assert strength == pytest.approx(min(speed / FULL_SPEED, 1), abs=0.1)


@pytest.mark.parametrize("pixels", [20, 80])
def test_a_car_below_a_tree_is_seen_where_it_is(pixels: int) -> None:
    view = flow_view(scene((6.0, 0.0)), pixels)
    assert view.rgb.shape == (pixels, pixels, 3)
    np.testing.assert_array_equal(colour_at(view, 6.5, 4.9), flow_colours(np.array([6.0, 0.0])))
    standing = colour_at(view, -5.5, -6.1)
    assert np.ptp(standing) == 0
    road = colour_at(view, 0.5, 0.5)
    assert np.ptp(road.astype(int)) < 12
    assert road.mean() > standing.mean() + 50


def test_the_wheel_shows_forward_up_and_left_to_the_left() -> None:
    wheel = flow_wheel(41)
    for (row, column), direction in {
        (1, 20): (1, 0), (20, 1): (0, 1), (39, 20): (-1, 0), (20, 39): (0, -1),
    }.items():  # fmt: skip
        expected = flow_colours(0.95 * FULL_SPEED * np.array(direction, float))
        np.testing.assert_array_equal(wheel[row, column], expected)


def test_a_prediction_without_flow_is_refused() -> None:
    prediction = scene((1.0, 0.0))
    object.__setattr__(prediction, "flow", None)
    with pytest.raises(ViewerError, match="has no flow"):
        flow_view(prediction)
