"""Traffic: everything that moves besides the ego vehicle, in closed form over time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from occ_perception.geometry import Float64
from occ_perception.synthetic import vehicles
from occ_perception.synthetic.ground import Ground
from occ_perception.synthetic.paths import (
    STEP,
    Path,
    SpeedProfile,
    joined,
    lane_points,
    path_through,
    speed_profile,
)
from occ_perception.synthetic.people import pedestrian
from occ_perception.synthetic.route import DURATION_S, EgoRoute
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.solids import Figure
from occ_perception.synthetic.streets import Road, StreetPlan

EGO_BOX = (1.4, 0.0, 2.35, 0.95)
"""Centre (x, y) and half sizes of the ego vehicle's footprint in its own axes, metres."""
VEHICLE_CLEARANCE, PERSON_CLEARANCE = 5.0, 2.5


@dataclass(frozen=True, eq=False)
class Actor:
    """A moving object on a path.

    Attributes:
        figure: its figure.
        path: its path.
        start: arc length at time 0, metres; may lie outside the path.
        profile: distance over time.
        waits: whether it stands at the path's ends; otherwise it exists only between them.
        walks: whether its limbs swing.
    """

    figure: Figure
    path: Path
    start: float
    profile: SpeedProfile
    waits: bool = False
    walks: bool = False


class Fleet:
    """All actors of a drive, in one evaluation."""

    def __init__(self, actors: list[Actor], ground: Ground) -> None:
        self.actors = actors
        self._ground = ground
        paths = list({id(actor.path): actor.path for actor in actors}.values())
        offsets = np.cumsum([0, *(len(path.points) for path in paths)])
        first = {id(path): int(offset) for path, offset in zip(paths, offsets, strict=False)}
        self._rows = np.concatenate(
            [np.concatenate([p.points, p.headings[:, None]], axis=1) for p in paths]
        ).reshape(-1, 3)
        self._first = np.array([first[id(actor.path)] for actor in actors], dtype=np.int64)
        self._length = np.array([actor.path.length for actor in actors])
        self._start = np.array([actor.start for actor in actors])
        self._waits = np.array([actor.waits for actor in actors])
        self.walks = np.array([actor.walks for actor in actors])
        profiles = list({id(actor.profile): actor.profile for actor in actors}.values())
        index = {id(profile): n for n, profile in enumerate(profiles)}
        self._profile = np.array([index[id(actor.profile)] for actor in actors], dtype=np.int64)
        self._profiles = profiles
        bounds = [actor.figure.bounds() for actor in actors]
        self.lower = np.array([low for low, _ in bounds]).reshape(-1, 3)
        self.upper = np.array([high for _, high in bounds]).reshape(-1, 3)

    def along(self, t: float) -> Float64:
        """(n,) arc lengths at time ``t``, not clipped to the paths."""
        distances = np.array([profile.distance(t) for profile in self._profiles])
        return np.asarray(self._start + distances[self._profile])

    def poses(self, t: float) -> tuple[Float64, NDArray[np.bool_]]:
        """(n, 4) x, y, z, yaw at time ``t`` and which actors exist then."""
        s = self.along(t)
        exists = self._waits | ((s >= 0) & (s <= self._length))
        position = np.clip(s / STEP, 0.0, self._length / STEP - 1e-3)
        i = position.astype(np.int64)
        f = (position - i)[:, None]
        rows = self._rows[self._first + i] * (1 - f) + self._rows[self._first + i + 1] * f
        x, y, yaw = rows.T
        z = np.where(self.walks, self._ground.height(x, y), self._ground.road_height(x, y))
        return np.stack([x, y, z, yaw], axis=-1), exists

    def without(self, dropped: NDArray[np.bool_]) -> Fleet:
        """The fleet without the marked actors."""
        kept = [actor for actor, gone in zip(self.actors, dropped, strict=True) if not gone]
        return Fleet(kept, self._ground)


