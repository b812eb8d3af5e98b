"""The node ends with exit code 0 on every signal, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Car, Listener, spin_for, write_rig
from processes import SMALL_MODEL_NODE, RunningProcess, python_module, wait_for
from ros_fixtures import Launch

pytestmark = pytest.mark.ros


def start(launch: Launch, tmp_path: Path) -> RunningProcess:
    rig = write_rig(tmp_path / "rig.yaml")
    return launch(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args", "-p", "model:=alocc_2d_mini_small",
            "-p", "random_weights_seed:=0", "-p", "device:=cpu", "-p", f"rig:={rig}",
            # Generous: the machine that runs the tests may be busy.
            "-p", "sync.deadline_ms:=1500.0", "-p", "pose.wait_ms:=1500.0",
        ]
    )  # fmt: skip


def test_sigterm_ends_a_waiting_node(launch: Launch, tmp_path: Path) -> None:
    process = start(launch, tmp_path)
    wait_for(lambda: "waiting for cameras" in process.output(), 120, "the node starts")
    process.send(signal.SIGTERM)
    assert process.wait(60) == 0, process.output()
    assert "Traceback" not in process.output()


def test_a_node_that_waits_ends_within_a_second(launch: Launch, tmp_path: Path) -> None:
    process = start(launch, tmp_path)
    wait_for(lambda: "waiting for cameras" in process.output(), 120, "the node starts")
    time.sleep(2.0)
    began = time.monotonic()
    assert process.stop() == 0, process.output()
    assert time.monotonic() - began < 1.0
    assert "Traceback" not in process.output()


def test_shared_memory_of_a_killed_node_is_removed_by_the_next_one(
    launch: Launch, tmp_path: Path, ros_context: None
) -> None:
    assert ros_context is None  # a living neighbour, whose segments stay
    node = rclpy.create_node("neighbour")
    ours = segments_of(os.getpid())
    killed = start(launch, tmp_path)
    wait_for(lambda: "waiting for cameras" in killed.output(), 120, "the node starts")
    left = segments_of(killed.pid)
    killed.send(signal.SIGKILL)
    killed.wait(60)
    assert ours and left and all(path.is_file() for path in left)
    time.sleep(5.5)  # until then the files count as those of a process that starts

    following = start(launch, tmp_path)
    wait_for(lambda: "waiting for cameras" in following.output(), 120, "the node starts")
    assert re.search(r"removed \d+ segments of shared memory", following.output())
    assert not any(path.exists() for path in left)
    assert all(path.is_file() for path in ours)
    assert following.stop() == 0, following.output()
    node.destroy_node()


def segments_of(pid: int) -> set[Path]:
    """The shared memory that a process owns: beside it lies the file that the owner locks."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    locks = Path("/proc/locks").read_text()
    owned = set()
    for name in set(re.findall(r"/dev/shm/fastdds_[0-9a-f]{16}", maps)):
        lock = Path(f"{name}_el")
        if re.search(rf"FLOCK .* {pid} \S+:{lock.stat().st_ino} ", locks):
            owned.add(Path(name))
    return owned


def test_a_signal_while_the_model_loads(launch: Launch) -> None:
    process = launch(
        python_module(
            "occ_perception.ros.node", "--ros-args", "-p", "random_weights_seed:=0",
            "-p", "rig:=nuscenes",
        )
    )  # fmt: skip
    maps = Path(f"/proc/{process.pid}/maps")
    # rclpy is initialised before torch is imported, which takes most of the start.
    wait_for(lambda: "libtorch_cpu" in maps.read_text(), 60, "torch is being loaded")
    time.sleep(0.5)
    process.send(signal.SIGTERM)
    assert process.wait(60) == 0, process.output()
    assert "Traceback" not in process.output()


def test_sigint_while_frames_come(launch: Launch, tmp_path: Path, ros_context: None) -> None:
    """The node finishes the current frame before it ends its thread."""
    assert ros_context is None
    process = start(launch, tmp_path)
    node = rclpy.create_node("shutdown_test")
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    stamp_ns = 1_700_000_000 * 10**9
    listener.wait_for_grid(car.frame_set(stamp_ns))
    for _ in range(8):
        stamp_ns += 10**9 // 10
        car.frame_set(stamp_ns)
        spin_for(node, 0.05)
    assert process.stop() == 0, process.output()
    assert "Traceback" not in process.output()
    node.destroy_node()
