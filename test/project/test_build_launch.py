"""Launch file, RViz view, Foxglove layout and player QoS agree with the node they belong to.

ROS's `launch` and `launch_ros` are part of a ROS installation only. Tests that need them are
skipped without one; the others read the files. test/ros/test_launch.py runs the launch file.
"""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch/alocc.launch.py"
RVIZ = ROOT / "config/rviz/occupancy.rviz"
FOXGLOVE = ROOT / "config/foxglove_layout.json"


def assigned(name: str) -> ast.expr:
    """The value that the launch file gives to a module-level name."""
    for statement in ast.parse(LAUNCH.read_text()).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name:
            return statement.value
    raise AssertionError(f"{LAUNCH} assigns no {name}")


def node_parameters() -> dict[str, tuple[str, str]]:
    """Argument -> the parameter that it overrides, and the type."""
    value = assigned("NODE_PARAMETERS")
    assert isinstance(value, ast.Dict)
    found = {}
    for key, pair in zip(value.keys, value.values, strict=True):
        assert key is not None
        assert isinstance(pair, ast.Tuple)
        parameter, type_ = pair.elts
        found[ast.literal_eval(key)] = (ast.literal_eval(parameter), ast.unparse(type_))
    return found


def declared_arguments() -> set[str]:
    value = assigned("ARGUMENTS")
    assert isinstance(value, ast.List)
    return {ast.literal_eval(call.args[0]) for call in value.elts if isinstance(call, ast.Call)}


def test_every_argument_that_is_read_is_declared_and_the_other_way_round() -> None:
    read = set(node_parameters())
    for call in ast.walk(ast.parse(LAUNCH.read_text())):
        if isinstance(call, ast.Call) and ast.unparse(call.func) in {
            "argument",
            "is_true",
            "LaunchConfiguration",
        }:
            read |= {item.value for item in call.args if isinstance(item, ast.Constant)}
    assert read == declared_arguments()


@pytest.mark.ros
def test_overridden_parameters_exist_on_the_node_with_that_type() -> None:
    pytest.importorskip("rclpy")
    from occ_perception.ros.parameters import declarations

    types = {item.name: type(item.default).__name__ for item in declarations()}
    overridden = dict(node_parameters().values())
    expected = {name: types.get(name) for name in overridden}
    assert overridden == {k: "list[str]" if v == "list" else v for k, v in expected.items()}


def test_files_the_launch_file_names_exist() -> None:
    named = {
        "/".join(item.value for item in _share_parts(node))
        for node in ast.walk(ast.parse(LAUNCH.read_text()))
        if isinstance(node, ast.BinOp) and _share_parts(node)
    }
    files = {name for name in named if "." in name}
    assert {"config/fastdds.xml", "config/occupancy_node.yaml"} <= files
    assert [name for name in files if not (ROOT / name).is_file()] == []


def _share_parts(node: ast.expr) -> list[ast.Constant]:
    """The path constants of ``SHARE / "a" / "b"``."""
    parts: list[ast.Constant] = []
    while isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        parts.insert(0, node.right)
        node = node.left
    return parts if ast.unparse(node) == "SHARE" else []


