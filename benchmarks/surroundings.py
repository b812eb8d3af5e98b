"""Observed space, costmap, obstacles and time to collision on drives through test towns.

    python benchmarks/surroundings.py [--drives 4] [--frames 20] [--model alocc_town]

Without a model, the exact labels of the town take the place of predictions: what is left is the
error of the geometry. With a model, its predictions are compared with the exact labels.

    unknown when never seen   voxels that no camera saw within the memory, by exact rays
    seen when seen            voxels that a camera sees now, by exact rays
    obstacle columns found    columns in view with an obstacle in the exact labels
    free columns blocked      columns in view without one
    false stops               grids with a collision within 2 s where the exact boxes are not met
                              within 4 s, per kilometre driven
    time to collision         against the exact boxes, where those are met within 30 m

Milliseconds are CPU time of one thread, medians over all grids; those of the messages, where ROS is
installed, come on top of what they are made of. Results go to benchmarks/results/ as dated JSON
and Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from town import write_results

from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.geometry import invert_transform, transform_points
from occ_perception.mapping.collision import EgoMotion, Footprint, times_to_collision
from occ_perception.mapping.cost_rules import load_cost_rules
from occ_perception.mapping.costmap import GroundView, view_from_ground
from occ_perception.mapping.drive_map import DriveMap
from occ_perception.mapping.obstacles import find_obstacles
from occ_perception.mapping.visibility import ObservedSpace
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model
from occ_perception.synthetic import Drive, DriveSensors, SensorOptions, Town
from occ_perception.synthetic.drive import KEYFRAME_PERIOD_S, Scene
from occ_perception.synthetic.town import MOVABLE_IDS

FIRST_TOWN = 20_000
MEMORY_S = 8.0
HORIZON_S = 8.0
STOP_S, CLEAR_S = 2.0, 4.0
NEAR_M = 30.0
_OUTLINE_M = 0.05


@dataclass
class Tally:
    """Counts over all grids."""

    counts: dict[str, int] = field(default_factory=dict)
    errors: list[float] = field(default_factory=list)
    milliseconds: dict[str, list[float]] = field(default_factory=dict)
    metres: float = 0.0
    false_stops: int = 0

    def add(self, name: str, hits: NDArray[np.bool_]) -> None:
        """Count how many of the cells are true."""
        self.counts[name] = self.counts.get(name, 0) + int(hits.sum())
        self.counts[f"{name}, of"] = self.counts.get(f"{name}, of", 0) + hits.size

    def share(self, name: str) -> float:
        """Per cent of the counted cells."""
        of = self.counts.get(f"{name}, of", 0)
        return 100.0 * self.counts[name] / of if of else math.nan

    def took(self, name: str, began: float) -> None:
        """Book the time since ``began``."""
        self.milliseconds.setdefault(name, []).append(1e3 * (time.thread_time() - began))


def exact_time_to_collision(scene: Scene, motion: EgoMotion, footprint: Footprint) -> float:
    """When the boxes of the scene are first met within 30 m; inf if they are not."""
    ego_T_world = invert_transform(scene.world_T_ego)
    soonest = math.inf
    for body in scene.bodies:
        x, y, z, yaw = body.pose
        (x0, y0, _), (x1, y1, _) = body.lower, body.upper
        u = np.linspace(x0, x1, 2 + int((x1 - x0) / _OUTLINE_M))
        v = np.linspace(y0, y1, 2 + int((y1 - y0) / _OUTLINE_M))
        sides = [np.stack([u, np.full_like(u, w)], 1) for w in (y0, y1)]
        sides += [np.stack([np.full_like(v, w), v], 1) for w in (x0, x1)]
        outline = np.concatenate(sides)
        turn = np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        flat = np.column_stack([outline @ turn.T + (x, y), np.full(len(outline), z)])
        places = transform_points(ego_T_world, flat)[:, :2]
        if np.hypot(*places.T).min() > NEAR_M:
            continue
        velocity = ego_T_world[:2, :2] @ scene.velocities[body.instance]
        velocities = np.tile(velocity, (len(places), 1))
        met = times_to_collision(places, velocities, motion, footprint, horizon_s=HORIZON_S)
        soonest = min(soonest, float(met.min()))
    return soonest


def never_seen(
    masks: list[tuple[NDArray[np.bool_], NDArray[np.float64]]], truth: OccupancyPrediction
) -> NDArray[np.bool_]:
    """(X, Y, Z) voxels of the last grid that none of the masks contains, each with its pose."""
    grid = truth.grid
    centers = grid.centers(np.argwhere(np.ones(grid.dims, bool)))
    seen = np.zeros(len(centers), bool)
    for mask, world_T_ego in masks:
        index = grid.indices(
            transform_points(invert_transform(world_T_ego) @ masks[-1][1], centers)
        )
        inside = grid.contains(index)
        seen[inside] |= mask[tuple(index[inside].T)]
    return ~seen.reshape(grid.dims)


@dataclass(frozen=True, eq=False)
class Moment:
    """One key frame: its frame, exact labels, exact camera mask (X, Y, Z), and the scene."""

    frame: CameraFrame
    truth: OccupancyPrediction
    seen: NDArray[np.bool_]
    scene: Scene


def moments(sensors: DriveSensors, count: int, with_images: bool) -> Iterator[Moment]:
    """Successive key frames of a drive; images are black unless they are asked for."""
    drive = sensors.drive
    for n in range(count):
        t = n * KEYFRAME_PERIOD_S
        truth, seen = sensors.truth(t)
        frame = sensors.frame(t) if with_images else _black_frame(sensors, t)
        yield Moment(frame, truth, seen, drive.scene(sensors.reference_time(t)))


def _black_frame(sensors: DriveSensors, t: float) -> CameraFrame:
    times = {name: sensors.exposure(name, t) for name in sensors.rig.names}
    return CameraFrame(
        rig=sensors.rig,
        images={c.name: np.zeros((c.height, c.width, 3), np.uint8) for c in sensors.rig.cameras},
        stamps_ns={name: sensors.stamp_ns(when) for name, when in times.items()},
        world_T_ego={name: sensors.drive.pose(when) for name, when in times.items()},
        reference_camera="CAM_FRONT",
    )


def measure(drive: Drive, count: int, stream: OccupancyStream | None, tally: Tally) -> None:
    """Add the grids of one drive; without a stream the exact labels are the predictions."""
    size = (160, 90) if stream is None else (704, 396)
    sensors = DriveSensors(drive, SensorOptions(size=size, threads=1))
    rules, footprint = load_cost_rules(), Footprint()
    space = ObservedSpace(MEMORY_S, threads=1)
    masks: list[tuple[NDArray[np.bool_], NDArray[np.float64]]] = []
    drive_map = DriveMap()
    for now in moments(sensors, count, stream is not None):
        prediction = now.truth if stream is None else stream.step(now.frame)
        began = time.thread_time()
        prediction = space.add(now.frame, prediction)
        tally.took("observed space", began)
        began = time.thread_time()
        view = view_from_ground(prediction, rules)
        tally.took("ground and costs", began)
        began = time.thread_time()
        drive_map.add(prediction, now.frame.world_T_reference_ego)
        tally.took("map", began)
        masks.append((now.seen, now.frame.world_T_reference_ego))
        masks = masks[-1 - round(MEMORY_S / KEYFRAME_PERIOD_S) :]
        count_cells(prediction, view, now, never_seen(masks, now.truth), tally)
        if len(masks) < 2:
            continue
        motion = EgoMotion.between(masks[-2][1], masks[-1][1], KEYFRAME_PERIOD_S)
        tally.metres += abs(motion.speed) * KEYFRAME_PERIOD_S
        began = time.thread_time()
        found = find_obstacles(prediction, view.obstacles, motion, footprint, HORIZON_S)
        tally.took("obstacles", began)
        annotated = np.isin(found.labels, MOVABLE_IDS)  # the exact boxes are of these classes
        near = found.times[annotated & (np.hypot(*found.positions[:, :2].T) < NEAR_M)]
        soonest = float(near.min()) if len(near) else math.inf
        exact = exact_time_to_collision(now.scene, motion, footprint)
        tally.false_stops += soonest < STOP_S and exact > CLEAR_S
        if math.isfinite(exact) and math.isfinite(soonest) and exact > 0.0:
            tally.errors.append(soonest - exact)
        if importlib.util.find_spec("rclpy") is not None:
            time_messages(now.frame, prediction, motion, drive_map, tally)


def time_messages(
    frame: CameraFrame,
    prediction: OccupancyPrediction,
    motion: EgoMotion,
    drive_map: DriveMap,
    tally: Tally,
) -> None:
    """Time every message of the node, without what several of them share."""
    from occ_perception.ros.outputs import OUTPUTS
    from occ_perception.ros.parameters import NodeParameters
    from occ_perception.ros.surroundings import Course, Step, WorldMap

    course = Course(motion=motion, horizon_s=HORIZON_S)
    step = Step(frame, prediction, course=course, world_map=WorldMap("map", drive_map))
    assert len(step.ground.costs) and len(step.obstacles.times) >= 0  # computed once, here
    for output in OUTPUTS:
        began = time.thread_time()
        if output.message(step, NodeParameters()) is not None:
            tally.took(f"{output.topic} message", began)


def count_cells(
    prediction: OccupancyPrediction,
    view: GroundView,
    now: Moment,
    hidden: NDArray[np.bool_],
    tally: Tally,
) -> None:
    """Compare observed space and columns with the exact ones."""
    observed = prediction.observed
    assert observed is not None
    tally.add("unknown when never seen", ~observed[hidden])
    tally.add("seen when seen", observed[now.seen])
    exact = view_from_ground(now.truth, load_cost_rules())
    is_blocked: NDArray[np.bool_] = np.asarray(view.obstacles.any(axis=2))
    in_view = (now.seen & exact.obstacles).any(axis=2)
    tally.add("obstacle columns found", is_blocked[in_view])
    tally.add("free columns blocked", is_blocked[now.seen.any(axis=2) & (exact.costs == 0)])


def results_of(tally: Tally) -> dict[str, float]:
    """Figures of a tally; per cent, seconds, milliseconds."""
    errors = np.abs(tally.errors or [math.nan])
    return {
        **{
            f"{name} %": tally.share(name)
            for name in (
                "unknown when never seen",
                "seen when seen",
                "obstacle columns found",
                "free columns blocked",
            )
        },
        "false stops per km": tally.false_stops / tally.metres * 1e3 if tally.metres else math.nan,
        "collisions": len(tally.errors),
        "time to collision, median error s": float(np.median(errors)),
        "time to collision, p95 error s": float(np.percentile(errors, 95)),
        **{f"{name} ms": float(np.median(t)) for name, t in tally.milliseconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drives", type=int, default=4)
    parser.add_argument("--frames", type=int, default=20, help="of each drive, 0.5 s apart")
    parser.add_argument("--model", help="a model whose weights are on this machine")
    chosen = parser.parse_args()
    stream = None
    if chosen.model is not None:
        stream = OccupancyStream(load_model(chosen.model))
    tally = Tally()
    for town in range(FIRST_TOWN, FIRST_TOWN + chosen.drives):
        measure(Drive(Town(town), 0), chosen.frames, stream, tally)
        if stream is not None:
            stream.reset()
    row = results_of(tally)
    write_results(
        "surroundings", {name: {chosen.model or "exact labels": v} for name, v in row.items()}
    )


if __name__ == "__main__":
    main()
