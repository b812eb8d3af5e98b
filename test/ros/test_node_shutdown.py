"""The node ends with exit code 0 on every signal, and leaves nothing behind."""

from __future__ import annotations

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