def rviz_displays() -> dict[str, dict[str, Any]]:
    manager = yaml.safe_load(RVIZ.read_text())["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
    return {display["Name"]: display for display in manager["Displays"]}


def test_rviz_shows_the_nodes_points_as_boxes_of_one_voxel() -> None:
    pytest.importorskip("torch")
    from occ_perception.models.zoo import get_card

    display = rviz_displays()["Occupancy"]
    assert display["Class"] == "rviz_default_plugins/PointCloud2"
    assert display["Topic"]["Value"] == "/occupancy_node/occupancy_points"
    assert display["Style"] == "Boxes"
    voxel_size = get_card("alocc_2d_mini").grid.voxel_size
    assert tuple(voxel_size) == pytest.approx([display["Size (m)"]] * 3)


def test_the_ground_grid_has_the_property_names_of_rviz() -> None:
    """RViz silently ignores an unknown name."""
    (ground,) = (
        display
        for display in rviz_displays().values()
        if display["Class"] == "rviz_default_plugins/Grid"
    )
    assert {"Cell Size", "Normal Cell Count", "Plane Cell Count"} <= set(ground)


def test_rviz_shows_the_overlay_and_the_images_of_our_own_layout() -> None:
    layouts = ROOT / "occ_perception/sensing/layouts"
    cameras = yaml.safe_load((layouts / "occ_perception.yaml").read_text())["cameras"]
    images = {
        display["Topic"]["Value"]: display["Enabled"]
        for display in rviz_displays().values()
        if display["Class"] == "rviz_default_plugins/Image"
    }
    # RViz knows a compressed image by the end of its name. The overlay takes time of the network.
    assert images.pop("/occupancy_node/debug/overlay/compressed") is False
    # These exist with that layout only.
    assert images == {camera["image"]: False for camera in cameras.values()}


# What each display of RViz shows.
DISPLAYED = {
    "rviz_default_plugins/PointCloud2": "sensor_msgs/PointCloud2",
    "rviz_default_plugins/MarkerArray": "visualization_msgs/MarkerArray",
    "rviz_default_plugins/Map": "nav_msgs/OccupancyGrid",
    "rviz_default_plugins/Image": "sensor_msgs/CompressedImage",
}


def node_topics() -> dict[str, str]:
    """Full name of every output of the node -> its type, with the optional ones."""
    from occ_perception.ros.outputs import OUTPUTS

    types = {
        output.topic: f"{output.message_type.__module__.partition('.')[0]}/"
        f"{output.message_type.__name__}"
        for output in OUTPUTS
    }
    types |= {
        "~/voxel_grid": "foxglove_msgs/VoxelGrid",  # where that package is installed
        "/diagnostics": "diagnostic_msgs/DiagnosticArray",
    }
    return {name.replace("~", "/occupancy_node"): kind for name, kind in types.items()}


@pytest.mark.ros
def test_rviz_shows_outputs_of_the_node_and_follows_its_namespace() -> None:
    pytest.importorskip("occ_perception.ros.outputs", exc_type=ImportError)
    topics, followed = node_topics(), ast.literal_eval(assigned("SHOWN_OUTPUTS"))
    shown = {
        display["Topic"]["Value"]: DISPLAYED[display["Class"]]
        for display in rviz_displays().values()
        if display.get("Topic", {}).get("Value", "").startswith("/occupancy_node/")
    }
    assert shown == {name: topics[name] for name in shown}
    assert set(shown) == {f"/occupancy_node/{output}" for output in followed}
    for display in rviz_displays().values():
        if display.get("Topic", {}).get("Value") in shown:
            # The QoS of the node's outputs; another durability would match nothing.
            assert display["Topic"]["Durability Policy"] == "Volatile", display["Name"]
            assert display["Topic"]["Reliability Policy"] == "Reliable", display["Name"]


@pytest.mark.ros
def test_every_topic_of_the_foxglove_layout_is_an_output_of_the_node() -> None:
    pytest.importorskip("occ_perception.ros.outputs", exc_type=ImportError)
    layout = json.loads(FOXGLOVE.read_text())
    panels = layout["configById"]
    space, image, raw = (
        panels[name] for name in ("3D!grid", "Image!overlay", "RawMessages!diagnostics")
    )
    topics = node_topics()
    assert {topics[name] for name in space["topics"]} == {
        *("foxglove_msgs/VoxelGrid", "sensor_msgs/PointCloud2"),
        *("visualization_msgs/MarkerArray", "nav_msgs/OccupancyGrid"),
    }
    assert topics[image["imageMode"]["imageTopic"]] == "sensor_msgs/CompressedImage"
    assert topics[raw["topicPath"]] == "diagnostic_msgs/DiagnosticArray"
    assert space["followTf"] == "base_link"
    assert arranged(layout["layout"]) == set(panels)


def arranged(part: dict[str, Any] | str) -> set[str]:
    """The panels of a layout, which is a tree of halves."""
    return {part} if isinstance(part, str) else arranged(part["first"]) | arranged(part["second"])


def test_the_layout_shows_the_voxels_of_recorded_predictions() -> None:
    from occ_perception.bags.foxglove import VOXEL_GRID_TOPIC

    panels = json.loads(FOXGLOVE.read_text())["configById"]
    assert panels["3D!grid"]["topics"][VOXEL_GRID_TOPIC]["visible"] is True


def test_player_latches_static_transforms() -> None:
    quality = yaml.safe_load((ROOT / "config/bag_qos.yaml").read_text())["/tf_static"]
    assert (quality["durability"], quality["reliability"]) == ("transient_local", "reliable")


@pytest.fixture(scope="module")
def launch_module() -> ModuleType:
    """The launch file as a module, where ROS's launch packages are installed."""
    pytest.importorskip("launch_ros.actions")
    spec = importlib.util.spec_from_file_location("alocc_launch", LAUNCH)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.ros
def test_every_argument_has_a_description_and_a_default(launch_module: ModuleType) -> None:
    description = launch_module.generate_launch_description()
    arguments = {item.name: item for item in description.get_launch_arguments()}
    assert set(arguments) == declared_arguments()
    for argument in arguments.values():
        assert argument.description
        assert argument.default_value is not None


@pytest.mark.ros
@pytest.mark.parametrize(
    ("given", "commands", "sim_time"),
    [
        ({}, ["occupancy_node"], False),
        ({"rviz": "true"}, ["rviz2", "occupancy_node"], False),
        ({"bag": "/data/drive", "layout": "foxglove"}, ["occupancy_node"], True),
        (
            {"bag": "/data/drive", "layout": "foxglove", "use_sim_time": "false"},
            ["occupancy_node"],
            False,
        ),
    ],
)
def test_processes_follow_the_arguments(
    launch_module: ModuleType, given: dict[str, str], commands: list[str], sim_time: bool
) -> None:
    context = _context(launch_module, given)
    actions = launch_module.start_processes(context, given.get("bag", ""))
    nodes = [item for item in actions if hasattr(item, "node_executable")]
    assert [item.node_executable for item in nodes] == commands
    for node in nodes:
        assert _values(context, node)["use_sim_time"] is sim_time


@pytest.mark.ros
def test_arguments_become_parameters(launch_module: ModuleType) -> None:
    given = {
        "random_weights_seed": "3",
        "weights": "12",  # a path, though it looks like a number
        "image_topics": "CAM_FRONT=/front/image_raw,CAM_BACK=/back/image_raw",
        "lidar_topic": "/lidar_top",
        "missing_camera": "reuse_last",
    }
    context = _context(launch_module, given)
    (node,) = (
        item
        for item in launch_module.start_processes(context, "")
        if hasattr(item, "node_executable")
    )
    assert _values(context, node) == {
        "random_weights_seed": 3,
        "weights": "12",
        "image_topics": ["CAM_FRONT=/front/image_raw", "CAM_BACK=/back/image_raw"],
        "lidar.topic": "/lidar_top",
        "missing_camera": "reuse_last",
        "use_sim_time": False,
    }


def _context(launch_module: ModuleType, given: dict[str, str]) -> Any:
    """A context in which the arguments are declared, and some given."""
    import launch

    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    for argument in launch_module.generate_launch_description().get_launch_arguments():
        argument.execute(context)
    return context


def _values(context: Any, node: Any) -> dict[str, Any]:
    """The parameters that a node is given beside those of its file."""
    from launch_ros.utilities import evaluate_parameters

    values: dict[str, Any] = {}
    for item in evaluate_parameters(context, node._Node__parameters):
        values |= (
            {k: v.evaluate(context) if hasattr(v, "evaluate") else v for k, v in item.items()}
            if isinstance(item, dict)
            else {}
        )
    return values
