"""A town from one integer seed: streets, ground and all static objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.labels import LABEL_SETS, MOVING_CLASSES
from occ_perception.synthetic import street_objects as objects
from occ_perception.synthetic import vehicles
from occ_perception.synthetic.ground import Ground, lay_ground
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.placement import TakenMap
from occ_perception.synthetic.seeds import random_for, split_of
from occ_perception.synthetic.solids import Figure
from occ_perception.synthetic.streets import Road, StreetPlan, plan_streets

_PLOTS = (columns.PAVED, columns.GRASS)
_GREENS = (columns.GRASS, columns.LAWN)
_OPEN = (columns.PAVED, columns.GRASS, columns.LAWN, columns.SQUARE, columns.FOOTPATH)
_BESIDE_ROAD = (columns.SLABS, columns.COBBLES, columns.GRASS)
_ROAD_LEVEL = (columns.ASPHALT, columns.CAR_PARK)

MOVABLE_IDS = tuple(
    n for n, name in enumerate(LABEL_SETS["occ3d"].class_names) if name in MOVING_CLASSES
)
"""Classes whose members have an instance id."""


@dataclass(frozen=True)
class Body:
    """One instance at one time: a box with a class, as annotated.

    Attributes:
        instance: id, unique within a drive.
        class_id: Occ3D class.
        pose: x, y, z, yaw in the world; z of the ground below.
        lower, upper: corners in the body's own axes, metres.
        velocity: (vx, vy) over ground in world axes, m/s.
    """

    instance: int
    class_id: int
    pose: tuple[float, float, float, float]
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    velocity: tuple[float, float] = (0.0, 0.0)


class StaticScene:
    """Static objects on the ground, placed without overlap."""

    def __init__(self, ground: Ground, taken: TakenMap, first_instance: int = 1) -> None:
        self.ground = ground
        self.taken = taken
        self.bodies: list[Body] = []
        self.next_instance = first_instance
        self._shapes: list[Float64] = []
        self._tags: list[NDArray[np.int32]] = []
        self._anchors: list[Float64] = []

    def put(
        self,
        figure: Figure,
        position: Float64,
        yaw: float,
        surfaces: tuple[int, ...] | None = None,
        footprint: tuple[float, float] | None = None,
        claim: bool = True,
    ) -> bool:
        """Place a figure at a world position (2,) if its footprint is free; returns whether it was.

        Args:
            figure: the figure.
            position: (2,) world position of the figure's origin.
            yaw: direction of its x axis, radians.
            surfaces: allowed surfaces below its footprint; None allows all.
            footprint: half length and width to claim instead of the figure's own.
            claim: False places it without a check, as a part of a placed figure.
        """
        lower, upper = figure.bounds()
        if claim:
            reach = np.maximum(np.abs(lower), np.abs(upper))[:2]
            half = footprint or (float(reach[0]), float(reach[1]))
            if not self.taken.claim(self.ground, position, yaw, half, surfaces):
                return False
        x, y = float(position[0]), float(position[1])
        z = float(self.ground.height(x, y))
        instance = 0
        if figure.class_id in MOVABLE_IDS:
            instance = self.next_instance
            self.next_instance += 1
            body = Body(
                instance,
                figure.class_id,
                (x, y, z, yaw),
                (float(lower[0]), float(lower[1]), float(lower[2])),
                (float(upper[0]), float(upper[1]), float(upper[2])),
            )
            self.bodies.append(body)
        shapes, tags = figure.placed(x, y, z, yaw, instance)
        self._shapes.append(shapes)
        self._tags.append(tags)
        self._anchors.append(np.tile(np.array([x, y]), (len(shapes), 1)))
        return True

    def solids(self) -> tuple[Float64, NDArray[np.int32], Float64]:
        """Rows of all placed solids, and the position of each row's figure (n, 2)."""
        nothing = (
            np.zeros((0, columns.NUM_SHAPE_COLUMNS)),
            np.zeros((0, columns.NUM_TAG_COLUMNS), dtype=np.int32),
            np.zeros((0, 2)),
        )
        return (
            np.concatenate([nothing[0], *self._shapes]),
            np.concatenate([nothing[1], *self._tags]),
            np.concatenate([nothing[2], *self._anchors]),
        )


