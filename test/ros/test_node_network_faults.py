"""A network or device that fails or hangs: the frame set is lost, said, and the node goes on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Car, Listener, spin_until, write_rig
from processes import RunningProcess
from rclpy.node import Node
from ros_fixtures import Launch

pytestmark = pytest.mark.ros

T0 = 1_700_000_000 * 10**9
STEP = 10**9 // 2


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("network_faults_test")
    yield node
    node.destroy_node()


def start(launch: Launch, tmp_path: Path, *faults: str) -> RunningProcess:
    parameters = [
        "model:=alocc_2d_mini_small", "random_weights_seed:=0", "device:=cpu",
        f"rig:={write_rig(tmp_path / 'rig.yaml')}", "stalled_after_s:=1.5",
        # Generous: the machine that runs the tests may be busy.
        "sync.deadline_ms:=1500.0", "pose.wait_ms:=1500.0",
    ]  # fmt: skip
    options = [part for parameter in parameters for part in ("-p", parameter)]
    program = Path(__file__).with_name("faulty_network_node.py")
    return launch([sys.executable, program, *faults, "--ros-args", *options])


def test_after_a_fault_the_next_frame_set_is_processed(
    launch: Launch, tmp_path: Path, node: Node
) -> None:
    faults = ["memory", "overflow", "device"]
    process = start(launch, tmp_path, "none", "none", *faults)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    before = [listener.wait_for_grid(car.frame_set(T0 + n * STEP)) for n in range(2)]
    assert [grid.history_length for grid in before] == [0, 1]

    lost = []
    for number, kind in enumerate(("out_of_memory", "overflow", "device"), start=2):
        lost.append(car.frame_set(T0 + number * STEP))

        def is_counted(kind: str = kind) -> bool:
            return bool(listener.reports) and (
                listener.values("inference").get(f"frame_sets_failed_{kind}") == "1"
            )

        spin_until(node, is_counted, 60, f"{kind} is counted")
        assert "last frame set dropped" in listener.status("inference").message

    after = [listener.wait_for_grid(car.frame_set(T0 + n * STEP)) for n in range(5, 7)]
    assert [grid.history_length for grid in after] == [0, 1]
    assert after[0].history_break == "the network failed on an earlier frame set: out_of_memory"
    listener.wait_for_status("inference", "predicting")
    assert listener.values("inference")["frame_sets_failed"] == "3"
    assert not set(lost) & set(listener.grids)
    output = process.output()
    assert "frame set dropped: there is not enough memory" in output
    assert "frame set dropped: a number is too large" in output
    assert "frame set dropped: the device failed (CUDA error: an illegal memory access" in output
    assert process.stop() == 0, process.output()


def test_a_step_that_does_not_end_is_reported_while_it_lasts(
    launch: Launch, tmp_path: Path, node: Node
) -> None:
    process = start(launch, tmp_path, "none", "stall")
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    listener.wait_for_grid(car.frame_set(T0))
    stamp = car.frame_set(T0 + STEP)
    hangs = "the network has been busy with one frame set for"
    listener.wait_for_status("inference", hangs)
    spin_until(node, lambda: hangs in process.output(), 10, "the console says it")
    assert stamp not in listener.grids

    assert listener.wait_for_grid(stamp).history_length == 1
    listener.wait_for_status("inference", "predicting")
    listener.wait_for_grid(car.frame_set(T0 + 2 * STEP))
    assert process.output().count(hangs) == 1
    assert process.stop() == 0, process.output()
