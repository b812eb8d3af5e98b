"""A drive through a town: the scene at any time, as solids, boxes and poses."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64
from occ_perception.synthetic.ground import Ground
from occ_perception.synthetic.kernels import columns
from occ_perception.synthetic.kernels.columns import World
from occ_perception.synthetic.roadside import put_roadside
from occ_perception.synthetic.route import DURATION_S, EgoRoute, draw_route
from occ_perception.synthetic.seeds import check_drive_index
from occ_perception.synthetic.solids import place_shapes
from occ_perception.synthetic.town import MOVABLE_IDS, Body, StaticScene, Town
from occ_perception.synthetic.traffic import (
    Fleet,
    Rectangles,
    colliding,
    draw_fleet,
    footprints,
)
from occ_perception.synthetic.weather import Weather, draw_weather

KEYFRAME_PERIOD_S = 0.5
VIEW_RANGE = 130.0
"""Solids farther than this from the ego vehicle are left out, metres."""
_STRIDES_PER_METRE = 0.7


@dataclass(frozen=True, eq=False)
class Scene:
    """The world around the ego vehicle at one time, as input of rays and labels.

    Attributes:
        time: seconds since the drive's start.
        world_T_ego: (4, 4) ego pose.
        world: everything, for rays.
        velocities: instance id -> (vx, vy) over ground in world axes, m/s; (n + 1, 2), row = id.
        bodies: boxes of the instances within view.
    """

    time: float
    world_T_ego: Float64
    world: World
    velocities: Float64
    bodies: tuple[Body, ...]


def drive_name(town: int, index: int) -> str:
    """Identifier of a drive, used as scene name and sequence."""
    return f"town-{town:05d}-{index:03d}"


@dataclass(eq=False)
class Drive:
    """Drive ``index`` of a town: 20 s of ego motion and traffic, deterministic for its numbers.

    Raises:
        OptionError: the drive does not exist.
    """

    town: Town
    index: int

    def __post_init__(self) -> None:
        check_drive_index(self.index)

    @property
    def name(self) -> str:
        """See :func:`drive_name`."""
        return drive_name(self.town.seed, self.index)

    @cached_property
    def weather(self) -> Weather:
        """Weather of the whole drive."""
        return draw_weather(self.town.seed, self.index)

    @cached_property
    def route(self) -> EgoRoute:
        """The ego vehicle's route."""
        return draw_route(self.town.seed, self.index, self.town.plan)

    @cached_property
    def roadside(self) -> StaticScene:
        """Static objects that this drive adds to the town."""
        static = self.town.static
        scene = StaticScene(self.town.ground, static.taken.copy(), static.next_instance)
        put_roadside(scene, self.town.seed, self.index, self.route)
        return scene

    @cached_property
    def standing(self) -> tuple[Body, ...]:
        """Boxes of all static instances."""
        return (*self.town.static.bodies, *self.roadside.bodies)

    @cached_property
    def fleet(self) -> Fleet:
        """All actors, without those that would collide."""
        town = self.town
        fleet = draw_fleet(town.seed, self.index, town.plan, town.ground, self.route)
        times = np.arange(0.0, DURATION_S + 1e-9, KEYFRAME_PERIOD_S)
        ego = {}
        for t in times:
            x, y, yaw = self.route.path.at(self.route.along(float(t)))
            ego[float(t)] = np.array([x, y, 0.0, yaw])
        return fleet.without(colliding(fleet, self._obstacles(), ego))

    def _obstacles(self) -> Rectangles:
        """Footprints of parked vehicles and of the drive's own static objects."""
        bodies = self.standing
        poses = np.array([body.pose for body in bodies]).reshape(-1, 4)
        lower = np.array([body.lower for body in bodies]).reshape(-1, 3)
        upper = np.array([body.upper for body in bodies]).reshape(-1, 3)
        boxes = footprints(poses, lower, upper)
        shapes, tags, _ = self.roadside.solids()
        loose = ~np.isin(tags[:, columns.CLASS], MOVABLE_IDS)
        yaw = np.arctan2(shapes[loose, columns.SIN], shapes[loose, columns.COS])
        return Rectangles(
            np.concatenate([boxes.middle, shapes[loose, :2]]),
            np.concatenate([boxes.yaw, yaw]),
            np.concatenate([boxes.half, shapes[loose, columns.HX : columns.HY + 1]]),
        )

    @cached_property
    def _static_solids(self) -> tuple[Float64, NDArray[np.int32], Float64]:
        town, own = self.town.static.solids(), self.roadside.solids()
        return (
            np.concatenate([town[0], own[0]]),
            np.concatenate([town[1], own[1]]),
            np.concatenate([town[2], own[2]]),
        )

    @cached_property
    def _moving_solids(self) -> tuple[Float64, NDArray[np.int32], NDArray[np.int64], Float64]:
        """Shapes and tags in actor axes, owner of each row, swing of each row."""
        actors = self.fleet.actors
        first = self.roadside.next_instance
        shapes = np.concatenate([actor.figure.shapes for actor in actors])
        tags = np.concatenate([actor.figure.tags for actor in actors])
        owners = np.repeat(np.arange(len(actors)), [len(a.figure.shapes) for a in actors])
        movable = np.isin(tags[:, columns.CLASS], MOVABLE_IDS)
        tags[:, columns.INSTANCE] = np.where(movable, first + owners, 0)
        return shapes, tags, owners, np.concatenate([actor.figure.swings for actor in actors])

    def pose(self, t: float) -> Float64:
        """``world_T_ego`` (4, 4) at time ``t`` in seconds."""
        return self.route.pose(self.town.ground, t)

    def scene(self, t: float, moving: bool = True) -> Scene:
        """The world at time ``t`` (seconds, any time of the drive).

        Args:
            t: seconds since the drive's start.
            moving: False leaves the actors out.
        """
        pose = self.pose(t)
        shapes, tags, anchors = self._static_solids
        velocities = np.zeros((self.roadside.next_instance + len(self.fleet.actors), 2))
        bodies = list(self.standing)
        if moving:
            moved, moved_tags, moved_anchors, moved_bodies = self._actors_at(t, velocities)
            anchors = np.concatenate([anchors, moved_anchors])
            shapes = np.concatenate([shapes, moved])
            tags = np.concatenate([tags, moved_tags])
            bodies += moved_bodies
        # Whole figures are left out, not single solids, so that none float at the edge of the view.
        distance = np.hypot(anchors[:, 0] - pose[0, 3], anchors[:, 1] - pose[1, 3])
        near = distance < VIEW_RANGE
        ground = self.town.ground
        world = assemble_world(ground, shapes[near], tags[near], pose[:2, 3])
        seen = tuple(
            body
            for body in bodies
            if np.hypot(body.pose[0] - pose[0, 3], body.pose[1] - pose[1, 3]) < VIEW_RANGE
        )
        return Scene(t, pose, world, velocities, seen)

    def _actors_at(
        self, t: float, velocities: Float64
    ) -> tuple[Float64, NDArray[np.int32], Float64, list[Body]]:
        """Shapes, tags, anchors and boxes of the actors; fills ``velocities`` in."""
        fleet = self.fleet
        poses, exists = fleet.poses(t)
        before, _ = fleet.poses(t - 0.05)
        after, _ = fleet.poses(t + 0.05)
        speed = (after[:, :2] - before[:, :2]) / 0.1
        first = self.roadside.next_instance
        velocities[first:] = speed
        shapes, tags, owners, swings = self._moving_solids
        kept = exists[owners]
        shapes, owners, swings = shapes[kept].copy(), owners[kept], swings[kept]
        moves = np.hypot(speed[:, 0], speed[:, 1])
        phase = 2 * np.pi * _STRIDES_PER_METRE * fleet.along(t) + np.arange(len(moves))
        swing = np.sin(phase) * np.minimum(moves, 1.4) / 1.4
        shapes[:, columns.X] += swings * swing[owners]
        placed = place_shapes(shapes, poses[owners])
        bodies = [
            Body(
                first + int(n),
                fleet.actors[n].figure.class_id,
                tuple(poses[n]),
                tuple(fleet.lower[n]),
                tuple(fleet.upper[n]),
                (float(speed[n, 0]), float(speed[n, 1])),
            )
            for n in np.nonzero(exists)[0]
        ]
        return placed, tags[kept], poses[owners, :2], bodies


def assemble_world(
    ground: Ground,
    shapes: Float64,
    tags: NDArray[np.int32],
    middle: Float64,
) -> World:
    """Sort solids into the cell grid around ``middle`` (2,); returns the input of all rays."""
    from occ_perception.synthetic.kernels.rays import fill_cells

    count = columns.CELLS * columns.CELLS
    corner = np.asarray(middle, dtype=np.float64) - columns.CELLS * columns.CELL / 2
    low, high = np.full(count, 1e9), np.full(count, -1e9)
    counts = np.zeros(count, dtype=np.int32)
    shapes = np.ascontiguousarray(shapes)
    nothing = np.zeros(0, dtype=np.int32)
    fill_cells(shapes, corner, True, counts, nothing, low, high)
    starts = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(counts, out=starts[1:])
    items = np.empty(int(starts[-1]), dtype=np.int32)
    fill_cells(shapes, corner, False, starts[:-1].copy(), items, low, high)
    tags = np.ascontiguousarray(tags)
    relief = ground.relief
    heights = np.array([relief.min(), relief.max()])
    return World(
        ground.surface,
        ground.blocks,
        relief,
        heights,
        shapes,
        tags,
        starts,
        items,
        low,
        high,
        corner,
    )