@dataclass(eq=False)
class Town:
    """The town of a seed; it depends on the seed only. Building it takes one to two CPU seconds.

    Raises:
        OptionError: the seed belongs to no split.
    """

    seed: int

    def __post_init__(self) -> None:
        split_of(self.seed)

    @cached_property
    def plan(self) -> StreetPlan:
        """Roads and blocks."""
        return plan_streets(self.seed)

    @cached_property
    def ground(self) -> Ground:
        """Surface raster and relief."""
        return lay_ground(self.seed, self.plan)

    @cached_property
    def static(self) -> StaticScene:
        """Buildings, trees, furniture and parked vehicles."""
        scene = StaticScene(self.ground, TakenMap())
        rng = random_for("static", self.seed)
        roads = [road for family in self.plan.roads for road in family]
        for road in roads:
            for side in (-1, 1):
                _put_traffic_lights(scene, rng, self.plan, road, side)
        for road in roads:
            for side in (-1, 1):
                _put_buildings(scene, rng, road, side)
        for road in roads:
            for side in (-1, 1):
                _put_borders(scene, rng, road, side)
                _put_furniture(scene, rng, road, side)
                _put_parked(scene, rng, road, side, self.plan.direction(road, side))
        _put_greens(scene, rng)
        _put_car_parks(scene, rng, self.plan)
        return scene


def _put_buildings(scene: StaticScene, rng: np.random.Generator, road: Road, side: int) -> None:
    u = -148.0 + rng.uniform(0, 8)
    setback = float(rng.choice([0.3, 1.5, 3.5]))
    while u < 146:
        width, depth = float(rng.uniform(8, 26)), float(rng.uniform(7, 16))
        if rng.random() < 0.12:
            setback = float(rng.uniform(0.2, 5))
        middle = u + width / 2
        position = road.points(middle, side * (road.reach + setback + 0.3 + depth / 2))
        half = (width / 2 + 0.2, depth / 2 + 0.2)
        yaw = road.facing(middle, side)
        if scene.taken.claim(scene.ground, position, yaw, half, _PLOTS):
            scene.put(objects.building(rng, width, depth), position, yaw, claim=False)
            u += width + (float(rng.uniform(0.5, 2)) if rng.random() < 0.6 else rng.uniform(3, 14))
        else:
            u += 2.5


def _put_borders(scene: StaticScene, rng: np.random.Generator, road: Road, side: int) -> None:
    u = -147.0
    while u < 147:
        length = float(rng.uniform(3, 9))
        u += length / 2
        if rng.random() < 0.35:
            position = road.points(u, side * (road.reach + 0.7))
            figure = objects.border(rng, length)
            allowed = (columns.PAVED, columns.GRASS, columns.LAWN)
            scene.put(figure, position, road.facing(u, side), allowed)
        u += length / 2 + float(rng.uniform(0.5, 8))


_Maker = Callable[[np.random.Generator], Figure]

_FURNITURE: tuple[tuple[_Maker, float], ...] = (
    (objects.sign, 0.2),
    (objects.clutter, 0.34),
    (objects.bench, 0.1),
    (objects.bollard, 0.16),
    (lambda rng: vehicles.bicycle(rng, False), 0.12),
    (lambda rng: vehicles.motorcycle(rng, False), 0.08),
)


def _put_furniture(scene: StaticScene, rng: np.random.Generator, road: Road, side: int) -> None:
    edge = road.half + 0.55
    for u in np.arange(-146 + rng.uniform(0, 10), 147, rng.uniform(22, 30)):
        position = road.points(u, side * edge)
        scene.put(objects.lamp_post(rng), position, road.facing(u, side), _BESIDE_ROAD, (0.2, 0.2))
    if rng.random() < 0.65:
        spacing = rng.uniform(8, 14)
        middle = road.half + (road.verge / 2 if road.verge else 0.75)
        for u in np.arange(-147 + rng.uniform(0, spacing), 147, spacing):
            position = road.points(u + rng.uniform(-0.7, 0.7), side * middle)
            scene.put(
                objects.tree(rng, True), position, rng.uniform(0, 6), _BESIDE_ROAD, (0.3, 0.3)
            )
    makers = [maker for maker, _ in _FURNITURE]
    weights = [weight for _, weight in _FURNITURE]
    u = -147.0
    while u < 147:
        u += float(rng.exponential(8)) + 1.5
        figure = makers[int(rng.choice(len(makers), p=weights))](rng)
        position = road.points(u, side * (edge + rng.uniform(0.0, 0.25)))
        yaw = road.facing(u, side) + (np.pi / 2 if rng.random() < 0.5 else 0.0)
        scene.put(figure, position, yaw, _BESIDE_ROAD)


