"""A node in its own process, a car that drives past it, and a judge of every grid.

The judge is the same network in this process. A grid says which images it was made from; the judge
is given clean ones of the same stamps and exact poses, and follows the node's history. A grid is
right if it equals the judge's, but for rounding.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import rclpy
from car import (
    CAMERAS,
    Car,
    Listener,
    camera_info,
    camera_mounts,
    image,
    jpeg,
    small_rig,
    spin_for,
    write_rig,
)
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo
from small_model_node import SMALL_MODEL, add_small_models

from occ_msgs.msg import Latency, SemanticOccupancy
from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model
from occ_perception.sensing.from_messages import prediction_from_message

SECOND = 10**9
RIGHT = 0.995
"""Share of equal voxels from which on a grid is right: labels whose scores tie may differ."""

_LINE = re.compile(r"\[(WARN|ERROR|FATAL)\] \[[\d.]+\] \[[^\]]*\]: (.*)")


@dataclass
class Outcome:
    """What a fault did.

    Attributes:
        sets: frame sets sent while the fault lasted and after it.
        right, wrong: grids.
        resets: reasons of the history's breaks, in their order.
        recovery_s: from the end of the fault to the next right grid, seconds.
        counters: diagnostics values that are not zero and count losses.
        said: the console's lines of warnings and errors, in their order, each once.
        latency: stage -> milliseconds of every grid.
    """

    sets: int = 0
    right: int = 0
    wrong: int = 0
    resets: list[str] = field(default_factory=list)
    recovery_s: float = float("nan")
    counters: dict[str, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    latency: dict[str, list[float]] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Frame sets without a right grid that newer ones have not replaced: a slow machine."""
        return self.sets - self.right - self.counters.get("frame_sets_overwritten", 0)


