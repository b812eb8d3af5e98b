"""Starts the occupancy node, and optionally a bag player and RViz.

    ros2 launch occ_perception alocc.launch.py weights:=alocc_2d_mini.pth layout:=car.yaml
    ros2 launch occ_perception alocc.launch.py weights:=... bag:=drive rviz:=true
    ros2 launch occ_perception alocc.launch.py weights:=... nuscenes:=ROOT scene:=scene-0103
    ros2 launch occ_perception alocc.launch.py --show-args

A scene is converted on its first replay and kept in the user's cache folder. The bag starts when
the node is active and has subscribed. All processes get the DDS profile of config/fastdds.xml. A
camera driver or a bag started elsewhere needs it exported in its own shell.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.action import Action
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import ExecutableInPackage

from occ_perception.bags.discovery import choose_layout
from occ_perception.bags.recording import Recording
from occ_perception.bags.scene_cache import cached_scene, version_of_scene
from occ_perception.sensing.layouts import load_layout

SHARE = Path(get_package_share_directory("occ_perception"))
SHIPPED_PARAMETERS = str(SHARE / "config" / "occupancy_node.yaml")

# Kilted renamed the variable. If both are set, Fast DDS reads the file twice and refuses it.
BEFORE_KILTED = os.environ.get("ROS_DISTRO") in {"humble", "iron", "jazzy"}
PROFILE_VARIABLE = f"{'FASTRTPS' if BEFORE_KILTED else 'FASTDDS'}_DEFAULT_PROFILES_FILE"

# `ros2 launch` leaves its processes behind when it gets SIGTERM or is killed. With this prefix the
# kernel interrupts them.
ENDS_WITH_LAUNCH = "setpriv --pdeathsig INT" if shutil.which("setpriv") else None

# Arguments that override a parameter of the node: the parameter and its type.
NODE_PARAMETERS = {
    "model": ("model", str),
    "weights": ("weights", str),
    "random_weights_seed": ("random_weights_seed", int),
    "device": ("device", str),
    "layout": ("layout", str),
    "rig": ("rig", str),
    "image_topics": ("image_topics", list[str]),
    "lidar_topic": ("lidar.topic", str),
    "missing_camera": ("missing_camera", str),
}

# Outputs of the node that the RViz configuration shows, below the name of the node.
SHOWN_OUTPUTS = (
    "occupancy_points",
    "flow_markers",
    "costmap",
    "obstacle_points",
    "map_points",
    "debug/overlay/compressed",
)

TRUE_OR_FALSE = ["true", "false"]

ARGUMENTS = [
    DeclareLaunchArgument(
        "params_file",
        default_value=SHIPPED_PARAMETERS,
        description="YAML file with the node's parameters; the arguments below override it.",
    ),
    DeclareLaunchArgument(
        "model",
        default_value="",
        description='Name of the network (occ models list). "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "weights",
        default_value="",
        description='Checkpoint of that network. "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "random_weights_seed",
        default_value="",
        description="Seed of random weights, used instead of a checkpoint to test the data path; "
        'the output is then meaningless. "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "device",
        default_value="",
        description='auto, cpu, cuda or cuda:N. "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "layout",
        default_value="",
        description="Topic layout: shipped name (docs/bags.md) or YAML path. "
        '"" = as in params_file; of a bag, with the shipped params_file, the one that fits.',
    ),
    DeclareLaunchArgument(
        "rig",
        default_value="",
        description='Rig YAML with all calibrations. "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "image_topics",
        default_value="",
        description="Image topics that differ from the layout: CAMERA=topic,CAMERA=topic. "
        '"" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "lidar_topic",
        default_value="",
        description="Point clouds, for models that take lidar depth; /lidar_top with nuscenes. "
        '"" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "missing_camera",
        default_value="",
        description="What to do with a frame set that lacks a camera (docs/node.md). "
        '"" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "namespace", default_value="", description="Namespace of the node, e.g. car."
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        choices=["debug", "info", "warn", "error", "fatal"],
        description="Least severe messages that the node logs.",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=TRUE_OR_FALSE,
        description="Start the node again, 2 s after it ended. false = its end ends everything.",
    ),
    DeclareLaunchArgument(
        "bag", default_value="", description='rosbag2 to play when the node is active. "" = none.'
    ),
    DeclareLaunchArgument(
        "nuscenes",
        default_value="",
        description='nuScenes folder, whose scene is converted once and played. "" = none.',
    ),
    DeclareLaunchArgument(
        "scene", default_value="", description="Scene of that folder, e.g. scene-0103."
    ),
    DeclareLaunchArgument(
        "rate", default_value="1.0", description="Playing speed of the bag; 1 = as recorded."
    ),
    DeclareLaunchArgument(
        "end_with_bag",
        default_value="false",
        choices=TRUE_OR_FALSE,
        description="End everything at the end of the bag.",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        choices=["auto", *TRUE_OR_FALSE],
        description="Whether node and RViz follow /clock. auto = only if a bag is played.",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=TRUE_OR_FALSE, description="Start RViz."
    ),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=str(SHARE / "config" / "rviz" / "occupancy.rviz"),
        description="RViz configuration file.",
    ),
    DeclareLaunchArgument(
        "fixed_frame",
        default_value="",
        description="Fixed frame of RViz. "
        '"" = the ego frame of the layout; without one, as in rviz_config.',
    ),
    DeclareLaunchArgument(
        "end_with_rviz",
        default_value="true",
        choices=TRUE_OR_FALSE,
        description="End everything when RViz ends.",
    ),
    DeclareLaunchArgument(
        "dds_profile",
        default_value=os.environ.get(PROFILE_VARIABLE, str(SHARE / "config" / "fastdds.xml")),
        description="Fast DDS profile of all processes started here.",
    ),
]


def argument(context: LaunchContext, name: str) -> str:
    return str(context.perform_substitution(LaunchConfiguration(name)))


def is_true(context: LaunchContext, name: str) -> bool:
    return argument(context, name) == "true"


def start(context: LaunchContext) -> list[Action]:
    """Check the arguments, convert a scene that is to be replayed, start the processes."""
    for name in ("params_file", "rviz_config", "dds_profile"):
        if not Path(file := argument(context, name)).is_file():
            raise RuntimeError(f"{name}: there is no file {file}; correct the argument {name}")
    bag, root = argument(context, "bag"), argument(context, "nuscenes")
    if bag and root:
        raise RuntimeError(f"bag:={bag} and nuscenes:={root} exclude each other; give one of them")
    if not root:
        return start_processes(context, bag)

    scene, with_lidar = argument(context, "scene"), bool(argument(context, "lidar_topic"))
    bag = str(cached_scene(root, version_of_scene(root, scene), scene, lidar=with_lidar))
    options = ["--scene", scene, *(["--lidar"] if with_lidar else [])]
    converter = occ(["convert", "nuscenes", root, *options])

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if context.is_shutdown:
            return []
        require_success(event, "the conversion")
        return start_processes(context, bag)

    return [
        RegisterEventHandler(OnProcessExit(target_action=converter, on_exit=on_exit)),
        converter,
    ]


def start_processes(context: LaunchContext, bag: str) -> list[Action]:
    """Node, bag player and RViz, depending on the arguments; an empty ``bag`` is none."""
    layout = argument(context, "layout")
    if bag and not layout and argument(context, "params_file") == SHIPPED_PARAMETERS:
        with Recording(Path(bag)) as recording:
            layout = choose_layout(recording, None).name
    clock = argument(context, "use_sim_time")
    follow_clock = {"use_sim_time": bool(bag) if clock == "auto" else clock == "true"}
    node = occupancy_node(context, layout, follow_clock)
    actions: list[Action] = [when_it_ends(node, "the node", not is_true(context, "respawn"))]
    if bag:
        player = bag_player(context, bag, layout)
        actions += [
            when_it_ends(player, "the player", is_true(context, "end_with_bag")),
            when_active(node, player),
        ]
    if is_true(context, "rviz"):
        rviz = rviz_window(context, layout, follow_clock)
        actions += [when_it_ends(rviz, "RViz", is_true(context, "end_with_rviz")), rviz]
    return [*actions, node]


def occupancy_node(
    context: LaunchContext, layout: str, follow_clock: dict[str, bool]
) -> LifecycleNode:
    """The node, which configures and activates itself (its parameter ``autostart``)."""
    given = {name: argument(context, name) for name in NODE_PARAMETERS} | {"layout": layout}
    overrides = {}
    for name, (parameter, type_) in NODE_PARAMETERS.items():
        if given[name]:
            value = given[name].split(",") if type_ == list[str] else type_(given[name])
            overrides[parameter] = ParameterValue(value, value_type=type_)
    logger = node_name(context).strip("/").replace("/", ".")
    return LifecycleNode(
        package="occ_perception",
        executable="occupancy_node",
        exec_name="occupancy_node",
        name="occupancy_node",
        namespace=argument(context, "namespace"),
        parameters=[argument(context, "params_file"), overrides, follow_clock],
        ros_arguments=["--log-level", f"{logger}:={argument(context, 'log_level')}"],
        respawn=is_true(context, "respawn"),
        respawn_delay=2.0,
        output="screen",
        emulate_tty=True,
        prefix=ENDS_WITH_LAUNCH,
        sigterm_timeout="30",  # on a CPU the current frame takes seconds
    )


def bag_player(context: LaunchContext, bag: str, layout: str) -> ExecuteProcess:
    """`occ play` with /clock; with a known layout, it waits for the node's subscriptions."""
    words = ["play", bag, "--rate", argument(context, "rate"), "--clock", "100"]
    if layout:
        words += ["--layout", layout, "--wait-for", f"{node_name(context)}/occupancy"]
    return occ(words)


