"""What outputs need of a drive: observed space, the ground, obstacles ahead, the map so far."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from types import MappingProxyType

from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import Float64
from occ_perception.mapping.collision import EgoMotion, Footprint
from occ_perception.mapping.cost_rules import CostRules, load_cost_rules
from occ_perception.mapping.costmap import GroundView, view_from_ground
from occ_perception.mapping.drive_map import DriveMap, MapVoxels
from occ_perception.mapping.obstacles import Obstacles, find_obstacles
from occ_perception.mapping.visibility import ObservedSpace
from occ_perception.mapping.voxel_blocks import MapError
from occ_perception.ros.diagnostics import OK, WARN, Status
from occ_perception.ros.parameters import NodeParameters

# Poses further apart say little about the present speed.
_LONGEST_PAUSE_S = 2.0

_WITHOUT_NUMBA = (
    "observed space is not computed, so no column of ~/costmap is unknown: numba is not installed; "
    "pip install 'occ_perception[cpu]', or set observed.memory_s to -1"
)


@dataclass(frozen=True)
class Course:
    """Settings of the time to collision.

    Attributes:
        footprint: of the vehicle.
        horizon_s: how far to look ahead.
        motion: of the vehicle; None = unknown.
    """

    footprint: Footprint = field(default_factory=Footprint)
    horizon_s: float = 8.0
    motion: EgoMotion | None = None


@dataclass(frozen=True, eq=False)
class WorldMap:
    """The map of the drive so far, when one is due.

    Attributes:
        frame_id: world frame that the ego pose is given in.
        drive: the map; used by the worker thread only.
        error: why the last prediction did not enter it; None if it did.
    """

    frame_id: str
    drive: DriveMap
    error: MapError | None = None

    def voxels(self) -> MapVoxels:
        """Known voxels.

        Raises:
            MapError: the last prediction did not enter the map.
        """
        if self.error is not None:
            raise self.error
        return self.drive.voxels()


@dataclass(frozen=True, eq=False)
class Step:
    """What an output is made of: one step of the stream.

    Attributes:
        frame: what the network was given, with decoded images.
        prediction: what it returned, with observed space.
        rules: costs.
        course: of the vehicle.
        world_map: None = no map is due at this step.
    """

    frame: CameraFrame
    prediction: OccupancyPrediction
    rules: CostRules = field(default_factory=load_cost_rules)
    course: Course = field(default_factory=Course)
    world_map: WorldMap | None = None

    @cached_property
    def ground(self) -> GroundView:
        """Obstacles and costs; computed once, and only if something asks for it."""
        return view_from_ground(self.prediction, self.rules)

    @cached_property
    def obstacles(self) -> Obstacles:
        """The obstacles, their velocities, and when they are met."""
        course = self.course
        return find_obstacles(
            self.prediction,
            self.ground.obstacles,
            course.motion,
            course.footprint,
            course.horizon_s,
        )


class Surroundings:
    """Follows the vehicle from step to step; used by one thread.

    Args:
        values: parameters of the node.
        world_frame: in which poses are given.

    Attributes:
        doubt: why observed space is not computed although it is wanted; or "".
        status: the diagnostics status of the way ahead.

    Raises:
        CostRulesError: the file of costs cannot be used.
    """

    def __init__(self, values: NodeParameters, world_frame: str = "map") -> None:
        self._world_frame = world_frame
        self._map_period_ns = round(values.map_period_s * 1e9)
        self._map = DriveMap()
        self._mapped_ns: int | None = None
        self._rules = load_cost_rules(values.costs or None)
        side = values.footprint_side
        footprint = Footprint(values.footprint_front, values.footprint_rear, side, side)
        self._course = Course(footprint, values.collision_horizon_s)
        self.doubt, self._observed = "", None
        if values.observed_memory_s >= 0.0:
            if find_spec("numba") is None:
                self.doubt = _WITHOUT_NUMBA
            else:
                self._observed = ObservedSpace(values.observed_memory_s)
        self._last: tuple[int, Float64] | None = None
        is_off = values.collision_horizon_s == 0.0
        text = "not computed (collision.horizon_s)" if is_off else "no frame set processed yet"
        # One assignment of a frozen value: the report reads it from another thread.
        self.status = self._said(text)

    def reset(self) -> None:
        """Forget the drive: what was observed, the last pose, the map."""
        self._forget_recent()
        self._map, self._mapped_ns = DriveMap(), None

    def _forget_recent(self) -> None:
        self._last = None
        if self._observed is not None:
            self._observed.reset()

    def add(self, frame: CameraFrame, prediction: OccupancyPrediction) -> Step:
        """The next step of the vehicle."""
        if prediction.history_break:
            self._forget_recent()
        if self._observed is not None:
            prediction = self._observed.add(frame, prediction)
        course = replace(self._course, motion=self._motion(frame, prediction.stamp_ns))
        step = Step(frame, prediction, self._rules, course, self._mapped(frame, prediction))
        if course.horizon_s > 0.0:
            self.status = self._status_of(step)
        return step

    def _mapped(self, frame: CameraFrame, prediction: OccupancyPrediction) -> WorldMap | None:
        """Take the prediction into the map; returns the map if one is due."""
        if not self._map_period_ns:
            return None
        error = None
        try:
            self._map.add(prediction, frame.world_T_reference_ego)
        except MapError as problem:
            error = problem
        now_ns, last_ns = prediction.stamp_ns, self._mapped_ns
        if last_ns is not None and 0 <= now_ns - last_ns < self._map_period_ns:
            return None
        self._mapped_ns = now_ns
        return WorldMap(self._world_frame, self._map, error)

    def _motion(self, frame: CameraFrame, stamp_ns: int) -> EgoMotion | None:
        before, self._last = self._last, (stamp_ns, frame.world_T_reference_ego)
        if before is None or self._course.horizon_s == 0.0:
            return None
        seconds = (stamp_ns - before[0]) * 1e-9
        if not 0.0 < seconds <= _LONGEST_PAUSE_S:
            return None
        return EgoMotion.between(before[1], frame.world_T_reference_ego, seconds)

    def _status_of(self, step: Step) -> Status:
        motion, soonest = step.course.motion, step.obstacles.soonest
        if motion is None:
            return self._said("the speed of the vehicle is not known yet")
        values: dict[str, object] = {
            "time_to_collision_s": math.inf,
            "speed_mps": motion.speed,
            "turn_rate_dps": math.degrees(motion.turn_rate),
        }
        if soonest is None:
            return self._said(f"nothing is met within {step.course.horizon_s:g} s", values)
        seconds = float(step.obstacles.times[soonest])
        x, y, _ = step.obstacles.positions[soonest]
        name = step.prediction.class_names[step.obstacles.labels[soonest]]
        values |= {"time_to_collision_s": seconds, "class": name, "x_m": x, "y_m": y}
        return self._said(f"{name} at ({x:.1f}, {y:.1f}) m is met in {seconds:.1f} s", values)

    def _said(self, text: str, values: Mapping[str, object] = MappingProxyType({})) -> Status:
        if self.doubt:
            return Status("collision", WARN, f"{text}; {self.doubt}", values)
        return Status("collision", OK, text, values)
