"""Fixtures of real processes, and of rclpy in this one."""

from ros_fixtures import (  # noqa: F401
    child_environment,
    environment_without_tf,
    launch,
    launch_for_module,
    ros_context,
)
