"""Times to collision against closed forms, and against a simulation in fine steps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from occ_perception.errors import OptionError
from occ_perception.mapping.collision import EgoMotion, Footprint, times_to_collision

CAR = Footprint(front=4.0, rear=1.0, left=1.0, right=1.0)


def times(places, velocities, motion: EgoMotion, **options) -> np.ndarray:
    return times_to_collision(
        np.array(places, float), np.array(velocities, float), motion, CAR, **options
    )


def test_straight_ahead_it_is_the_gap_over_the_closing_speed() -> None:
    found = times(
        [(24.0, 0.0), (24.0, 0.0), (24.0, 0.9), (24.0, 1.1), (-21.0, 0.0), (2.0, 0.0)],
        [(0.0, 0.0), (5.0, 0.0), (0.0, 0.0), (0.0, 0.0), (20.0, 0.0), (0.0, 0.0)],
        EgoMotion(10.0, 0.0),
    )
    assert found == pytest.approx([2.0, 4.0, 2.0, np.inf, 2.0, 0.0], abs=0.002)


def test_a_crossing_point_is_met_only_if_both_are_there_at_once() -> None:
    # It reaches the left side after 1.5 s, when the front is at 19 m and the rear at 14 m.
    crossing = [(-0.0, -2.0)]
    assert times([(16.0, 4.0)], crossing, EgoMotion(10.0, 0.0)) == pytest.approx([1.5], abs=0.002)
    assert times([(30.0, 4.0)], crossing, EgoMotion(10.0, 0.0))[0] == np.inf, "it has passed"


def test_size_and_horizon() -> None:
    assert times([(9.0, 0.0)], [(0, 0)], EgoMotion(1.0, 0.0), reach=0.2) == pytest.approx(
        [4.8], abs=0.002
    )
    assert times([(9.0, 0.0)], [(0, 0)], EgoMotion(1.0, 0.0), horizon_s=4.5)[0] == np.inf
    assert times(np.zeros((0, 2)), np.zeros((0, 2)), EgoMotion(1.0, 0.0)).shape == (0,)


def test_a_standing_vehicle_meets_only_what_comes() -> None:
    found = times([(10.0, 0.0), (10.0, 0.0)], [(-2.0, 0.0), (2.0, 0.0)], EgoMotion(0.0, 0.0))
    assert found == pytest.approx([3.0, np.inf], abs=0.002)


def test_what_is_fast_is_met_between_two_coarse_looks() -> None:
    """7.5 m to the left after 0.5 s, and 7.5 m to the right after 1 s."""
    found = times([(2.0, 22.5)], [(0.0, -30.0)], EgoMotion(0.0, 0.0))
    assert found == pytest.approx([21.5 / 30.0], abs=0.002)


def test_on_a_curve_the_course_is_an_arc() -> None:
    """A quarter of a circle of 20 m to the left ends at (20, 20), heading along y."""
    motion = EgoMotion(10.0, 0.5)
    x, y, heading = motion.poses(np.array([math.pi]))
    assert [x[0], y[0], heading[0]] == pytest.approx([20.0, 20.0, math.pi / 2])
    found = times([(20.0, 24.0), (40.0, 0.0)], [(0.0, 0.0)] * 2, motion)
    assert found == pytest.approx([math.pi, np.inf], abs=0.002)


finite = st.floats(-30.0, 30.0)


@given(st.tuples(finite, finite), st.tuples(finite, finite), st.floats(-5, 20), st.floats(-1, 1))
def test_it_agrees_with_a_simulation_in_fine_steps(place, velocity, speed, turn_rate) -> None:
    found = float(times([place], [velocity], EgoMotion(speed, turn_rate))[0])
    # Integrate the motion step by step, in the frame of the moving vehicle.
    step, x, y, heading = 0.002, 0.0, 0.0, 0.0
    inside = np.zeros(4001, bool)
    for n in range(4001):
        dx, dy = place[0] + n * step * velocity[0] - x, place[1] + n * step * velocity[1] - y
        along = math.cos(heading) * dx + math.sin(heading) * dy
        across = math.cos(heading) * dy - math.sin(heading) * dx
        inside[n] = -1.0 <= along <= 4.0 and abs(across) <= 1.0
        middle = heading + 0.5 * step * turn_rate
        x, y = x + step * speed * math.cos(middle), y + step * speed * math.sin(middle)
        heading += step * turn_rate
    if not inside.any():
        assert found == np.inf
        return
    first = float(np.argmax(inside)) * step
    # Steps of 0.05 s cannot see a shorter contact.
    if np.argmin(inside[np.argmax(inside) :]) * step > 0.06:
        assert found == pytest.approx(first, abs=0.01)


@given(st.floats(-20, 20), st.floats(-0.8, 0.8), st.floats(0.05, 2.0))
def test_motion_between_two_poses_of_an_arc_is_that_arc(speed, turn_rate, seconds) -> None:
    x, y, heading = EgoMotion(speed, turn_rate).poses(np.array([seconds]))
    later = np.eye(4)
    c, s = math.cos(heading[0]), math.sin(heading[0])
    later[:2, :2] = (c, -s), (s, c)
    later[:2, 3] = x[0], y[0]
    found = EgoMotion.between(np.eye(4), later, seconds)
    assert found.speed == pytest.approx(speed, abs=1e-6)
    assert found.turn_rate == pytest.approx(turn_rate, abs=1e-6)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(OptionError, match="expected four positive lengths"):
        Footprint(front=0.0)
    with pytest.raises(ValueError, match="expected more than 0"):
        EgoMotion.between(np.eye(4), np.eye(4), 0.0)
