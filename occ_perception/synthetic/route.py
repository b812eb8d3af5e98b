"""The ego vehicle's route through a town: lane, turn and speed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from occ_perception.geometry import Float64
from occ_perception.synthetic.ground import Ground
from occ_perception.synthetic.paths import (
    Path,
    SpeedProfile,
    joined,
    lane_points,
    path_through,
    speed_profile,
)
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.streets import Road, StreetPlan

DURATION_S = 20.0
"""Duration of every drive; collisions are checked over this span."""

_REACH = 108.0
"""The ego vehicle stays within this distance of the town's centre; its grid then stays inside."""
_WHEELBASE, _TRACK = 2.8, 1.6


@dataclass(frozen=True, eq=False)
class EgoRoute:
    """Path, speed and lane of the ego vehicle.

    Attributes:
        path: the lane it drives along, through the whole town.
        start: arc length at time 0, metres.
        profile: speed over time.
        road: the road it starts on; side: the side of it.
        lane: index of its lane there.
        turns: whether it leaves that road.
    """

    path: Path
    start: float
    profile: SpeedProfile
    road: Road
    side: int
    lane: int
    turns: bool

    def along(self, t: float) -> float:
        """Arc length on the path at time ``t``."""
        return self.start + self.profile.distance(t)

    def pose(self, ground: Ground, t: float) -> Float64:
        """``world_T_ego`` (4, 4) at time ``t``: on the road, pitched and rolled with it."""
        x, y, yaw = (float(value) for value in self.path.at(self.along(t)))
        c, s = np.cos(yaw), np.sin(yaw)
        ahead = ground.road_height(x + _WHEELBASE * c, y + _WHEELBASE * s)
        here = float(ground.road_height(x, y))
        left = ground.road_height(x - _TRACK / 2 * s, y + _TRACK / 2 * c)
        right = ground.road_height(x + _TRACK / 2 * s, y - _TRACK / 2 * c)
        forward = np.array([c * _WHEELBASE, s * _WHEELBASE, float(ahead) - here])
        forward /= np.linalg.norm(forward)
        leftward = np.array([-s * _TRACK, c * _TRACK, float(left - right)])
        up = np.cross(forward, leftward)
        up /= np.linalg.norm(up)
        pose = np.eye(4)
        pose[:3, :3] = np.stack([forward, np.cross(up, forward), up], axis=1)
        pose[:3, 3] = x, y, here
        return pose


def draw_route(town_seed: int, drive: int, plan: StreetPlan) -> EgoRoute:
    """Draw the ego route of a drive; a third of the drives turn at a junction."""
    rng = random_for("route", town_seed, drive)
    family = int(rng.integers(2))
    roads = sorted(plan.roads[family], key=lambda road: abs(road.position))
    road = roads[0] if len(roads) < 2 or rng.random() < 0.75 else roads[1]
    side = int(rng.choice([-1, 1]))
    if rng.random() < 1 / 3:
        for _ in range(8):
            route = _turning_route(rng, plan, road, side)
            if route is not None:
                return route
            side = -side
    return _straight_route(rng, plan, road, side)


def _straight_route(rng: np.random.Generator, plan: StreetPlan, road: Road, side: int) -> EgoRoute:
    lane = int(rng.integers(road.lanes))
    points = lane_points(road, road.lane_offset(side, lane), plan.direction(road, side))
    path = path_through(points)
    profile = _draw_profile(rng)
    span = profile.distance(DURATION_S)
    middle = path.length / 2
    free = 2 * _REACH - span
    start = middle - _REACH + float(rng.uniform(0, max(free, 0.0)))
    return EgoRoute(path, start, profile, road, side, lane, False)


def _draw_profile(rng: np.random.Generator) -> SpeedProfile:
    kind = rng.choice(["cruise", "stop", "stand", "start"], p=[0.45, 0.35, 0.06, 0.14])
    if kind == "stand":
        return speed_profile(0.0, [])
    if kind == "start":
        final, pull = rng.uniform(5, 10), rng.uniform(0.9, 1.8)
        return speed_profile(0.0, [(rng.uniform(0, 5), 0.0), (final / pull, pull)])
    speed = float(rng.uniform(3.0, 10.0))
    if kind == "cruise":
        change = rng.uniform(-0.3, 0.3) if speed < 9 else rng.uniform(-0.4, 0.0)
        return speed_profile(speed, [(rng.uniform(2, 6), 0.0), (5.0, float(change))])
    brake, pull = rng.uniform(1.0, 1.9), rng.uniform(0.9, 1.8)
    again = float(rng.uniform(4, 9))
    return speed_profile(
        speed,
        [
            (rng.uniform(1, 5), 0.0),
            (speed / brake, -brake),
            (rng.uniform(1.5, 5), 0.0),
            (again / pull, pull),
        ],
    )


def _turning_route(
    rng: np.random.Generator, plan: StreetPlan, road: Road, side: int
) -> EgoRoute | None:
    """A route that turns at a junction; None if the drawn one does not fit the town."""
    direction = plan.direction(road, side)
    others = [other for other in plan.crossed(road) if abs(plan.junction(road, other)) < 85]
    if not others:
        return None
    other = others[int(rng.integers(len(others)))]
    turn_left = bool(rng.random() < 0.5)
    # Left of the direction of travel, seen along the other road's axis.
    left_is_up = (direction > 0) == (road.family == 0)
    new_direction = 1 if turn_left == left_is_up else -1
    new_side = plan.side_towards(other, new_direction)
    wide = turn_left == plan.right_hand
    lane = 0 if wide else road.lanes - 1
    new_lane = 0 if wide else other.lanes - 1
    first = lane_points(road, road.lane_offset(side, lane), direction)
    second = lane_points(other, other.lane_offset(new_side, new_lane), new_direction)
    radius = float(rng.uniform(9, 12) if wide else rng.uniform(7, 8.5))
    way = joined(first, second, radius)
    if way is None:
        return None
    points, arc_start, arc_end = way
    path = path_through(points)
    slow = float(rng.uniform(3.0, 4.5))
    speed, brake = float(rng.uniform(slow, 9.0)), float(rng.uniform(0.8, 1.6))
    braking = (speed**2 - slow**2) / (2 * brake)
    before = braking + float(rng.uniform(4, 30))
    pull, final = float(rng.uniform(0.8, 1.6)), float(rng.uniform(slow, 9.0))
    profile = speed_profile(
        speed,
        [
            ((before - braking) / speed, 0.0),
            ((speed - slow) / brake, -brake),
            ((arc_end - arc_start) / slow, 0.0),
            ((final - slow) / pull, pull),
        ],
    )
    start = arc_start - before
    ends = path.at([start, start + profile.distance(DURATION_S)])[:, :2]
    if start < 0 or np.abs(ends).max() > _REACH:
        return None
    return EgoRoute(path, start, profile, road, side, lane, True)
