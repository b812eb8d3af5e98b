"""Paths and speeds in closed form agree with time stepping."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.synthetic.paths import joined, path_through, speed_profile

phase = st.tuples(st.floats(0.1, 6.0), st.floats(-1.9, 1.9))


@given(st.floats(0.0, 12.0), st.lists(phase, max_size=5), st.floats(0.0, 25.0))
def test_distance_is_the_integral_of_speed(speed, phases, end) -> None:
    profile = speed_profile(speed, phases)
    times = np.linspace(0.0, end, 4001)
    speeds = np.array([profile.speed(float(t)) for t in times])
    stepped = float(np.sum(0.5 * (speeds[1:] + speeds[:-1]) * np.diff(times)))
    scale = 1.0 + np.abs(speeds).max() * end
    assert abs(profile.distance(end) - stepped) < 1e-3 * scale
    assert profile.distance(-0.5) == -0.5 * speed


@settings(max_examples=40)
@given(st.floats(-1.2, 1.2), st.floats(5.0, 12.0), st.sampled_from([-1, 1]))
def test_a_turn_is_smooth_and_follows_both_lanes(skew, radius, side) -> None:
    u = np.arange(-60, 60, 0.25)
    angle = side * (np.pi / 2 + 0.25 * skew)
    first = np.stack([u, np.zeros_like(u)], axis=-1)
    second = np.stack([u * np.cos(angle), u * np.sin(angle)], axis=-1)
    way = joined(first, second, radius)
    assert way is not None
    points, begin, end = way
    path = path_through(points)
    s = np.arange(0, path.length, 0.5)
    rows = path.at(s)
    steps = np.linalg.norm(np.diff(rows[:, :2], axis=0), axis=1)
    assert np.allclose(steps, 0.5, atol=0.01)
    turned = rows[-1, 2] - rows[0, 2]
    assert abs(turned - angle) < 1e-3
    curvature = np.abs(np.diff(rows[:, 2])) / 0.5
    assert curvature.max() < 2.2 / radius
    assert radius < end - begin < 2.2 * radius
    assert np.abs(rows[s < begin - 1][:, 1]).max() < 1e-6
