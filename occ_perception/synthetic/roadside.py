"""Roadside objects that a drive adds along its route: work zones, bus stops, trailers.

Real towns have far fewer of them. They make every class of the label set frequent enough to be
trained and scored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from occ_perception.synthetic import street_objects as objects
from occ_perception.synthetic import vehicles
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.route import DURATION_S, EgoRoute
from occ_perception.synthetic.seeds import random_for
from occ_perception.synthetic.solids import Figure
from occ_perception.synthetic.town import StaticScene, in_junction

_DRY = (columns.SLABS, columns.COBBLES, columns.GRASS, columns.PAVED, columns.SQUARE, columns.LAWN)
_ANYWHERE = (*_DRY, columns.FOOTPATH, columns.ASPHALT, columns.CAR_PARK)
_SPACING = 60.0
_CORRIDOR = 3.4

# Objects along each stretch of the route, with the probability per stretch.
_Maker = Callable[[np.random.Generator], Figure]
_STRETCH: tuple[tuple[_Maker, float], ...] = (
    (vehicles.trailer, 0.75),
    (vehicles.truck, 0.6),
    (vehicles.bus, 0.55),
    (vehicles.excavator, 0.5),
    (vehicles.roller, 0.45),
    (lambda rng: vehicles.bicycle(rng, False), 1.0),
    (lambda rng: vehicles.bicycle(rng, False), 0.8),
    (lambda rng: vehicles.motorcycle(rng, False), 1.0),
    (objects.clutter, 0.9),
)


def put_roadside(scene: StaticScene, town_seed: int, drive: int, route: EgoRoute) -> None:
    """Place the drive's own static objects; ``scene.taken`` holds the town's."""
    rng = random_for("roadside", town_seed, drive)
    begin = route.along(0.0) - 15.0
    end = route.along(DURATION_S) + 35.0
    driven = route.path.at(np.arange(max(begin - 20, 0), min(end + 25, route.path.length), 0.4))
    scene.taken.take_path(driven[:, :2], _CORRIDOR)
    for stretch in np.arange(begin, end, _SPACING):
        if rng.random() < 0.85:
            _put_work_zone(scene, rng, route, stretch)
        if rng.random() < 0.5:
            _put_bus_stop(scene, rng, route, stretch)
        for maker, chance in _STRETCH:
            if rng.random() < chance:
                _put_beside(scene, rng, route, stretch, maker(rng))


def _beside(
    rng: np.random.Generator, route: EgoRoute, stretch: float, low: float, high: float
) -> tuple[NDArray[np.float64], float, int]:
    """A position beside the path, the yaw of the path there and the side (+1 left)."""
    s = stretch + float(rng.uniform(0, _SPACING))
    x, y, yaw = (float(value) for value in route.path.at(s))
    side = int(rng.choice([-1, 1]))
    distance = side * float(rng.uniform(low, high))
    position = np.array([x - distance * np.sin(yaw), y + distance * np.cos(yaw)])
    return position, yaw, side


def _put_beside(
    scene: StaticScene, rng: np.random.Generator, route: EgoRoute, stretch: float, figure: Figure
) -> None:
    """Place a figure at the nearest free one of several drawn positions, along the route."""
    lower, upper = figure.bounds()
    # Large vehicles next to the ego would hide half of the view.
    large = float(upper[0] - lower[0]) > 3.5
    nearest = (4.2 if large else 2.8) + float(upper[1])
    draws = [_beside(rng, route, stretch, nearest, 18.0) for _ in range(40)]
    draws.sort(key=lambda draw: float(np.linalg.norm(draw[0] - route.path.at(stretch)[:2])))
    for position, yaw, _ in draws:
        if large and in_junction(scene.ground, position):
            continue
        turned = yaw + (np.pi if rng.random() < 0.5 else 0.0) + float(rng.normal(0, 0.05))
        if scene.put(figure, position, turned, _ANYWHERE if large else _DRY):
            return


def _put_work_zone(
    scene: StaticScene, rng: np.random.Generator, route: EgoRoute, stretch: float
) -> None:
    """Place a row of barriers with cones at its ends and a work site behind it."""
    count = int(rng.integers(2, 6))
    for _ in range(25):
        position, yaw, side = _beside(rng, route, stretch, 3.4, 11.0)
        along = np.array([np.cos(yaw), np.sin(yaw)])
        across = side * np.array([-along[1], along[0]])
        half = (count + 2.4, 0.5)
        if in_junction(scene.ground, position):
            continue
        if scene.taken.claim(scene.ground, position, yaw, half, _ANYWHERE):
            break
    else:
        return
    for n in range(count):
        offset = (2 * n - count + 1) * 1.02
        turned = yaw + float(rng.normal(0, 0.03))
        scene.put(objects.barrier(rng), position + offset * along, turned, claim=False)
    for end in (-1, 1):
        for step in (0.6, 1.7):
            spot = position + end * (count + step) * along + rng.normal(0, 0.1, 2)
            scene.put(objects.cone(rng), spot, float(rng.uniform(0, 6)), claim=False)
    for _ in range(6):
        spot = position + across * rng.uniform(1.5, 5) + along * rng.uniform(-count, count)
        figure = objects.soil_heap(rng) if rng.random() < 0.4 else objects.cone(rng)
        scene.put(figure, spot, float(rng.uniform(0, 6)), _ANYWHERE)


def _put_bus_stop(
    scene: StaticScene, rng: np.random.Generator, route: EgoRoute, stretch: float
) -> None:
    road = route.road
    for _ in range(12):
        position, yaw, side = _beside(rng, route, stretch, road.half - 3.0, road.reach + 8.0)
        facing = yaw + (np.pi if side > 0 else 0.0)
        if scene.put(objects.bus_stop(rng), position, facing, _DRY):
            return
