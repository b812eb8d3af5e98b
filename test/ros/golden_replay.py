"""The golden replay: a fixed drive with faults through the real node, as a log of its messages.

    . ./env.sh && python test/ros/golden_replay.py

writes the log anew, after a change of the output that is intended. Images are drawn with integers
and sent without loss, poses are exact, and the network has seeded random weights, so that the log
depends on the processor only where two classes have nearly the same score.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
import rclpy
from car import CAMERAS, HEIGHT, WIDTH, Car, Listener, ros_time, spin_until, write_rig
from numpy.typing import NDArray
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from occ_msgs.msg import SemanticOccupancy
from occ_perception.sensing.from_messages import prediction_from_message, stamp_ns

LOG = Path(__file__).with_name("golden_replay.json")
GRIDS = LOG.with_suffix(".bin")
VOXELS = (24, 24, 16)
# Share of voxels of a grid, and of all grids, whose class may differ on another processor. Between
# kernels for AVX2 and those for SSE 4.1 it is at most 0.01 % of a grid, and 0.0004 % of all.
SHARE_OF_GRID, SHARE_OF_ALL = 0.002, 0.0002

FRAME_SETS = 60
T0, STEP = 1_700_000_000 * 10**9, 10**9 // 2
GAP_AT, GAP_NS = 30, 3 * 10**9
JUMP_AT, JUMP_NS = 45, -100 * 10**9
LOST: dict[int, Literal["without CAM_BACK", "damaged image"]] = {
    15: "without CAM_BACK",
    20: "damaged image",
}
COUNTED = {
    "inference": ("frames", "frame_sets_failed", "frame_sets_failed_undecodable_image"),
    "synchronization": ("complete", "incomplete", "dropped_incomplete"),
    "time": ("jumps_back",),
}
OPTIONS = [
    "model:=alocc_2d_mini_small", "random_weights_seed:=0", "device:=cpu", "precision:=fp32",
    "sync.tolerance_ms:=60.0",
    # Generous: the machine may be busy.
    "sync.deadline_ms:=10000.0", "pose.wait_ms:=5000.0",
]  # fmt: skip


@dataclass
class Replay:
    """What the node sent.

    Attributes:
        messages: every field of each message but the labels, in the order of arrival.
        grids: (number of messages, X, Y, Z) classes.
        counters: of the last diagnostics, by task and key.
    """

    messages: list[dict[str, Any]]
    grids: NDArray[np.uint8]
    counters: dict[str, int]


def node_command(folder: Path) -> list[str | Path]:
    """Starts the node of the replay."""
    options = [*OPTIONS, f"rig:={write_rig(folder / 'rig.yaml')}"]
    given = [word for option in options for word in ("-p", option)]
    return [sys.executable, SMALL_MODEL_NODE, "--ros-args", *given]


def replay(node: Node) -> Replay:
    """Send the drive to a running node, and collect what it answers."""
    car, listener = Car(node), Listener(node)
    received: list[SemanticOccupancy] = []
    node.create_subscription(SemanticOccupancy, "/occupancy_node/occupancy", received.append, 100)
    car.wait_until_heard()
    failed = 0
    for number, start_ns in drive():
        fault = LOST.get(number)
        count = len(received)
        send(car, number, start_ns, fault)
        if fault is None:
            spin_until(node, lambda count=count: len(received) > count, 60, f"grid {number}")
        elif fault == "damaged image":
            failed += 1
            wait_for_counter(listener, "inference", "frame_sets_failed", failed)
    wait_for_counter(listener, "inference", "frames", len(received))
    counters = {
        f"{task}: {key}": int(listener.values(task)[key])
        for task, keys in COUNTED.items()
        for key in keys
    }
    grids = np.stack([prediction_from_message(message).labels for message in received])
    return Replay([fields_of(message) for message in received], grids, counters)


def drive() -> Iterator[tuple[int, int]]:
    """Number and start of each frame set: two per second, with a gap and a jump back in time."""
    start_ns = T0
    for number in range(FRAME_SETS + len(LOST)):
        start_ns += {GAP_AT: GAP_NS, JUMP_AT: JUMP_NS}.get(number, STEP)
        yield number, start_ns


def send(car: Car, number: int, start_ns: int, fault: str | None) -> None:
    """One frame set and its poses."""
    for position, (name, (_, offset_s)) in enumerate(CAMERAS.items()):
        stamp = start_ns + round(offset_s * 1e9)
        car.pose(stamp)
        if name == "CAM_BACK" and fault == "without CAM_BACK":
            continue
        message = CompressedImage(format="png")
        message.header.stamp = ros_time(stamp)
        message.header.frame_id = f"{name.lower()}_optical"
        data = png(position, number)
        damaged = name == "CAM_BACK" and fault == "damaged image"
        message.data = data[: len(data) // 2] if damaged else data
        car.images[name].publish(message)


def png(camera: int, number: int) -> bytes:
    """Slanted triangle waves that move."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH]
    waves = [u * (1 + c) + v * (3 - c) + 70 * camera + 9 * number for c in range(3)]
    rgb = np.abs(np.stack(waves, axis=-1) % 510 - 255).astype(np.uint8)
    ok, data = cv2.imencode(".png", rgb[..., ::-1])
    assert ok
    return data.tobytes()


