"""Runs the launch file as `ros2 launch` does, where only ROS's `launch` and `launch_ros` are.

python test/launch_alocc.py NAME:=VALUE ...
"""

from __future__ import annotations

import sys
from pathlib import Path

from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

LAUNCH = Path(__file__).resolve().parents[1] / "launch/alocc.launch.py"


def main(words: list[str]) -> int:
    arguments = [tuple(word.split(":=", 1)) for word in words]
    included = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(LAUNCH)), launch_arguments=arguments
    )
    service = LaunchService(argv=words)
    service.include_launch_description(LaunchDescription([included]))
    return service.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