class FaultBench:
    """One node, one car, one judge.

    Args:
        launch: starts processes.
        folder: for the rig file.
        parameters: of the node, beside those that all faults share.
        rig: whether the node gets a rig file; otherwise calibrations come from topics, see
            :meth:`calibrate`.
        poses_on_tf: whether ego poses are transforms in place of odometry.

    Attributes:
        node: of this process.
        car: publishes images and odometry.
        listener: receives grids and diagnostics.
        process: the node under test.
        now_ns: stamp of the newest frame set.
    """

    def __init__(
        self,
        launch: Callable[..., RunningProcess],
        folder: Path,
        parameters: dict[str, str] | None = None,
        rig: bool = True,
        poses_on_tf: bool = False,
    ) -> None:
        values = {
            "model": SMALL_MODEL,
            "random_weights_seed": "0",
            "device": "cpu",
            # The machine may be busy.
            "sync.deadline_ms": "1000.0",
            "pose.wait_ms": "1000.0",
            "stale_after_s": "20.0",
            **({"rig": str(write_rig(folder / "rig.yaml"))} if rig else {}),
            **({"pose.source": "tf"} if poses_on_tf else {}),
            **(parameters or {}),
        }
        self._command = [sys.executable, SMALL_MODEL_NODE, "--ros-args"]
        for name, value in values.items():
            self._command += ["-p", f"{name}:={value}"]
        self._launch = launch
        self.process = launch(self._command)
        self.node: Node = rclpy.create_node("fault_bench")
        self.car = Car(self.node, poses_on_tf=poses_on_tf)
        self.listener = Listener(self.node)
        self._messages: list[SemanticOccupancy] = []
        topic = "/occupancy_node/occupancy"
        self.node.create_subscription(SemanticOccupancy, topic, self._messages.append, 200)
        self._latency: list[Latency] = []
        topic = "/occupancy_node/latency"
        self.node.create_subscription(Latency, topic, self._latency.append, 200)
        self.now_ns = 1_500_000_000 * SECOND
        self._rigs: list[tuple[int, CameraRig]] = [(0, small_rig())]
        self._calibrations: list[Publisher] = []
        if not rig:
            self.calibrate(small_rig())
        self._sets = 0
        self._recovery_s = float("nan")
        self.begin()

    def calibrate(self, rig: CameraRig) -> None:
        """Publish intrinsics and mounts, which hold from the next frame set on."""
        if not self._calibrations:
            latched = QoSProfile(depth=20, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            mounts = camera_mounts(rig)
            topics = [(type(mounts), "/tf_static")]
            topics += [(CameraInfo, self.car.topic(name, "camera_info")) for name in rig.names]
            self._calibrations = [
                self.node.create_publisher(kind, topic, latched) for kind, topic in topics
            ]
        messages = [camera_mounts(rig), *map(camera_info, rig.cameras)]
        for publisher, message in zip(self._calibrations, messages, strict=True):
            publisher.publish(message)
        self._rigs.append((self._newest_ns() + 1, rig))
        spin_for(self.node, 1.0)  # topics have no order among each other

    def begin(self) -> None:
        """Send good frame sets until the node answers; what comes later counts."""
        self.car.wait_until_heard()
        self.good_again(1)
        self.settle()
        self._recovery_s = float("nan")
        self._before = len(self._messages)
        self._sets = 0
        self._counters = self._counted()
        self._said = len(self.process.output())

    def respawn(self) -> None:
        """Start the node again after it was killed; only what comes after its start counts."""
        begun = time.monotonic()
        self.listener.grids.clear()
        self._messages.clear()
        self._latency.clear()
        self.process = self._launch(self._command)
        self.begin()
        self._recovery_s = time.monotonic() - begun

    def frame_sets(
        self, count: int, period_s: float = 0.5, send: Callable[[int], object] | None = None
    ) -> None:
        """Send frame sets in real time.

        Args:
            count: how many.
            period_s: between two of them, of stamps and of the clock.
            send: sends the one that begins at a stamp; by default a good one.
        """
        for _ in range(count):
            self.now_ns += round(period_s * 1e9)
            due = time.monotonic() + period_s
            (send or self.car.frame_set)(self.now_ns)
            self._sets += 1
            spin_for(self.node, max(0.001, due - time.monotonic()))

    def good_again(self, count: int = 3) -> None:
        """Good frame sets until one has a grid, which ends a fault; then more of them."""
        over, over_ns = time.monotonic(), self._newest_ns()
        for _ in range(60):
            self.frame_sets(1)
            if self._messages and stamp_of(self._messages[-1]) > over_ns:
                break
        self._recovery_s = time.monotonic() - over
        self.frame_sets(count)

    def _newest_ns(self) -> int:
        return self.now_ns + round(CAMERAS["CAM_FRONT"][1] * 1e9)

    def settle(self) -> None:
        """Wait until no grid has arrived for a while, and the diagnostics know of all of them."""
        known = -1
        while known != len(self._messages):
            known = len(self._messages)
            spin_for(self.node, 3.0)

    def _counted(self) -> dict[str, int]:
        return {
            name: int(value)
            for task in ("synchronization", "inference", "ego pose", "time")
            for name, value in self.listener.values(task).items()
            if _LOSSES.search(name) and value.isdigit()
        }

    def outcome(self) -> Outcome:
        """Judge every grid, in the order of arrival."""
        lines = _LINE.findall(self.process.output()[self._said :])
        self.settle()
        published = self.listener.values("inference")["published_occupancy"]
        assert int(published) == len(self._messages), "the bench has missed grids"
        judge, result = Judge(self._rigs), Outcome(sets=self._sets, recovery_s=self._recovery_s)
        for number, message in enumerate(self._messages):
            agrees = judge.agrees(message)
            if number < self._before:
                assert agrees, "a grid before the fault"
                continue
            result.right += agrees
            result.wrong += not agrees
            if message.history_break:
                result.resets.append(message.history_break)
        for name, count in self._counted().items():
            if count > self._counters.get(name, 0):
                result.counters[name] = count - self._counters.get(name, 0)
        stages = [name for name in Latency.get_fields_and_field_types() if name.endswith("_ms")]
        counted = self._latency[self._before :]
        result.latency = {name: [getattr(one, name) for one in counted] for name in stages}
        result.said = list(dict.fromkeys(text for _, text in lines))
        return result

    def close(self) -> int:
        """End the node; returns its exit code."""
        code = self.process.stop()
        self.node.destroy_node()
        return code


_LOSSES = re.compile(r"dropped|failed|overwritten|^late$|duplicate|unmatched|rejected|jumps|reused")


class Judge:
    """The network of the node, in this process, on clean images.

    Args:
        rigs: calibrations, each from a stamp on.
    """

    def __init__(self, rigs: Sequence[tuple[int, CameraRig]]) -> None:
        if SMALL_MODEL not in MODELS:
            add_small_models()
        self._model = load_model(SMALL_MODEL, random_seed=0)
        self._rigs = rigs
        self._stream = OccupancyStream(self._model)
        self.differences: list[float] = []

    def agrees(self, message: SemanticOccupancy) -> bool:
        """Whether a grid is what clean images of its stamps give, after the grids before it."""
        got = prediction_from_message(message)
        stamps = dict(got.camera_stamps_ns)
        images, poses = {}, {}
        for name, stamp_ns in stamps.items():
            sent = np.frombuffer(jpeg(image(name, stamp_ns * 1e-9)), dtype=np.uint8)
            images[name] = np.ascontiguousarray(cv2.imdecode(sent, cv2.IMREAD_COLOR)[..., ::-1])
            poses[name] = np.eye(4)
            poses[name][0, 3] = 5.0 * (stamp_ns * 1e-9 % 1000.0)
        reference = next(name for name in stamps if stamps[name] == got.stamp_ns)
        masked = tuple(name for name in CAMERAS if name not in stamps)
        rig = next(rig for since, rig in reversed(self._rigs) if got.stamp_ns >= since)
        frame = CameraFrame(rig, images, stamps, poses, reference, masked=masked)
        if message.history_break:
            self._stream.reset(message.history_break)
        expected = self._stream.step(frame)
        share = float((expected.labels == got.labels).mean())
        self.differences.append(1.0 - share)
        return share >= RIGHT and expected.history_length == got.history_length


def stamp_of(message: SemanticOccupancy) -> int:
    """The stamp of a message, nanoseconds."""
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec
