"""The executable ``occupancy_node``; also ``python -m occ_perception.ros.node``.

The node is :class:`occ_perception.ros.occupancy_node.OccupancyNode`. This module starts it, prints
a one-line error if it cannot start, and shuts it down cleanly.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any, NoReturn

from occ_perception.errors import sentence_for

_BUILD = (
    "Build it with `make setup` and activate it with `. ./env.sh` (from the repository root), or "
    "in a ROS workspace with `colcon build` and `source install/setup.bash`."
)


def program() -> NoReturn:
    """The executable: :func:`main`, and an end without delay.

    Python's own way out takes a second or more where torch is loaded. By then the node has
    finished, its topics are withdrawn and its shared memory is removed.
    """
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    ctypes.CDLL(None).fflush(None)  # what rclpy has written
    os._exit(code)


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT, SIGTERM or a shutdown of rclpy; returns the exit code."""
    missing = _missing_package()
    if missing:
        print(f"occupancy_node: {missing}", file=sys.stderr)
        return 1

    import rclpy
    from rclpy.executors import ExternalShutdownException
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.logging import get_logger

    from occ_perception.ros.shared_memory import remove_orphaned_segments

    count, size = remove_orphaned_segments()
    try:
        rclpy.init(args=args)
    except rclpy_implementation.RCLError as error:  # wrong arguments, no keys for SROS 2
        print(f"occupancy_node: {_on_one_line(error)}", file=sys.stderr)
        return 1
    if count:
        get_logger("occupancy_node").info(
            f"removed {count} segments of shared memory ({size / 1e6:.0f} MB) from /dev/shm that "
            "killed processes had left"
        )
    try:
        node = _create_node()
        if node is None:
            return 1
        try:
            if node.autostart and not node.start():
                return int(rclpy.ok())  # 0 if a signal ended it while the network was loading
            rclpy.spin(node)
        except (KeyboardInterrupt, ExternalShutdownException):
            pass
        finally:
            node.stop()
            node.destroy_node()
    except KeyboardInterrupt:  # while the model was loading
        pass
    except Exception:
        # A signal that shuts rclpy down during construction makes the constructor fail.
        if rclpy.ok():
            raise
    finally:
        rclpy.try_shutdown()
    return 0


def _missing_package() -> str:
    """An error message if a package the node needs is missing; "" otherwise."""
    try:
        import rclpy  # noqa: F401
    except ImportError as error:
        return (
            f"rclpy is not importable ({error}). Source your ROS 2 installation, or install the "
            "wheels with `make setup` and activate them with `. ./env.sh`."
        )
    try:
        from occ_msgs.msg import Latency  # noqa: F401, the newest one: an older build lacks it
    except ImportError as error:
        return f"the message package occ_msgs is not importable ({error}). {_BUILD}"
    return ""


def _create_node() -> Any:
    """The node, or None after its error was logged."""
    import rclpy
    from rclpy.impl.implementation_singleton import rclpy_implementation
    from rclpy.logging import get_logger

    try:
        # This import loads the models, and other packages may have added unusable ones.
        from occ_perception.ros.occupancy_node import OccupancyNode

        return OccupancyNode()
    except rclpy_implementation.RCLError as error:
        if not rclpy.ok():  # a signal made it fail
            raise
        get_logger("occupancy_node").fatal(_on_one_line(error))
        return None
    except Exception as error:
        if (sentence := sentence_for(error)) is None:
            raise
        get_logger("occupancy_node").fatal(sentence)
        return None


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


if __name__ == "__main__":
    program()
