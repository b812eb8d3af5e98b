"""The run of the demonstration: node and player as child processes, and a recorder."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import rclpy
import yaml
from rclpy.node import Node

from occ_perception.bags.discovery import choose_layout, discover_vehicle
from occ_perception.bags.foxglove import PredictionWriter
from occ_perception.bags.recording import Recording
from occ_perception.demo.recorder import Recorder
from occ_perception.demo.setting import DemoError, Played, Setting, counted
from occ_perception.ros.lockstep import BagFrameSet, frame_sets_of_bag
from occ_perception.ros.message_classes import message_class_of
from occ_perception.sensing.calibration import save_rig
from occ_perception.sensing.input_plan import plan_inputs
from occ_perception.sensing.layouts import TopicLayout

NODE = "occupancy_node"
NODE_COMMAND = (sys.executable, "-m", "occ_perception.ros.node")
OCC_COMMAND = (sys.executable, "-c", "from occ_perception.cli import main; main()")

_OUTPUT_TOPIC = f"/{NODE}/occupancy"
_START_S = 180.0
_END_S = 60.0
# Without a new grid for this long, the missing grids are given up.
_LINGER_S = 60.0
_LAST_REPORT_S = 1.5
# Last line of the player. Exit code 1 alone does not tell missing outputs from a Python error.
_REPORT = re.compile(r"^played \d+ messages", re.MULTILINE)
_CLOCK_HZ = 100


@dataclass
class Children:
    """The child processes; :meth:`stop` sends SIGINT and kills those that do not end."""

    out: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``<name>.log``."""
        with (self.out / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.running.append(process)
        return process

    def output(self, name: str) -> str:
        """Everything that a process has written."""
        return (self.out / f"{name}.log").read_text(errors="replace")

    def log(self, name: str) -> str:
        """The last lines that a process has written."""
        return "\n".join(self.output(name).splitlines()[-15:])

    def stop(self) -> None:
        """End the processes that still run."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.running:
            _await_end(process)


def _await_end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def play_through_node(setting: Setting) -> Played:
    """Run node and player on a bag, and record the node's outputs.

    Raises:
        DemoError, BagError, YamlError: the bag cannot be used, or a process did not start.
    """
    _prepare_environment()
    with Recording(setting.bag) as recording:
        layout = choose_layout(recording, setting.layout or None)
        frame_sets = frame_sets_of_bag(recording, layout)
        if setting.lockstep and not _has_stamps(layout):
            print(f"{setting.bag} is played by time: its images carry no stamps for lockstep")
            setting = replace(setting, lockstep=False)
        parameters = _node_parameters(setting, recording, layout)
        rclpy.init()
        children = Children(setting.out)
        node = rclpy.create_node("occ_demo")
        try:
            recorder = Recorder(node, recording, layout, NODE)
            _run(setting, layout, node, children, parameters, recorder, len(frame_sets))
            _await_the_rest(setting, node, recorder, len(frame_sets))
        finally:
            children.stop()
            node.destroy_node()
            rclpy.try_shutdown()
    if _has_stamps(layout):
        without_output = [
            frame_set for frame_set in frame_sets if frame_set.stamp_ns not in recorder.grids
        ]
    else:
        without_output = frame_sets[len(recorder.grids) :]
    return Played(
        recorded=_write_recording(recorder, setting.out / "recorded"),
        stamps_ns=sorted(recorder.grids),
        frame_sets=len(frame_sets),
        without_output=[_in_words(frame_set) for frame_set in without_output],
        latencies_ms=recorder.latencies_ms(),
        latency_is="last image of a frame set received -> its grid received, both over DDS",
        drops={
            "overwritten while busy": recorder.figure("inference", "frame_sets_overwritten"),
            "incomplete": recorder.figure("synchronization", "incomplete"),
            "failed": recorder.figure("inference", "frame_sets_failed"),
        },
        how="over DDS, " + ("in lockstep" if setting.lockstep else "by time"),
    )


def _in_words(frame_set: BagFrameSet) -> str:
    missing = f" (no {', '.join(frame_set.missing)} in the bag)" if frame_set.missing else ""
    return f"frame set at {(frame_set.stamp_ns or frame_set.first_log_ns) / 1e9:.3f} s{missing}"


def _has_stamps(layout: TopicLayout) -> bool:
    return layout.stamp_source == "header"


def _run(
    setting: Setting,
    layout: TopicLayout,
    node: Node,
    children: Children,
    parameters: Path,
    recorder: Recorder,
    frame_sets: int,
) -> None:
    # The player waits for the node, so the recorder is connected before the first message.
    player = children.start("player", *OCC_COMMAND, *_play_arguments(setting, layout))
    _await_publishers(node, children, "player", [camera.image for camera in layout.cameras])
    occupancy_node = children.start(
        "node", *NODE_COMMAND, "--ros-args", "--params-file", str(parameters)
    )
    _await_publishers(node, children, "node", [_OUTPUT_TOPIC])
    with counted("grids", frame_sets) as bar:
        while player.poll() is None:
            _spin(node, 0.2)
            if occupancy_node.poll() is not None:
                raise DemoError(f"the node ended while playing:\n{children.log('node')}")
            bar.at(len(recorder.grids))
    if player.returncode and not _REPORT.search(children.output("player")):
        raise DemoError(f"the player failed:\n{children.log('player')}")


def _play_arguments(setting: Setting, layout: TopicLayout) -> list[str]:
    arguments = ["play", str(setting.bag), "--layout", setting.layout]
    arguments += ["--wait-for", _OUTPUT_TOPIC, "--wait", str(2 * _START_S)]
    if not _has_stamps(layout):
        arguments += ["--clock", str(_CLOCK_HZ)]
    if setting.lockstep:
        arguments += ["--lockstep", _OUTPUT_TOPIC]
        arguments += ["--output-timeout", str(setting.output_timeout_s)]
    return arguments


def _await_publishers(node: Node, children: Children, name: str, topics: Sequence[str]) -> None:
    """Wait until the process that was started last publishes all topics."""
    give_up = time.monotonic() + _START_S
    while not all(node.count_publishers(topic) for topic in topics):
        if children.running[-1].poll() is not None or time.monotonic() > give_up:
            raise DemoError(f"the {name} did not start:\n{children.log(name)}")
        _spin(node, 0.2)


def _await_the_rest(setting: Setting, node: Node, recorder: Recorder, frame_sets: int) -> None:
    """Wait for the last grids: played by time, the network may be busy when the bag has ended."""
    received, since = len(recorder.grids), time.monotonic()
    while not setting.lockstep and received < frame_sets and time.monotonic() - since < _LINGER_S:
        _spin(node, 0.2)
        if len(recorder.grids) > received:
            received, since = len(recorder.grids), time.monotonic()
    _spin(node, _LAST_REPORT_S)


def _spin(node: Node, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left)


def _prepare_environment() -> None:
    """Set up a separate ROS domain, on this machine only, with buffers for large messages."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(random.SystemRandom().randint(1, 101)))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    profile = Path(__file__).resolve().parents[2] / "config" / "fastdds.xml"
    if profile.is_file():
        os.environ.setdefault("FASTDDS_DEFAULT_PROFILES_FILE", str(profile))


def _node_parameters(setting: Setting, recording: Recording, layout: TopicLayout) -> Path:
    """The node's params file for this bag."""
    parameters: dict[str, Any] = {
        "model": setting.model,
        "device": setting.device,
        "layout": setting.layout or layout.name,
        "image_topics": [f"{camera.name}={camera.image}" for camera in layout.cameras],
        "pose.topic": layout.pose.topic,
        # Images without stamps get their arrival time, which must be in the bag's time.
        "use_sim_time": not _has_stamps(layout),
    }
    if setting.weights:
        parameters["weights"] = setting.weights
    else:
        parameters["random_weights_seed"] = setting.seed
    if message_class_of("tf2_msgs/msg/TFMessage") is None:
        if layout.pose.kind == "tf":
            raise DemoError(
                "the ego pose of this bag is in /tf, and tf2_msgs is not installed (it has no "
                "wheel); use a machine with a ROS 2 installation, or `occ run`"
            )
        rig = setting.out / "rig.yaml"
        _, calibrated = discover_vehicle(recording, plan_inputs(layout))
        save_rig(rig, calibrated, f"calibration of {setting.bag}")
        parameters["rig"] = str(rig.resolve())
        print(f"tf2_msgs is not installed: camera mounts were read from the bag into {rig}")
    path = setting.out / "node_parameters.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False))
    return path


def _write_recording(recorder: Recorder, path: Path) -> Path | None:
    """Write the outputs as a bag; a bag of an earlier run is replaced."""
    if path.exists():
        shutil.rmtree(path)
    if not recorder.grids:
        return None
    with PredictionWriter(path) as bag:
        for prediction in recorder.predictions():
            bag.write_prediction(prediction)
    return path
