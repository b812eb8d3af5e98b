"""The node's parameters: one table that the declaration, params file and documentation match."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("occ_perception.ros.parameters", exc_type=ImportError)

import rclpy
from processes import SMALL_MODEL_NODE, python_module
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from ros_fixtures import HAD_TF2_MSGS, Launch

from occ_perception.models.zoo import get_card
from occ_perception.ros.node_plan import plan_node
from occ_perception.ros.parameters import (
    Declaration,
    NodeParameters,
    ParameterError,
    ParameterServer,
    declarations,
)
from occ_perception.sensing.calibration import load_rig, save_rig

pytestmark = pytest.mark.ros

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS_FILE = REPOSITORY / "config" / "occupancy_node.yaml"


@pytest.fixture
def contexts() -> Iterator[list[Context]]:
    opened: list[Context] = []
    yield opened
    for context in opened:
        context.try_shutdown()


def node_with(contexts: list[Context], *arguments: str) -> Node:
    context = Context()
    rclpy.init(args=["--ros-args", *arguments] if arguments else [], context=context)
    contexts.append(context)
    return Node("occupancy_node", context=context)


def flat_names(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    names: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            names |= flat_names(value, f"{prefix}{key}.")
        else:
            names[prefix + key] = value
    return names


def test_the_params_file_lists_every_parameter_at_its_default() -> None:
    tree = yaml.safe_load(PARAMS_FILE.read_text())["/**"]["ros__parameters"]
    assert flat_names(tree) == {d.name: d.default for d in declarations()}


def test_ros_loads_the_params_file(contexts: list[Context]) -> None:
    server = ParameterServer(node_with(contexts, "--params-file", str(PARAMS_FILE)))
    assert server.unknown == []
    assert server.values == NodeParameters()


def documented(declaration: Declaration) -> str:
    """The entry of the page's list, without its line breaks."""
    default = declaration.default
    kinds = {str: "string", float: "double", int: "integer", bool: "boolean", list: "string array"}
    kind = kinds[type(default)]
    if declaration.choices:
        kind += ", one of " + ", ".join(f"`{choice}`" for choice in declaration.choices) + ";"
    elif declaration.minimum is not None:
        kind += f", {declaration.minimum} to {declaration.maximum},"
    else:
        kind += ","
    shown = '[""]' if default == [""] else '""' if default == "" else default
    if isinstance(default, bool):
        shown = str(default).lower()
    live = ", live" if declaration.live else ""
    return f"`{declaration.name}` ({kind} default `{shown}`{live}): {declaration.description}"


def test_the_documentation_lists_every_parameter_and_no_other() -> None:
    page = (REPOSITORY / "docs" / "node.md").read_text()
    section = page.split("\n## Parameters\n")[1].split("\n## ")[0]
    entries = [" ".join(e.split()) for e in re.findall(r"^- ((?:.+\n)(?:  .+\n)*)", section, re.M)]
    assert entries == [documented(declaration) for declaration in declarations()]


def test_descriptors_reach_ros(contexts: list[Context]) -> None:
    node = node_with(contexts)
    ParameterServer(node)
    policy = node.describe_parameter("sync.policy")
    assert policy.read_only
    assert policy.additional_constraints == "one of: native, message_filters"
    wait = node.describe_parameter("pose.wait_ms")
    assert not wait.read_only
    assert (wait.floating_point_range[0].from_value, wait.floating_point_range[0].to_value) == (
        0.0,
        5000.0,
    )
    assert all(node.describe_parameter(d.name).description for d in declarations())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("missing_camera:=guess", "missing_camera must be one of drop, reuse_last, mask, got"),
        ("pose.wait_ms:=-1.0", "pose.wait_ms must lie in [0.0, 5000.0], got -1.0"),
        ("pose.wait_ms:=.nan", "pose.wait_ms must lie in"),
        ("pose.wait_ms:=100", "pose.wait_ms must be of type double, got integer 100"),
        ("random_weights_seed:=-2", "random_weights_seed must lie in"),
        ("image_topics:=[CAM_FRONT]", "image_topics: expected one CAMERA=topic per camera"),
        ("image_topics:=[A=/a, A=/b]", "got 'A=/b'"),
        ("model:=7", "model must be of type string, got integer 7"),
    ],
)
def test_wrong_start_values_are_refused(
    contexts: list[Context], setting: str, message: str
) -> None:
    node = node_with(contexts, "-p", setting)
    with pytest.raises(ParameterError) as raised:
        ParameterServer(node)
    assert message in str(raised.value)


