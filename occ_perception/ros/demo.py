"""Node and player as processes of their own, their output recorded and judged.

    python -m occ_perception.ros.demo BAG --weights alocc_2d_mini.pth
    make demo BAG=...

Ends with exit code 1 where a ring of the bag was not answered. On a machine without a GPU the bag
is played in lockstep: as fast as the network answers.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import rclpy
import torch
import typer
import yaml
from rclpy.node import Node

from occ_perception.bags.calibrating import calibrate, choose_layout
from occ_perception.bags.reading import BagFrames
from occ_perception.bags.recording import Recording
from occ_perception.ros.lockstep import BagRing, rings_of_bag
from occ_perception.ros.message_classes import message_class_of
from occ_perception.ros.messages import prediction_from_message
from occ_perception.ros.recorder import Recorder
from occ_perception.sensing.calibration import save_rig
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.viewer.pictures import prediction_picture, write_png

NODE = "occupancy_node"
_ANSWERS = f"/{NODE}/occupancy"
_START_S = 180.0
# Without a new grid for this long, what is missing will not come any more.
_LINGER_S = 60.0
_LAST_REPORT_S = 1.5


class DemoError(ValueError):
    """The demonstration cannot run; the text says why."""


@dataclass
class Setting:
    """What is demonstrated, and with what.

    Attributes:
        bag: rosbag2 to play.
        model, weights, seed, device: see the node's parameters; seed counts where no weights are
            given.
        lockstep: wait for every answer instead of playing by time.
        answer_timeout_s: how long, in lockstep.
        layout: name or path, "" = recognise.
        out: folder for pictures and logs.
    """

    bag: Path
    model: str
    weights: str
    seed: int
    device: str
    lockstep: bool
    answer_timeout_s: float
    layout: str
    out: Path


@dataclass
class Children:
    """The processes under demonstration; all are ended with SIGINT."""

    out: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``<name>.log``."""
        with (self.out / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.running.append(process)
        return process

    def log(self, name: str) -> str:
        """The last lines that a process wrote."""
        lines = (self.out / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def stop(self) -> None:
        """End what still runs."""
        for process in self.running:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in self.running:
            process.wait(60)


def demonstrate(setting: Setting) -> bool:
    """Run node and player on a bag; returns whether every ring was answered.

    Raises:
        DemoError, BagError, YamlError: the bag cannot be used, or a process did not start.
    """
    setting.out.mkdir(parents=True, exist_ok=True)
    _prepare_environment()
    with Recording(setting.bag) as recording:
        layout = choose_layout(recording, setting.layout or None)
        rings = rings_of_bag(recording, layout)
        parameters = _node_parameters(setting, recording, layout)
        rclpy.init()
        children = Children(setting.out)
        node = rclpy.create_node("occ_demo")
        try:
            recorder = Recorder(node, recording, layout, NODE)
            _run(setting, node, children, parameters, recorder)
            _await_the_rest(setting, node, recorder, len(rings))
        finally:
            children.stop()
            node.destroy_node()
            rclpy.try_shutdown()
    pictures = _draw(setting, recorder)
    return _report(setting, rings, layout, recorder, pictures)


def _run(
    setting: Setting, node: Node, children: Children, parameters: Path, recorder: Recorder
) -> None:
    occupancy_node = children.start(
        "node", sys.executable, "-m", "occ_perception.ros.node",
        "--ros-args", "--params-file", str(parameters),
    )  # fmt: skip
    give_up = time.monotonic() + _START_S
    while not node.count_publishers(_ANSWERS):
        if occupancy_node.poll() is not None or time.monotonic() > give_up:
            raise DemoError(f"the node did not start:\n{children.log('node')}")
        _spin(node, 0.2)
    print("node is up; playing", flush=True)
    arguments = ["play", str(setting.bag), "--layout", setting.layout]
    # The recorder listens at once; without this a node on a busy machine would miss the beginning.
    arguments += ["--wait-for", _ANSWERS, "--wait", str(_START_S)]
    if setting.lockstep:
        arguments += ["--lockstep", _ANSWERS, "--answer-timeout", str(setting.answer_timeout_s)]
    player = children.start(
        "player", sys.executable, "-c", "from occ_perception.cli import main; main()", *arguments
    )
    heard = 0
    while player.poll() is None:
        _spin(node, 0.2)
        if occupancy_node.poll() is not None:
            raise DemoError(f"the node ended while playing:\n{children.log('node')}")
        if len(recorder.grids) > heard:
            heard = len(recorder.grids)
            print(f"\r{heard} grids", end="", flush=True)
    print()
    if player.returncode not in (0, 1):
        raise DemoError(f"the player failed:\n{children.log('player')}")


def _await_the_rest(setting: Setting, node: Node, recorder: Recorder, rings: int) -> None:
    """Played by time, the network may still be busy when the bag has ended."""
    heard, since = len(recorder.grids), time.monotonic()
    while not setting.lockstep and heard < rings and time.monotonic() - since < _LINGER_S:
        _spin(node, 0.2)
        if len(recorder.grids) > heard:
            heard, since = len(recorder.grids), time.monotonic()
    _spin(node, _LAST_REPORT_S)


def _spin(node: Node, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        rclpy.spin_once(node, timeout_sec=left)


def _prepare_environment() -> None:
    """A ROS domain of our own, on this machine only, with room for large messages."""
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
    }
    if setting.weights:
        parameters["weights"] = setting.weights
    else:
        parameters["random_weights_seed"] = setting.seed
        print(
            f"no weights given: weights are random (seed {setting.seed}) and the classes in the "
            "output mean nothing; what is shown is the data path"
        )
    if message_class_of("tf2_msgs/msg/TFMessage") is None:
        if layout.pose.kind == "tf":
            raise DemoError(
                "the ego pose of this bag is in /tf, and tf2_msgs is not installed (there is no "
                "wheel of it); use a machine with a ROS 2 installation, or `occ run`"
            )
        rig = setting.out / "rig.yaml"
        save_rig(rig, calibrate(recording, layout).rig, f"calibration of {setting.bag}")
        parameters["rig"] = str(rig.resolve())
        print(f"tf2_msgs is not installed: camera mounts were read from the bag into {rig}")
    path = setting.out / "node_parameters.yaml"
    path.write_text(yaml.safe_dump({"/**": {"ros__parameters": parameters}}, sort_keys=False))
    return path


def _draw(setting: Setting, recorder: Recorder) -> int:
    """One picture per grid, beside the camera pictures where the bag has them under its stamp."""
    drawn = 0
    waiting = dict(recorder.grids)
    with BagFrames(setting.bag, layout=setting.layout or None) as frames:
        for frame in frames:
            message = waiting.pop(frame.stamp_ns, None)
            if message is not None:
                page = prediction_picture(prediction_from_message(message), frame)
                write_png(setting.out / f"{frame.stamp_ns}.png", page)
                drawn += 1
    for stamp, message in waiting.items():
        write_png(
            setting.out / f"{stamp}.png", prediction_picture(prediction_from_message(message))
        )
        drawn += 1
    return drawn


def _report(
    setting: Setting,
    rings: list[BagRing],
    layout: TopicLayout,
    recorder: Recorder,
    pictures: int,
) -> bool:
    """Print the figures; whether every ring was answered."""
    if layout.stamp_source == "header":
        unanswered = [ring for ring in rings if ring.stamp_ns not in recorder.grids]
    else:
        unanswered = rings[len(recorder.grids) :]
    print(f"rings in     {len(rings)}")
    print(f"frames out   {len(recorder.grids)}")
    print(f"drops        {len(unanswered)}", end="")
    print(
        f"  (overwritten while busy {recorder.figure('inference', 'rings_overwritten')}, "
        f"incomplete {recorder.figure('synchronization', 'incomplete')}, "
        f"failed {recorder.figure('inference', 'rings_failed')})"
    )
    latencies = recorder.latencies_ms()
    if latencies:
        p50, p90, p99 = np.percentile(latencies, (50, 90, 99))
        print(f"latency ms   p50 {p50:.0f}  p90 {p90:.0f}  p99 {p99:.0f}  max {max(latencies):.0f}")
        print("             last picture of a ring received -> its grid received, both over DDS")
    else:
        print("latency      not measured: the bag's pictures carry no stamps")
    for ring in unanswered[:10]:
        missing = f" (no {', '.join(ring.missing)} in the bag)" if ring.missing else ""
        print(f"no answer    ring at {(ring.stamp_ns or ring.first_log_ns) / 1e9:.3f} s{missing}")
    print(f"pictures     {pictures} in {setting.out}")
    return bool(rings) and not unanswered


def main(
    bag: Annotated[
        Path | None, typer.Argument(help="rosbag2 to play; `occ convert nuscenes` makes one.")
    ] = None,
    model: Annotated[str, typer.Option(help="See `occ models list`.")] = "alocc_2d_mini",
    weights: Annotated[str, typer.Option(help="Checkpoint of that model.")] = "",
    random_weights: Annotated[
        int, typer.Option(metavar="SEED", help="Seed of the weights where none are given.")
    ] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--lockstep",
            help="Play by time, or wait for every answer. By time where there is a GPU.",
        ),
    ] = None,
    answer_timeout: Annotated[
        float, typer.Option(help="Seconds a ring may stay unanswered in lockstep.")
    ] = 300.0,
    layout: Annotated[str, typer.Option(help="Topic layout; recognised if left out.")] = "",
    out: Annotated[Path, typer.Option(help="Folder for pictures and logs.")] = Path("demo_out"),
) -> None:
    """Play a bag into the node over DDS and show what comes out."""
    if bag is None:
        typer.echo(
            "error: which bag? make demo BAG=<rosbag2>; `occ convert nuscenes ROOT --scene NAME "
            "--out BAG` makes one from a nuScenes folder",
            err=True,
        )
        raise typer.Exit(2)
    has_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    lockstep = not has_gpu if realtime is None else not realtime
    setting = Setting(
        bag, model, weights, random_weights, device, lockstep, answer_timeout, layout, out
    )
    try:
        everything_answered = demonstrate(setting)
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(0 if everything_answered else 1)


if __name__ == "__main__":
    typer.run(main)
