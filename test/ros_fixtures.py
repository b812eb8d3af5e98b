"""Fixtures of the ROS tests: real rclpy, real DDS, real processes.

Every test process has a separate ROS domain, so that parallel runs do not interfere.
"""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from processes import RunningProcess
from tf2_msgs_package import make_tf2_msgs_importable

os.environ["ROS_DOMAIN_ID"] = str(random.SystemRandom().randint(1, 101))
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

_REPOSITORY = Path(__file__).resolve().parents[1]
_AT_START = dict(os.environ)
HAD_TF2_MSGS = importlib.util.find_spec("tf2_msgs") is not None


@pytest.fixture(scope="session")
def environment_without_tf() -> dict[str, str]:
    """Environment of child processes on a machine with the wheels only, which lack tf2_msgs."""
    return _children(_AT_START)


@pytest.fixture(scope="session")
def child_environment(environment_without_tf: dict[str, str]) -> dict[str, str]:
    """Environment of the processes under test; tf2_msgs can be imported there, and here."""
    del environment_without_tf  # created first, because it must not contain tf2_msgs
    make_tf2_msgs_importable(_REPOSITORY / "build")
    return _children(os.environ)


def _children(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which this checkout's package comes first."""
    path = environment.get("PYTHONPATH", "")
    return {**environment, "PYTHONPATH": f"{_REPOSITORY}{os.pathsep}{path}"}


Launch = Callable[..., RunningProcess]


@pytest.fixture
def launch(tmp_path: Path, child_environment: dict[str, str]) -> Iterator[Launch]:
    """Starts processes that are ended after the test."""
    yield from _launcher(tmp_path, child_environment)


@pytest.fixture(scope="module")
def launch_for_module(
    tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]
) -> Iterator[Launch]:
    """Starts processes that all tests of a module share."""
    yield from _launcher(tmp_path_factory.mktemp("processes"), child_environment)


def _launcher(folder: Path, default_environment: dict[str, str]) -> Iterator[Launch]:
    running: list[RunningProcess] = []

    def start(
        command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> RunningProcess:
        log = folder / f"process{len(running)}.log"
        running.append(RunningProcess(command, log, environment or default_environment))
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