def test_changes_are_taken_or_refused_with_a_reason(contexts: list[Context]) -> None:
    node = node_with(contexts)
    server = ParameterServer(node)

    def change(name: str, value: Any) -> str:
        result = node.set_parameters([Parameter(name, value=value)])[0]
        return "" if result.successful else result.reason

    assert change("occupancy_encoding", "sparse") == ""
    assert change("flow_min_speed", 1.5) == ""
    assert (server.values.occupancy_encoding, server.values.flow_min_speed) == ("sparse", 1.5)
    assert "must be one of rle, sparse, dense" in change("occupancy_encoding", "zip")
    assert "out of range" in change("flow_min_speed", -1.0)
    assert "read-only" in change("model", "other")
    assert (server.values.occupancy_encoding, server.values.flow_min_speed) == ("sparse", 1.5)


def test_unknown_names_are_reported_with_the_nearest_known_one(contexts: list[Context]) -> None:
    node = node_with(contexts, "-p", "sync.tolerance:=50.0", "-p", "use_sim_time:=false")
    assert ParameterServer(node).unknown == [
        "parameter sync.tolerance does not exist and has no effect; did you mean sync.tolerance_ms?"
    ]


# -- what the parameters mean for the inputs -----------------------------------------------------


def test_inputs_without_a_layout_are_private_topics() -> None:
    plan = plan_node(NodeParameters(), get_card("alocc_2d_mini"))
    assert plan.cameras[0].image.startswith("~/input/cam_")
    assert plan.pose.topic == "~/input/odometry"
    assert (plan.reference_camera, plan.tolerance_ns) == ("CAM_FRONT", None)
    assert plan.needs_tf


def test_a_layout_and_its_overrides() -> None:
    parameters = NodeParameters(
        layout="autoware",
        image_topics=("CAM_BACK=/rear/image_raw",),
        sync_tolerance_ms=30.0,
        image_encoding="bgr8",
        world_frame="odom",
    )
    plan = plan_node(parameters, get_card("alocc_2d_mini"))
    images = {camera.name: camera.image for camera in plan.cameras}
    assert images["CAM_BACK"] == "/rear/image_raw"
    assert images["CAM_FRONT"] == "/sensing/camera/camera0/image_raw"
    assert plan.tolerance_ns == 30_000_000
    assert set(plan.encodings.values()) == {"bgr8"}
    assert (plan.pose.kind, plan.pose.world_frame) == ("odometry", "odom")
    tf = plan_node(NodeParameters(layout="autoware", pose_source="tf"), get_card("alocc_2d_mini"))
    assert (tf.pose.kind, tf.pose.topic) == ("tf", "/tf")


def test_a_rig_file_replaces_camera_info_and_tf() -> None:
    plan = plan_node(NodeParameters(rig="nuscenes"), get_card("alocc_2d_mini"))
    assert not plan.needs_tf
    assert plan.given is not None
    assert all(camera.camera_info == "" for camera in plan.cameras)


def test_cameras_that_the_rig_file_does_not_have_are_absent(tmp_path: Path) -> None:
    nominal = load_rig("nuscenes")
    cameras = tuple(c for c in nominal.cameras if c.name != "CAM_BACK")
    save_rig(tmp_path / "five.yaml", replace(nominal, cameras=cameras))
    parameters = NodeParameters(rig=str(tmp_path / "five.yaml"))
    plan = plan_node(parameters, get_card("alocc_2d_mini"))
    assert plan.absent == ("CAM_BACK",)
    assert "CAM_BACK" not in [camera.name for camera in plan.cameras]
    with pytest.raises(ParameterError, match="CAM_BACK is not among"):
        plan_node(replace(parameters, reference_camera="CAM_BACK"), get_card("alocc_2d_mini"))


