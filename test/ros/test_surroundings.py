"""Costmap, obstacle points, observed space and collision status, as messages and from the node."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import CAMERAS, Car, Listener, image, small_rig, spin_until, write_rig
from nav_msgs.msg import OccupancyGrid
from processes import SMALL_MODEL_NODE
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from ros_fixtures import Launch
from sensor_msgs.msg import PointCloud2
from test_messages import prediction

from occ_perception.frames import CameraFrame
from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.mapping.cost_rules import load_cost_rules
from occ_perception.mapping.costmap import view_from_ground
from occ_perception.mapping.drive_map import DriveMap
from occ_perception.mapping.obstacles import Obstacles
from occ_perception.mapping.voxel_blocks import MapError
from occ_perception.ros.ground_messages import CostmapError, costmap_message, obstacles_message
from occ_perception.ros.messages import prediction_from_message
from occ_perception.ros.outputs import MapPoints
from occ_perception.ros.parameters import NodeParameters
from occ_perception.ros.surroundings import Step, Surroundings
from occ_perception.sensing.from_messages import points_from_message, stamp_ns

pytestmark = pytest.mark.ros

T0 = 1_700_000_000 * 10**9
SECOND = 10**9


def test_a_costmap_is_laid_out_as_nav_msgs_says() -> None:
    """Cell (column, row) of the message is voxel column (i, j), x fastest, from the origin on."""
    turn = np.eye(4)
    turn[:3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    turn[:3, 3] = 1.0, 2.0, 0.5
    sent = prediction(dims=(7, 5, 3), ego_T_grid=turn)
    costs = np.arange(-1, 34).astype(np.int8).reshape(7, 5)
    message = deserialize_message(serialize_message(costmap_message(sent, costs)), OccupancyGrid)
    assert (message.info.width, message.info.height) == (7, 5)
    assert message.info.resolution == pytest.approx(0.4)
    assert stamp_ns(message.header.stamp) == sent.stamp_ns
    np.testing.assert_array_equal(np.array(message.data).reshape(5, 7), costs.T)
    origin = message.info.origin
    p, q = origin.position, origin.orientation
    ego_T_map = matrix_from_pose((p.x, p.y, p.z), (q.x, q.y, q.z, q.w))
    centre = ego_T_map @ [(6 + 0.5) * 0.4, (2 + 0.5) * 0.4, 0.0, 1.0]
    expected = turn @ [*sent.grid.centers([6, 2, 0])[:2], 0.0, 1.0]
    assert centre[:2] == pytest.approx(expected[:2])


def test_columns_that_are_no_squares_have_no_costmap() -> None:
    given = replace(prediction(), grid=VoxelGrid((-1.4, -1.0, -1.0), (0.4, 0.2, 0.4), (7, 5, 3)))
    with pytest.raises(CostmapError, match=r"0\.4 x 0\.2 m"):
        costmap_message(given, np.zeros((7, 5), np.int8))


def test_obstacle_points_hold_velocity_and_time() -> None:
    obstacles = Obstacles(
        positions=np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]),
        labels=np.array([4, 16], np.uint8),
        velocities=np.array([[7.0, 8.0], [0.0, 0.0]], np.float32),
        times=np.array([1.5, math.inf], np.float32),
    )
    message = deserialize_message(
        serialize_message(obstacles_message(prediction(), obstacles)), PointCloud2
    )
    points = points_from_message(message)
    assert [f.name for f in message.fields] == ["x", "y", "z", "rgb", "label", "vx", "vy", "ttc"]
    assert points[0].item()[:3] == (1.0, 2.0, 3.0) and points["label"].tolist() == [4, 16]
    assert points["vx"].tolist() == [7.0, 0.0] and points["vy"].tolist() == [8.0, 0.0]
    assert points["ttc"].tolist() == [1.5, math.inf]


def step_at(surroundings: Surroundings, seconds: float, x: float, **changes) -> Step:
    """The next step of a vehicle at (x, 0), with a grid of its own."""
    stamp_ns = T0 + round(seconds * SECOND)
    world_T_ego = np.eye(4)
    world_T_ego[0, 3] = x
    frame = CameraFrame(
        rig=small_rig(),
        images={name: image(name, seconds) for name in CAMERAS},
        stamps_ns=dict.fromkeys(CAMERAS, stamp_ns),
        world_T_ego=dict.fromkeys(CAMERAS, world_T_ego),
        reference_camera="CAM_FRONT",
    )
    return surroundings.add(frame, replace(prediction(), stamp_ns=stamp_ns, **changes))


def test_the_map_of_the_node_is_that_of_the_drive() -> None:
    values = NodeParameters(map_period_s=1.0, observed_memory_s=-1.0, collision_horizon_s=0.0)
    surroundings = Surroundings(values, "odom")
    expected = DriveMap()
    steps = [step_at(surroundings, n / 2, 0.8 * n) for n in range(3)]
    assert [step.world_map is not None for step in steps] == [True, False, True]
    for n, step in enumerate(steps):
        pose = np.eye(4)
        pose[0, 3] = 0.8 * n
        expected.add(step.prediction, pose)
    message = MapPoints().message(steps[-1], values)
    assert message is not None and message.header.frame_id == "odom"
    points = points_from_message(deserialize_message(serialize_message(message), PointCloud2))
    voxels = expected.voxels()
    assert len(points) == voxels.occupied.sum() > 0
    np.testing.assert_allclose(
        np.column_stack([points[n] for n in "xyz"]), voxels.centres()[voxels.occupied], atol=1e-6
    )
    np.testing.assert_array_equal(points["label"], voxels.classes[voxels.occupied])
    assert points["probability"].min() > 0.5 and points["probability"].max() < 1.0
    assert MapPoints().message(steps[1], values) is None

    # A network without a history has seen the place all the same; a new drive has not.
    after = step_at(surroundings, 2.0, 1.6, history_break="a gap").world_map
    assert after is not None and after.drive.frames == 4
    surroundings.reset()
    after = step_at(surroundings, 2.5, 1.6).world_map
    assert after is not None and after.drive.frames == 1


def test_the_first_map_is_due_at_once_also_in_simulated_time() -> None:
    values = NodeParameters(map_period_s=5.0, observed_memory_s=-1.0, collision_horizon_s=0.0)
    surroundings = Surroundings(values)
    since_start = [seconds - T0 / SECOND for seconds in (0.25, 1.0)]
    first, second = (step_at(surroundings, seconds, 0.0) for seconds in since_start)
    assert first.prediction.stamp_ns < SECOND
    assert first.world_map is not None and second.world_map is None


def test_a_pose_beyond_the_map_costs_the_map_alone() -> None:
    values = NodeParameters(map_period_s=0.1, observed_memory_s=-1.0, collision_horizon_s=0.0)
    surroundings = Surroundings(values)
    step_at(surroundings, 0.0, 0.0)
    far = step_at(surroundings, 1.0, 1e9)
    with pytest.raises(MapError, match="from the map's origin"):
        MapPoints().message(far, values)
    again = step_at(surroundings, 2.0, 0.4)
    assert MapPoints().message(again, values) is not None


def test_no_map_is_made_unless_asked_for() -> None:
    values = NodeParameters(observed_memory_s=-1.0, collision_horizon_s=0.0)
    assert step_at(Surroundings(values), 0.0, 0.0).world_map is None


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    made = rclpy.create_node("planner")
    yield made
    made.destroy_node()


def test_a_planner_gets_what_the_grid_says(launch: Launch, tmp_path: Path, node: Node) -> None:
    """Every output is what the published grid with its observed voxels gives."""
    command = [
        sys.executable, SMALL_MODEL_NODE, "--ros-args",
        "-p", "model:=alocc_2d_mini_small", "-p", "random_weights_seed:=0", "-p", "device:=cpu",
        "-p", f"rig:={write_rig(tmp_path / 'rig.yaml')}", "-p", "sync.deadline_ms:=1000.0",
        "-p", "map.period_s:=0.1",
    ]  # fmt: skip
    process = launch(command)
    car, listener = Car(node), Listener(node)
    drive_maps: dict[int, PointCloud2] = {}
    node.create_subscription(
        PointCloud2, "/occupancy_node/map_points", lambda m: drive_maps.update({_stamp(m): m}), 10
    )
    maps: dict[int, OccupancyGrid] = {}
    clouds: dict[int, PointCloud2] = {}
    node.create_subscription(
        OccupancyGrid, "/occupancy_node/costmap", lambda m: maps.update({_stamp(m): m}), 10
    )
    node.create_subscription(
        PointCloud2, "/occupancy_node/obstacle_points", lambda m: clouds.update({_stamp(m): m}), 10
    )
    car.wait_until_heard()
    stamps = []
    for number in range(3):
        stamps.append(car.frame_set(T0 + number * SECOND // 2))
        listener.wait_for_grid(stamps[-1])
    last = stamps[-1]
    wanted = (maps, clouds, drive_maps)
    spin_until(node, lambda: all(last in kind for kind in wanted), 60, "costmap, obstacles, map")

    grid = prediction_from_message(listener.grids[last])
    assert grid.observed is not None and 0 < grid.observed.sum() < grid.observed.size
    view = view_from_ground(grid, load_cost_rules())
    data = np.array(maps[last].data, np.int8).reshape(maps[last].info.height, -1)
    np.testing.assert_array_equal(data.T, view.costs)
    points = points_from_message(clouds[last])
    found = grid.grid.indices(np.column_stack([points[n] for n in "xyz"]))
    np.testing.assert_array_equal(found, np.argwhere(view.obstacles))

    # The car drives along x of the world.
    drive_map = DriveMap()
    for stamp in stamps:
        drive_map.add(prediction_from_message(listener.grids[stamp]), car.world_T_ego(stamp))
    voxels = drive_map.voxels()
    mapped = points_from_message(drive_maps[last])
    assert drive_maps[last].header.frame_id == "map"
    np.testing.assert_allclose(
        np.column_stack([mapped[n] for n in "xyz"]), voxels.centres()[voxels.occupied], atol=1e-4
    )

    # The car drives at 5 m/s along x; the soonest of the points is what the diagnostics say.
    status = listener.wait_for_status("collision", "")
    values = {pair.key: pair.value for pair in status.values}
    assert float(values["speed_mps"]) == pytest.approx(5.0, abs=0.1)
    soonest = float(points["ttc"].min())
    assert float(values["time_to_collision_s"]) == pytest.approx(soonest, abs=0.01)
    assert ("is met in" in status.message) == math.isfinite(soonest)
    assert process.stop() == 0


def _stamp(message: OccupancyGrid | PointCloud2) -> int:
    return stamp_ns(message.header.stamp)


def test_a_wrong_file_of_costs_ends_the_start(launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "costs.yaml").write_text("band_m: [2.0, 0.3]\ncosts: {}\n")
    process = launch([
        sys.executable, SMALL_MODEL_NODE, "--ros-args",
        "-p", "model:=alocc_2d_mini_small", "-p", "random_weights_seed:=0", "-p", "device:=cpu",
        "-p", f"costs:={tmp_path / 'costs.yaml'}",
    ])  # fmt: skip
    assert process.wait(120) == 1
    assert "band_m is [2.0, 0.3], expected the lower and the upper end" in process.output()
