"""Starts the occupancy node, and optionally a bag player and RViz.

    ros2 launch occ_perception alocc.launch.py weights:=alocc_2d_mini.pth layout:=car.yaml
    ros2 launch occ_perception alocc.launch.py weights:=... layout:=foxglove bag:=drive rviz:=true
    ros2 launch occ_perception alocc.launch.py --show-args

The bag starts when the node has loaded its network; `layout` is the layout of the bag (`occ info`
names it). All processes get the DDS profile of config/fastdds.xml. A camera driver or a bag started
elsewhere needs it exported in its own shell.
"""

from __future__ import annotations

import os
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
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

SHARE = Path(get_package_share_directory("occ_perception"))

# Kilted renamed the variable. If both are set, Fast DDS reads the file twice and refuses it.
BEFORE_KILTED = os.environ.get("ROS_DISTRO") in {"humble", "iron", "jazzy"}
PROFILE_VARIABLE = f"{'FASTRTPS' if BEFORE_KILTED else 'FASTDDS'}_DEFAULT_PROFILES_FILE"

# Arguments that override the parameter of the same name, with their types.
NODE_PARAMETERS = {
    "model": str,
    "weights": str,
    "random_weights_seed": int,
    "device": str,
    "layout": str,
    "rig": str,
}

ARGUMENTS = [
    DeclareLaunchArgument(
        "params_file",
        default_value=str(SHARE / "config" / "occupancy_node.yaml"),
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
        '"" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "rig",
        default_value="",
        description='Rig YAML with all calibrations. "" = as in params_file.',
    ),
    DeclareLaunchArgument(
        "bag",
        default_value="",
        description="rosbag2 to play, with /clock, when the node is ready; also set layout "
        '(`occ info` names it). "" = none.',
    ),
    DeclareLaunchArgument(
        "rate", default_value="1.0", description="Playing speed of the bag; 1 = as recorded."
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="auto",
        choices=["auto", "true", "false"],
        description="Whether node and RViz follow /clock. auto = only if a bag is given.",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=["true", "false"], description="Start RViz."
    ),
    DeclareLaunchArgument(
        "rviz_config",
        default_value=str(SHARE / "config" / "rviz" / "occupancy.rviz"),
        description="RViz configuration file.",
    ),
    DeclareLaunchArgument(
        "dds_profile",
        default_value=os.environ.get(PROFILE_VARIABLE, str(SHARE / "config" / "fastdds.xml")),
        description="Fast DDS profile of all processes started here.",
    ),
]

# The log line of a node that has loaded its network.
READY = b"waiting for cameras"

# The node subscribes after it has seen the publishers; the player waits this long for it.
DELAY_S = 2.0


def start_processes(context: LaunchContext) -> list[Action]:
    """Node, bag player and RViz, depending on the arguments."""

    def argument(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name))

    bag = argument("bag")
    follow_clock = bool(bag) if argument("use_sim_time") == "auto" else _is_true(context)
    overrides = {
        name: ParameterValue(type_(argument(name)), value_type=type_)
        for name, type_ in NODE_PARAMETERS.items()
        if argument(name)
    }
    node = Node(
        package="occ_perception",
        executable="occupancy_node",
        parameters=[argument("params_file"), overrides, {"use_sim_time": follow_clock}],
        output="screen",
        emulate_tty=True,
        sigterm_timeout="30",  # on a CPU the current frame takes seconds
    )
    rviz = Node(
        package="rviz2",
        executable="rviz2",
        arguments=["-d", argument("rviz_config")],
        parameters=[{"use_sim_time": follow_clock}],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )
    if not bag:
        return [node, rviz]
    return [start_when_ready(node, bag_player(bag, argument("rate"))), node, rviz]


def bag_player(bag: str, rate: str) -> ExecuteProcess:
    """`ros2 bag play` with /clock and latched /tf_static, which converted bags do not record."""
    quality = str(SHARE / "config" / "bag_qos.yaml")
    command = ["ros2", "bag", "play", bag, "--rate", rate, "--clock", "100"]
    command += ["--delay", str(DELAY_S)]
    command += ["--disable-keyboard-controls", "--qos-profile-overrides-path", quality]
    return ExecuteProcess(cmd=command, output="screen")


def start_when_ready(node: Node, player: ExecuteProcess) -> RegisterEventHandler:
    """Start the player once; frames played while the network loads would be lost."""
    started = False

    def on_output(event: ProcessIO) -> list[Action]:
        nonlocal started
        if started or READY not in event.text:
            return []
        started = True
        return [player]

    return RegisterEventHandler(
        OnProcessIO(target_action=node, on_stdout=on_output, on_stderr=on_output)
    )


def _is_true(context: LaunchContext) -> bool:
    return context.perform_substitution(LaunchConfiguration("use_sim_time")) == "true"


def generate_launch_description() -> LaunchDescription:
    """The entry point of `ros2 launch`."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            SetEnvironmentVariable(PROFILE_VARIABLE, LaunchConfiguration("dds_profile")),
            OpaqueFunction(function=start_processes),
        ]
    )
