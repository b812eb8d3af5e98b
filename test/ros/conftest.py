"""Fixtures of the ROS tests: real rclpy, real DDS, real processes.

Every test process gets a ROS domain of its own, so that runs side by side do not hear each other.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from processes import RunningProcess
from tf2_msgs_package import environment_with_tf2_msgs

os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

_REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """Environment for the processes under test: tf2_msgs importable, this checkout first."""
    environment = environment_with_tf2_msgs(_REPOSITORY / "build")
    path = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": f"{_REPOSITORY}{os.pathsep}{path}"}


Launch = Callable[..., RunningProcess]


@pytest.fixture(scope="module")
def launch(
    tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]
) -> Iterator[Launch]:
    """Start processes that are ended with the module."""
    folder = tmp_path_factory.mktemp("processes")
    running: list[RunningProcess] = []

    def start(
        command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> RunningProcess:
        log = folder / f"{len(running)}.log"
        running.append(RunningProcess(command, log, environment or child_environment))
        return running[-1]

    yield start
    for process in running:
        if process.is_running:
            process.stop()


@pytest.fixture(scope="module")
def ros_context() -> Iterator[None]:
    """rclpy initialised in the test process."""
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()