def test_a_model_for_another_rig_takes_the_cameras_it_knows() -> None:
    plan = plan_node(NodeParameters(layout="occ_perception"), get_card("alocc_3d_waymo"))
    assert plan.absent == ("CAM_SIDE_LEFT", "CAM_SIDE_RIGHT")
    assert plan.cameras[0].name == plan.reference_camera == "CAM_FRONT"


def test_the_lidars_mount_comes_from_tf_if_no_file_has_it(tmp_path: Path) -> None:
    card = get_card("alocc_3d_surroundocc")
    assert plan_node(NodeParameters(rig="nuscenes"), card).lidar_frame == ""
    blind = tmp_path / "blind.yaml"
    save_rig(blind, replace(load_rig("nuscenes"), ego_T_lidar=None))
    plan = plan_node(NodeParameters(rig=str(blind)), card)
    assert plan.lidar_frame == "lidar_top" and plan.needs_tf
    named = plan_node(NodeParameters(rig=str(blind), lidar_frame="velodyne"), card)
    assert named.lidar_frame == "velodyne"
    assert not plan_node(NodeParameters(rig=str(blind)), get_card("alocc_3d")).needs_tf


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"layout": "nonsense"}, "nonsense"),
        ({"rig": "/nowhere.yaml"}, "/nowhere.yaml"),
        ({"image_topics": ("CAM_FRNT=/a",)}, "no camera is called CAM_FRNT"),
        ({"reference_camera": "CAM_TOP"}, "reference_camera is CAM_TOP, expected one of"),
    ],
)
def test_contradictions_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError) as raised:
        plan_node(NodeParameters(**parameters), get_card("alocc_2d_mini"))
    assert message in str(raised.value)


# -- starting the executable ---------------------------------------------------------------------


def start(launch: Launch, command: Sequence[str | Path], **environment: Any) -> tuple[int, str]:
    process = launch(command, **environment)
    return process.wait(120), process.output()


def test_a_start_without_weights_names_the_parameters_to_set(
    launch: Launch, child_environment: dict[str, str], tmp_path: Path
) -> None:
    code, output = start(
        launch,
        python_module("occ_perception.ros.node"),
        environment={**child_environment, "OCC_WEIGHTS": str(tmp_path)},
    )
    assert code == 1
    assert "`occ weights fetch alocc_2d_mini` downloads them" in output
    assert "or set weights (path of a checkpoint), or random_weights_seed" in output
    assert "Traceback" not in output


@pytest.mark.skipif(HAD_TF2_MSGS, reason="this machine has tf2_msgs")
def test_a_start_without_tf_messages_names_the_remedy(
    launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    code, output = start(
        launch,
        [sys.executable, SMALL_MODEL_NODE, "--ros-args", "-p", "random_weights_seed:=0",
         "-p", "model:=alocc_2d_mini_small"],
        environment=environment_without_tf,
    )  # fmt: skip
    assert code == 1
    assert "tf2_msgs is not importable" in output
    assert "parameter rig" in output
    assert "Traceback" not in output


def test_a_start_without_occ_msgs_names_the_build_command(
    launch: Launch, child_environment: dict[str, str], tmp_path: Path
) -> None:
    hidden = tmp_path / "occ_msgs"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('not built')\n")
    path = f"{tmp_path}:{child_environment['PYTHONPATH']}"
    code, output = start(
        launch,
        python_module("occ_perception.ros.node"),
        environment={**child_environment, "PYTHONPATH": path},
    )
    assert code == 1
    assert len(output.splitlines()) == 1
    assert "make setup" in output
    assert "colcon build" in output