def draw_fleet(
    town_seed: int, drive: int, plan: StreetPlan, ground: Ground, route: EgoRoute
) -> Fleet:
    """Draw all actors of a drive, before the check for collisions."""
    rng = random_for("traffic", town_seed, drive)
    actors = _queue_of_ego(rng, route)
    calm = bool(rng.random() < 0.85)
    for road in plan.roads[route.road.family]:
        for side in (-1, 1):
            for lane in range(road.lanes):
                if road is route.road and side == route.side and lane == route.lane:
                    continue
                beside_ego = road is route.road and calm
                actors += _flowing_lane(rng, plan, road, side, lane, beside_ego)
            actors += _cyclists(rng, plan, road, side)
    for road in plan.roads[1 - route.road.family]:
        for side in (-1, 1):
            for lane in range(road.lanes):
                actors += _stopping_lane(rng, plan, road, side, lane)
    actors += _turners(rng, plan, route)
    for family in plan.roads:
        for road in family:
            for side in (-1, 1):
                actors += _walkers(rng, road, side)
            actors += _crossers(rng, plan, road)
    return Fleet(actors, ground)


def _draw_vehicle(rng: np.random.Generator, calm: bool) -> Figure:
    draw = rng.random()
    if draw < 0.74 or (calm and draw < 0.88):
        return vehicles.car(rng)
    if draw < 0.82:
        return vehicles.truck(rng)
    if draw < 0.88:
        return vehicles.bus(rng)
    if draw < 0.95:
        return vehicles.motorcycle(rng, True)
    return vehicles.bicycle(rng, True)


def _queue_of_ego(rng: np.random.Generator, route: EgoRoute) -> list[Actor]:
    """Vehicles ahead of and behind the ego in its lane, at constant distance."""
    actors = []
    for sign in (-1, 1):
        gap = float(rng.uniform(9, 22))
        while gap < 90:
            figure = _draw_vehicle(rng, calm=True)
            actors.append(Actor(figure, route.path, route.start + sign * gap, route.profile))
            gap += float(rng.uniform(10, 40))
    return actors


def _flowing_lane(
    rng: np.random.Generator, plan: StreetPlan, road: Road, side: int, lane: int, calm: bool
) -> list[Actor]:
    """A lane with one speed; a quarter of the lanes stand."""
    path = path_through(lane_points(road, road.lane_offset(side, lane), plan.direction(road, side)))
    stands = rng.random() < 0.25
    speed = 0.0 if stands else float(rng.uniform(4, 13))
    profile = speed_profile(speed, [])
    s = -speed * DURATION_S + float(rng.uniform(0, 15))
    actors = []
    while s < path.length:
        actors.append(Actor(_draw_vehicle(rng, calm), path, s, profile))
        s += float(rng.exponential(9 if stands else 16)) + (9.0 if stands else 12.0)
    return actors


def _stopping_lane(
    rng: np.random.Generator, plan: StreetPlan, road: Road, side: int, lane: int
) -> list[Actor]:
    """A lane of a crossing road: between any two junctions a queue, and one car closing up."""
    direction = plan.direction(road, side)
    path = path_through(lane_points(road, road.lane_offset(side, lane), direction))
    begin = 0.0
    actors = []
    junctions = sorted(
        (direction * plan.junction(road, other), other.half) for other in plan.crossed(road)
    )
    for position, half in junctions:
        u = direction * position
        where = road.points(u, road.lane_offset(side, lane))
        at = STEP * int(np.linalg.norm(path.points - where, axis=1).argmin())
        stop = at - half - float(rng.uniform(5.8, 6.6))
        for _ in range(int(rng.integers(0, 4))):
            figure = _draw_vehicle(rng, False)
            lower, upper = figure.bounds()
            stop -= float(upper[0])
            if stop + float(lower[0]) < begin:
                break
            actors.append(Actor(figure, path, stop, speed_profile(0.0, [])))
            stop += float(lower[0]) - float(rng.uniform(1.2, 3))
        if rng.random() < 0.7 and stop - begin > 22:
            speed, brake = float(rng.uniform(4, 9)), float(rng.uniform(1.2, 2.0))
            way = min(stop - 5.0 - begin, float(rng.uniform(25, 60)))
            braking = speed**2 / (2 * brake)
            if way > braking:
                phases = [((way - braking) / speed, 0.0), (speed / brake, -brake)]
                figure = _draw_vehicle(rng, False)
                actors.append(Actor(figure, path, stop - 5.0 - way, speed_profile(speed, phases)))
        begin = at + half + 8.0
    return actors


