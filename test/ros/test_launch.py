"""The launch file, run by ROS's own launch service: what starts when, and that nothing is left.

`launch` and `launch_ros` are part of a ROS installation; without them this file is skipped.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("launch_ros.actions", exc_type=ImportError)
pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import spin_until
from nuscenes_folder import VERSION, drawn_scene
from processes import RunningProcess, remove_orphaned_shared_memory, wait_for
from ros_fixtures import Launch

from occ_msgs.msg import SemanticOccupancy
from occ_perception.metrics.protocols import OCC3D_GRID

pytestmark = pytest.mark.ros

SCRIPT = Path(__file__).parents[1] / "launch_alocc.py"
ACTIVE = "waiting for cameras"  # what the node says when it is active
# The machine may be busy: patient deadlines. The town's network is the smallest one.
PARAMETERS = """
/**:
  ros__parameters:
    model: alocc_town
    random_weights_seed: 0
    device: cpu
    layout: occ_perception
    sync: {deadline_ms: 1500.0}
    pose: {wait_ms: 1500.0}
"""


class Launched:
    """A running launch file, and every process that descends from it, orphans included."""

    def __init__(self, process: RunningProcess, mark: str) -> None:
        self.process = process
        self._mark = f"OCC_LAUNCH_TEST={mark}".encode()

    def pids(self, program: str) -> list[int]:
        """Its living processes whose command line has a text."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                is_ours = self._mark in (folder / "environ").read_bytes().split(b"\0")
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:  # it ended meanwhile
                continue
            if is_ours and any(program in word.decode() for word in words):
                found.append(int(folder.name))
        return found

    def wait_until_said(self, text: str) -> None:
        wait_for(lambda: text in self.process.output() or not self.process.is_running, 120, text)
        assert text in self.process.output(), self.process.output()

    def wait_until_nothing_is_left(self) -> None:
        wait_for(lambda: not self.pids(""), 40, "all processes end")


Start = Callable[..., Launched]


@pytest.fixture
def start(launch: Launch, child_environment: dict[str, str], tmp_path: Path) -> Start:
    """Starts the launch file with arguments ``NAME:=VALUE``; caches and logs go to ``tmp_path``."""
    (tmp_path / "params.yaml").write_text(PARAMETERS)

    def run(*arguments: str, **environment: str) -> Launched:
        mark = uuid.uuid4().hex
        words = [f"params_file:={tmp_path / 'params.yaml'}", *arguments]
        folders = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "ROS_LOG_DIR": str(tmp_path / "log")}
        variables = {**child_environment, **folders, **environment, "OCC_LAUNCH_TEST": mark}
        return Launched(launch([sys.executable, SCRIPT, *words], variables), mark)

    return run


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """A nuScenes folder with one scene, and labels of its first frame."""
    drawn_scene(tmp_path / "nuscenes", scene="scene-0103", keyframes=2, size=(320, 180))
    samples = json.loads((tmp_path / "nuscenes" / VERSION / "sample.json").read_text())
    labels = np.full(OCC3D_GRID.dims, 17, dtype=np.uint8)
    labels[:, :, 0] = 11
    file = tmp_path / "nuscenes" / "gts" / "scene-0103" / samples[0]["token"] / "labels.npz"
    file.parent.mkdir(parents=True)
    np.savez_compressed(file, semantics=labels, mask_camera=np.ones_like(labels))
    return tmp_path / "nuscenes"


def test_a_scene_is_converted_once_and_played_with_its_truth(
    start: Start, scene: Path, tmp_path: Path, ros_context: None
) -> None:
    assert ros_context is None
    node = rclpy.create_node("launch_test")
    got: dict[str, list[SemanticOccupancy]] = {}
    for topic in ("/ground_truth/occupancy", "/car/occupancy_node/occupancy"):
        got[topic] = []
        node.create_subscription(SemanticOccupancy, topic, got[topic].append, 10)
    arguments = [f"nuscenes:={scene}", "scene:=scene-0103", "rate:=0.2", "end_with_bag:=true"]
    launched = start(*arguments, "namespace:=car", "log_level:=debug")
    try:
        spin_until(node, lambda: all(got.values()), 200, "truth and prediction")
        assert launched.pids("car.occupancy_node:=debug")
    finally:
        node.destroy_node()
    (bag,) = (tmp_path / "cache/occ_perception/nuscenes").iterdir()
    converted = (bag / "metadata.yaml").stat().st_mtime_ns
    said = launched.process.output()
    assert said.index(ACTIVE) < said.index("[occ_play-3]: process started")
    assert launched.process.wait(120) == 0, launched.process.output()  # with the end of the bag
    launched.wait_until_nothing_is_left()

    again = start(*arguments)
    again.wait_until_said(ACTIVE)
    assert "is there already, kept" in again.process.output()
    assert (bag / "metadata.yaml").stat().st_mtime_ns == converted
    assert again.process.stop() == 0
    again.wait_until_nothing_is_left()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_survives_a_launch_that_is_terminated(
    start: Start, number: signal.Signals
) -> None:
    launched = start()
    launched.wait_until_said(ACTIVE)
    launched.process.send(number)
    assert launched.process.wait(30) != 0
    launched.wait_until_nothing_is_left()


def test_the_end_of_the_node_ends_all_unless_it_is_to_be_respawned(start: Start) -> None:
    launched = start()
    launched.wait_until_said(ACTIVE)
    (node,) = launched.pids("lib/occ_perception/occupancy_node")
    os.kill(node, signal.SIGKILL)
    assert launched.process.wait(30) == 1
    assert "the node ended with exit code -9" in launched.process.output()
    remove_orphaned_shared_memory()

    respawned = start("respawn:=true")
    respawned.wait_until_said(ACTIVE)
    (node,) = respawned.pids("lib/occ_perception/occupancy_node")
    os.kill(node, signal.SIGKILL)
    wait_for(lambda: respawned.process.output().count(ACTIVE) == 2, 120, "it is active again")
    assert respawned.process.stop() == 0
    respawned.wait_until_nothing_is_left()
    remove_orphaned_shared_memory()


def test_all_ends_with_rviz_unless_the_argument_says_no(start: Start, tmp_path: Path) -> None:
    """RViz is represented by a program that ends when a file appears, in a package of its name."""
    prefix = tmp_path / "rviz"
    program = prefix / "lib/rviz2/rviz2"
    closed = tmp_path / "closed"
    for folder in (program.parent, prefix / "share/ament_index/resource_index/packages"):
        folder.mkdir(parents=True)
    (prefix / "share/ament_index/resource_index/packages/rviz2").touch()
    program.write_text(f"#!/bin/sh\nwhile [ ! -e {closed} ]; do sleep 0.1; done\n")
    program.chmod(0o755)
    path = f"{prefix}{os.pathsep}{os.environ['AMENT_PREFIX_PATH']}"
    kept = start("rviz:=true", "end_with_rviz:=false", "namespace:=car", AMENT_PREFIX_PATH=path)
    kept.wait_until_said(ACTIVE)
    assert kept.pids("/occupancy_node/occupancy_points:=/car/occupancy_node/occupancy_points")
    closed.touch()
    wait_for(lambda: "finished cleanly" in kept.process.output(), 10, "RViz ends")
    ended = start("rviz:=true", AMENT_PREFIX_PATH=path)  # at once: the file is there already
    assert ended.process.wait(60) == 0
    ended.wait_until_nothing_is_left()
    assert kept.process.is_running
    assert kept.process.stop() == 0
    kept.wait_until_nothing_is_left()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["params_file:=/nowhere.yaml"], "params_file: there is no file /nowhere.yaml"),
        (["bag:=a", "nuscenes:=b"], "bag:=a and nuscenes:=b exclude each other"),
        (["nuscenes:=/nowhere", "scene:=scene-0103"], "/nowhere has no folder with a scene.json"),
        (["model:=alocc_3d", "weights:=/nowhere.pth"], "the node ended with exit code 1"),
    ],
)
def test_what_is_wrong_ends_the_start_with_a_sentence(
    start: Start, arguments: list[str], sentence: str
) -> None:
    launched = start(*arguments)
    assert launched.process.wait(90) == 1
    assert sentence in launched.process.output()
    launched.wait_until_nothing_is_left()