def occ(words: list[str]) -> ExecuteProcess:
    """A command of `occ`; its lines on the console begin with its name."""
    program = ExecutableInPackage("occ", package="occ_perception")
    name = f"occ_{words[0]}"
    return ExecuteProcess(
        cmd=[program, *words], name=name, output="screen", prefix=ENDS_WITH_LAUNCH
    )


def rviz_window(context: LaunchContext, layout: str, follow_clock: dict[str, bool]) -> Node:
    """RViz with the outputs of this node, in the ego frame."""
    frame = argument(context, "fixed_frame")
    if layout and not frame:
        frame = load_layout(layout).pose.ego_frame
    return Node(
        package="rviz2",
        executable="rviz2",
        exec_name="rviz2",
        arguments=["-d", argument(context, "rviz_config"), *(["-f", frame] if frame else [])],
        parameters=[follow_clock],
        remappings=[
            (f"/occupancy_node/{output}", f"{node_name(context)}/{output}")
            for output in SHOWN_OUTPUTS
        ],
        prefix=ENDS_WITH_LAUNCH,
    )


def node_name(context: LaunchContext) -> str:
    """The full name of the node, e.g. ``/car/occupancy_node``."""
    namespace = argument(context, "namespace").strip("/")
    return f"/{namespace}/occupancy_node" if namespace else "/occupancy_node"


def when_active(node: LifecycleNode, player: ExecuteProcess) -> RegisterEventHandler:
    """Play once, from the node's first active state on: before, frames would be lost."""
    return RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node, goal_state="active", entities=[player], handle_once=True
        )
    )


def when_it_ends(process: ExecuteProcess, name: str, ends_all: bool) -> RegisterEventHandler:
    """End everything when a process ends, if ``ends_all``; an error of it becomes launch's."""

    def on_exit(event: ProcessExited, context: LaunchContext) -> list[Action]:
        if context.is_shutdown or not ends_all:
            return []
        require_success(event, name)
        return [Shutdown(reason=f"{name} ended")]

    return RegisterEventHandler(OnProcessExit(target_action=process, on_exit=on_exit))


def require_success(event: ProcessExited, name: str) -> None:
    """Raises RuntimeError, with which `ros2 launch` ends everything and returns 1."""
    if event.returncode:
        raise RuntimeError(
            f"{name} ended with exit code {event.returncode}; its last lines above state why"
        )


def generate_launch_description() -> LaunchDescription:
    """The entry point of `ros2 launch`."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable(PROFILE_VARIABLE, LaunchConfiguration("dds_profile")),
            OpaqueFunction(function=start),
        ]
    )