def _turners(rng: np.random.Generator, plan: StreetPlan, route: EgoRoute) -> list[Actor]:
    """Vehicles that turn off the roads parallel to the ego's at a junction."""
    actors: list[Actor] = []
    for road in plan.roads[route.road.family]:
        for other in plan.crossed(road):
            side = int(rng.choice([-1, 1]))
            direction = plan.direction(road, side)
            new_direction = int(rng.choice([-1, 1]))
            new_side = plan.side_towards(other, new_direction)
            left_is_up = (direction > 0) == (road.family == 0)
            wide = ((new_direction > 0) == left_is_up) == plan.right_hand
            lane, new_lane = (0, 0) if wide else (road.lanes - 1, other.lanes - 1)
            first = lane_points(road, road.lane_offset(side, lane), direction)
            second = lane_points(other, other.lane_offset(new_side, new_lane), new_direction)
            way = joined(first, second, 10.0 if wide else 7.5)
            if way is None:
                continue
            points, arc_start, _ = way
            speed = float(rng.uniform(3.5, 5))
            start = arc_start - speed * float(rng.uniform(0, DURATION_S * 0.7))
            path = path_through(points)
            figure = _draw_vehicle(rng, True)
            actors.append(Actor(figure, path, start, speed_profile(speed, [])))
    return actors


def _cyclists(rng: np.random.Generator, plan: StreetPlan, road: Road, side: int) -> list[Actor]:
    offset = side * (road.half - road.parking - 0.5)
    path = path_through(lane_points(road, offset, plan.direction(road, side)))
    speed = float(rng.uniform(3, 5))
    profile = speed_profile(speed, [])
    s = -speed * DURATION_S + float(rng.uniform(0, 60))
    actors = []
    while s < path.length:
        maker: Callable[..., Figure] = vehicles.bicycle
        if rng.random() < 0.15:
            maker = vehicles.motorcycle
        actors.append(Actor(maker(rng, True), path, s, profile))
        s += float(rng.exponential(60)) + 8
    return actors


def _walkers(rng: np.random.Generator, road: Road, side: int) -> list[Actor]:
    actors = []
    for direction in (-1, 1):
        share = 0.35 if direction > 0 else 0.7
        middle = road.half + road.verge + share * road.walk
        path = path_through(lane_points(road, side * middle, direction))
        beside = path_through(lane_points(road, side * (middle + 0.65), direction))
        s = float(rng.uniform(-30, 10))
        while s < path.length:
            speed = 0.0 if rng.random() < 0.25 else float(rng.uniform(0.6, 1.8))
            profile = speed_profile(speed, [])
            for n in range(int(rng.choice([1, 2, 3], p=[0.6, 0.28, 0.12]))):
                way = path if n != 1 else beside
                start = s + (0.0, 0.15, -1.0)[n] + float(rng.normal(0, 0.1))
                actors.append(Actor(pedestrian(rng), way, start, profile, walks=True))
            s += float(rng.exponential(24)) + 2.5
    return actors


def _crossers(rng: np.random.Generator, plan: StreetPlan, road: Road) -> list[Actor]:
    """People on the zebra crossings over a road."""
    actors = []
    for other in plan.crossed(road):
        u_junction = plan.junction(road, other)
        for after in (False, True):
            if not plan.zebra(road, other, after) or rng.random() > 0.7:
                continue
            for _ in range(int(rng.integers(1, 4))):
                sign = 1 if after else -1
                u = u_junction + sign * (other.half + float(rng.uniform(1.6, 3.8)))
                reach = road.half + 0.5 * (road.verge + road.walk)
                offsets = np.arange(-reach, reach, 0.25)
                points = road.points(u, offsets)
                if rng.random() < 0.5:
                    points = points[::-1]
                speed = float(rng.uniform(0.9, 1.6))
                start = float(rng.uniform(-speed * DURATION_S * 0.6, 2 * reach))
                profile = speed_profile(speed, [])
                path = path_through(points)
                actors.append(Actor(pedestrian(rng), path, start, profile, waits=True, walks=True))
    return actors