def wait_for_counter(listener: Listener, task: str, key: str, value: int) -> None:
    def is_reported() -> bool:
        return bool(listener.reports) and listener.values(task)[key] == str(value)

    spin_until(listener.node, is_reported, 60, f"{task}: {key} is {value}")


def fields_of(message: SemanticOccupancy) -> dict[str, Any]:
    """Every field but the labels, which are compared by voxel."""
    origin, grid = message.grid.origin, message.grid
    position, turn = origin.position, origin.orientation
    return {
        "stamp": stamp_ns(message.header.stamp),
        "frame_id": message.header.frame_id,
        "format_version": message.format_version,
        "origin": [position.x, position.y, position.z, turn.x, turn.y, turn.z, turn.w],
        "voxel_size": [float(size) for size in grid.voxel_size],
        "dims": [int(size) for size in grid.dims],
        "encoding": message.encoding,
        "empty_class": message.empty_class,
        "unknown_class": message.unknown_class,
        "class_names": list(message.class_names),
        # One voxel of another class moves the end of many rays; test_surroundings.py compares them.
        "tells_observed": bool(message.observed_runs),
        "model": message.model,
        "cameras": {
            name: stamp_ns(stamp)
            for name, stamp in zip(message.camera_names, message.camera_stamps, strict=True)
        },
        "committed": message.committed,
        "history_length": message.history_length,
        "history_break": message.history_break,
    }


def differences(wanted: Replay, got: Replay) -> list[str]:
    """What differs, one line per field; classes of voxels only beyond the stated shares."""
    lines = [
        f"{key} is {got.counters.get(key)}, expected {value}"
        for key, value in wanted.counters.items()
        if got.counters.get(key) != value
    ]
    if len(wanted.messages) != len(got.messages):
        return [*lines, f"{len(got.messages)} messages, expected {len(wanted.messages)}"]
    for number, (ours, theirs) in enumerate(zip(wanted.messages, got.messages, strict=True)):
        lines += [
            f"message {number}: {field} is {theirs.get(field)!r}, expected {value!r}"
            for field, value in ours.items()
            if theirs.get(field) != value
        ]
    differ = wanted.grids != got.grids
    shares = differ.mean(axis=(1, 2, 3))
    lines += [
        f"message {number}: {share:.2%} of the voxels have another class"
        for number, share in enumerate(shares)
        if share > SHARE_OF_GRID
    ]
    if differ.mean() > SHARE_OF_ALL:
        lines.append(f"{differ.mean():.2%} of all voxels have another class")
    return lines


def read_log() -> Replay:
    """The stored replay."""
    log = json.loads(LOG.read_text())
    messages = [{**log["every message"], **message} for message in log["messages"]]
    flat = np.frombuffer(zlib.decompress(GRIDS.read_bytes()), dtype=np.uint8)
    return Replay(messages, flat.reshape(-1, *VOXELS), log["counters"])


def write_log(replay: Replay) -> None:
    """Store a replay; fields that never change are written once."""
    first = replay.messages[0]
    constant = {
        field: value
        for field, value in first.items()
        if all(message[field] == value for message in replay.messages)
    }
    messages = [
        {field: value for field, value in message.items() if field not in constant}
        for message in replay.messages
    ]
    log = {"counters": replay.counters, "every message": constant, "messages": messages}
    LOG.write_text(json.dumps(log, indent=1) + "\n")
    GRIDS.write_bytes(zlib.compress(replay.grids.tobytes(), 9))


if __name__ == "__main__":
    import ros_fixtures  # noqa: F401, gives this process a ROS domain of its own

    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "node.log"
        process = RunningProcess(node_command(Path(name)), log, os.environ)
        rclpy.init()
        node = rclpy.create_node("golden_replay")
        try:
            write_log(replay(node))
        finally:
            process.stop()
            rclpy.try_shutdown()