def _put_traffic_lights(
    scene: StaticScene, rng: np.random.Generator, plan: StreetPlan, road: Road, side: int
) -> None:
    direction = plan.direction(road, side)
    for other in plan.crossed(road):
        if rng.random() < 0.25:
            continue
        u = plan.junction(road, other) - direction * (other.half + 1.8)
        if abs(u) > 147:
            continue
        position = road.points(u, side * (road.half + 0.6))
        travel = float(road.heading(u)) + (0.0 if direction > 0 else np.pi)
        arm = float(rng.uniform(2.5, 4.5)) * (-1 if plan.right_hand else 1)
        figure = objects.traffic_light(rng, arm if rng.random() < 0.5 else 0.0)
        scene.put(figure, position, travel + np.pi, _BESIDE_ROAD, (0.2, 0.2))


def _put_parked(
    scene: StaticScene, rng: np.random.Generator, road: Road, side: int, direction: int
) -> None:
    if not road.parking:
        return
    full = rng.uniform(0.35, 0.8)
    for u in np.arange(-144, 146, 6.0):
        if rng.random() > full:
            continue
        draw = rng.random()
        if draw < 0.88:
            figure = vehicles.car(rng)
        elif draw < 0.94:
            figure = vehicles.motorcycle(rng, False)
        else:
            figure = vehicles.truck(rng)
        position = road.points(u + rng.uniform(-0.3, 0.3), side * (road.half - road.parking / 2))
        yaw = float(road.heading(u)) + (0.0 if direction > 0 else np.pi) + rng.normal(0, 0.02)
        if not in_junction(scene.ground, position):
            scene.put(figure, position, yaw, (columns.ASPHALT,))


def in_junction(ground: Ground, position: Float64) -> bool:
    """Whether a position is the middle of a junction: no kerb within reach on either side."""
    around = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    x, y = position[0] + 5.5 * np.cos(around), position[1] + 5.5 * np.sin(around)
    raised = ground.surface_code(x, y) >= columns.FIRST_RAISED
    return bool(raised.sum() < 5)


def _put_greens(scene: StaticScene, rng: np.random.Generator) -> None:
    """Trees and bushes in parks and gardens, clutter and trees on squares."""
    for _ in range(700):
        position = rng.uniform(-148, 148, 2)
        code = int(scene.ground.surface_code(position[0], position[1]))
        if code == columns.LAWN or (code == columns.GRASS and rng.random() < 0.6):
            if rng.random() < 0.55:
                figure, half = objects.tree(rng, False), (0.8, 0.8)
            else:
                figure, half = objects.bush(rng), (0.8, 0.8)
            scene.put(figure, position, rng.uniform(0, 6), _GREENS, half)
        elif code in (columns.SQUARE, columns.PAVED) and rng.random() < 0.3:
            if rng.random() < 0.4:
                scene.put(objects.tree(rng, True), position, rng.uniform(0, 6), _OPEN, (0.4, 0.4))
            else:
                figure = objects.bench(rng) if rng.random() < 0.5 else objects.clutter(rng)
                scene.put(figure, position, rng.uniform(0, 6), _OPEN)


def _put_car_parks(scene: StaticScene, rng: np.random.Generator, plan: StreetPlan) -> None:
    for row, column in zip(*np.nonzero(plan.block_codes == columns.CAR_PARK), strict=True):
        middle = np.array([plan.middles(1)[column], plan.middles(0)[row]])
        for line in np.arange(-51.0, 52.0, 17.0):
            for bay in np.arange(-52.0, 53.0, 2.6):
                for offset, yaw in ((2.5, np.pi / 2), (14.5, -np.pi / 2)):
                    position = middle + np.array([bay, line + offset])
                    code = int(scene.ground.surface_code(position[0], position[1]))
                    if code != columns.CAR_PARK or rng.random() > 0.42:
                        continue
                    figure = vehicles.car(rng)
                    turned = yaw + rng.normal(0, 0.03) + (np.pi if rng.random() < 0.3 else 0)
                    scene.put(figure, position, turned, (columns.CAR_PARK,))