@dataclass(frozen=True, eq=False)
class Rectangles:
    """Footprints (n,) as centre (n, 2), yaw (n,) and half sizes (n, 2), world, metres."""

    middle: Float64
    yaw: Float64
    half: Float64


def footprints(poses: Float64, lower: Float64, upper: Float64, margin: float = 0.0) -> Rectangles:
    """World footprints of boxes (n, 3) ``lower``..``upper`` at poses (n, 4)."""
    middle = (lower[:, :2] + upper[:, :2]) / 2
    c, s = np.cos(poses[:, 3]), np.sin(poses[:, 3])
    moved = np.stack(
        [
            poses[:, 0] + c * middle[:, 0] - s * middle[:, 1],
            poses[:, 1] + s * middle[:, 0] + c * middle[:, 1],
        ],
        axis=-1,
    )
    return Rectangles(moved, poses[:, 3], (upper[:, :2] - lower[:, :2]) / 2 + margin)


def overlapping(
    boxes: Rectangles, first: NDArray[np.int64], second: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Whether the rectangles of each pair of indices overlap (separating axes), (m,) bool."""
    apart = np.zeros(len(first), dtype=bool)
    delta = boxes.middle[second] - boxes.middle[first]
    axes = np.stack(
        [
            np.stack([np.cos(boxes.yaw), np.sin(boxes.yaw)], axis=-1),
            np.stack([-np.sin(boxes.yaw), np.cos(boxes.yaw)], axis=-1),
        ],
        axis=1,
    )
    for owner in (first, second):
        for k in (0, 1):
            axis = axes[owner, k]
            reach = np.zeros(len(first))
            for box in (first, second):
                for j in (0, 1):
                    dots = np.abs(np.sum(axes[box, j] * axis, axis=1))
                    reach += boxes.half[box, j] * dots
            apart |= np.abs(np.sum(delta * axis, axis=1)) > reach
    return ~apart


def colliding(
    fleet: Fleet, obstacles: Rectangles, ego_poses: dict[float, Float64]
) -> NDArray[np.bool_]:
    """Actors to drop: those that overlap an obstacle, the ego or an earlier actor at any time.

    Args:
        fleet: the actors.
        obstacles: footprints of static obstacles.
        ego_poses: time -> (x, y, z, yaw) of the ego vehicle, for the times to check.
    """
    count = len(fleet.actors)
    dropped = np.zeros(count, dtype=bool)
    clearance = np.where(fleet.walks, PERSON_CLEARANCE, VEHICLE_CLEARANCE)
    for t, ego in ego_poses.items():
        poses, exists = fleet.poses(t)
        own = footprints(poses, fleet.lower, fleet.upper, 0.1)
        c, s = np.cos(ego[3]), np.sin(ego[3])
        ego_middle = ego[:2] + EGO_BOX[0] * np.array([c, s])
        boxes = Rectangles(
            np.concatenate([ego_middle[None], obstacles.middle, own.middle]),
            np.concatenate([ego[3:4], obstacles.yaw, own.yaw]),
            np.concatenate([np.array([EGO_BOX[2:]]), obstacles.half, own.half]),
        )
        fixed = 1 + len(obstacles.middle)
        dropped |= exists & (np.hypot(*(poses[:, :2] - ego[:2]).T) < clearance)
        pairs = cKDTree(boxes.middle).query_pairs(14.0, output_type="ndarray")
        first, second = pairs.min(axis=1), pairs.max(axis=1)
        near = np.hypot(*(boxes.middle[first] - boxes.middle[second]).T)
        radius = np.hypot(*boxes.half.T)
        moving = second >= fixed
        moving &= near < radius[first] + radius[second]
        there = np.concatenate([np.ones(fixed, dtype=bool), exists])
        moving &= there[first] & there[second]
        first, second = first[moving], second[moving]
        hits = overlapping(boxes, first, second)
        order = np.lexsort((second[hits], first[hits]))
        for a, b in zip(first[hits][order], second[hits][order], strict=True):
            if a < fixed or not dropped[a - fixed]:
                dropped[b - fixed] = True
    return dropped
