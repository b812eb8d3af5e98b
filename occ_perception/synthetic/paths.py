"""Paths by arc length and speeds by time: motion in closed form, without time stepping."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from occ_perception.geometry import Float64
from occ_perception.synthetic.streets import EDGE, Road

STEP = 0.5
"""Spacing of a path's samples, metres; a curve of 70 m radius deviates from its chord by 0.5 mm."""


@dataclass(frozen=True, eq=False)
class Path:
    """A curve sampled every STEP metres: positions (n, 2) and continuous headings (n,)."""

    points: Float64
    headings: Float64

    @property
    def length(self) -> float:
        """Length in metres."""
        return STEP * (len(self.points) - 1)

    def at(self, s: ArrayLike) -> Float64:
        """(..., 3) x, y, heading at arc lengths ``s``, clipped to the ends."""
        position = np.clip(np.asarray(s, dtype=np.float64) / STEP, 0.0, len(self.points) - 1.001)
        i = position.astype(np.int64)
        f = (position - i)[..., None]
        rows = np.concatenate([self.points, self.headings[:, None]], axis=1)
        return np.asarray(rows[i] * (1 - f) + rows[i + 1] * f)


def path_through(points: Float64) -> Path:
    """A path along a polyline (n, 2) of closely spaced points."""
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    keep = np.concatenate([[True], steps > 1e-6])
    points = points[keep]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    s = np.arange(0.0, along[-1], STEP)
    resampled = np.stack([np.interp(s, along, points[:, k]) for k in (0, 1)], axis=-1)
    tangent = np.gradient(resampled, axis=0)
    headings = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    return Path(resampled, headings)


def lane_points(road: Road, offset: float, direction: int) -> Float64:
    """(n, 2) points along a road at an offset from its centre line, in the direction of travel."""
    u = np.arange(-EDGE, EDGE + 1e-9, 0.25)
    points = road.points(u, offset)
    return points if direction > 0 else points[::-1]


def joined(first: Float64, second: Float64, radius: float) -> tuple[Float64, float, float] | None:
    """Connect two crossing polylines by an arc.

    Args:
        first: (n, 2) approach, through the crossing and beyond.
        second: (m, 2) the lane to turn into, from before the crossing on.
        radius: distance from the crossing at which the arc begins and ends, metres.

    Returns:
        points of the whole path, and the arc lengths at which the arc begins and ends; None if the
        two do not cross, or cross too close to their ends.
    """
    gaps, nearest = cKDTree(second).query(first)
    i = int(gaps.argmin())
    j = int(nearest[i])
    if gaps[i] > 0.5:
        return None
    along_first = _arc_lengths(first)
    along_second = _arc_lengths(second)
    before = first[along_first < along_first[i] - radius]
    after = second[along_second > along_second[j] + radius]
    if len(before) < 2 or len(after) < 2:
        return None
    # A cubic with these handles follows a quarter circle to 0.03 % of its radius.
    handle = 0.5523 * radius
    entry = (before[-1] - before[-2]) / np.linalg.norm(before[-1] - before[-2])
    leave = (after[1] - after[0]) / np.linalg.norm(after[1] - after[0])
    f = np.linspace(0, 1, 60)[1:-1, None]
    arc = (
        (1 - f) ** 3 * before[-1]
        + 3 * f * (1 - f) ** 2 * (before[-1] + handle * entry)
        + 3 * f**2 * (1 - f) * (after[0] - handle * leave)
        + f**3 * after[0]
    )
    points = np.concatenate([before, arc, after])
    lengths = _arc_lengths(points)
    return points, float(lengths[len(before) - 1]), float(lengths[len(before) + len(arc)])


def _arc_lengths(points: Float64) -> Float64:
    steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.concatenate([[0.0], np.cumsum(steps)])


@dataclass(frozen=True)
class SpeedProfile:
    """Distance over time from phases of constant acceleration.

    Attributes:
        starts: start of each phase in seconds, ascending from 0; the last phase never ends.
        distances, speeds: at the beginning of each phase, metres and m/s.
        accelerations: during each phase, m/s².
    """

    starts: tuple[float, ...]
    distances: tuple[float, ...]
    speeds: tuple[float, ...]
    accelerations: tuple[float, ...]

    def distance(self, t: float) -> float:
        """Distance covered at time ``t``; before 0 the first speed is continued backwards."""
        n = max(sum(start <= t for start in self.starts) - 1, 0)
        dt = t - self.starts[n]
        return self.distances[n] + dt * (self.speeds[n] + 0.5 * dt * self._acceleration(n, t))

    def speed(self, t: float) -> float:
        """Speed at time ``t``, m/s."""
        n = max(sum(start <= t for start in self.starts) - 1, 0)
        return self.speeds[n] + (t - self.starts[n]) * self._acceleration(n, t)

    def _acceleration(self, n: int, t: float) -> float:
        return self.accelerations[n] if t >= 0 else 0.0


def speed_profile(speed: float, phases: list[tuple[float, float]]) -> SpeedProfile:
    """Profile that starts with ``speed`` (m/s) and goes through (duration s, acceleration m/s²).

    After the last phase the speed reached is kept.
    """
    t = s = 0.0
    rows = []
    for duration, acceleration in phases:
        if duration <= 0:
            continue
        rows.append((t, s, speed, acceleration))
        s += duration * (speed + 0.5 * duration * acceleration)
        speed = speed + duration * acceleration
        if speed < 1e-9:
            speed = 0.0
        t += duration
    rows.append((t, s, speed, 0.0))
    starts, distances, speeds, accelerations = zip(*rows, strict=True)
    return SpeedProfile(starts, distances, speeds, accelerations)
