"""The next frame set is assembled while the network runs: order, newest wins, resets, counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import Car, Listener, spin_for, spin_until, write_rig
from rclpy.node import Node
from ros_fixtures import Launch
from std_srvs.srv import Trigger

from occ_msgs.msg import Latency
from occ_perception.sensing.from_messages import stamp_ns

pytestmark = pytest.mark.ros

T0 = 1_700_000_000 * 10**9
STEP = 10**9 // 2
STAGES = (
    "waiting",
    "assembly",
    "queued",
    "preprocess",
    "network",
    "labels",
    "surroundings",
    "publishing",
)


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("two_stages_test")
    yield node
    node.destroy_node()


class Drive:
    """A car whose frame sets are half a second apart, and what the node says about them."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.car, self.listener = Car(node), Listener(node)
        self.latencies: dict[int, Latency] = {}
        self.sent = 0
        node.create_subscription(Latency, "/occupancy_node/latency", self._take, 10)
        self.car.wait_until_heard()

    def _take(self, message: Latency) -> None:
        self.latencies[stamp_ns(message.header.stamp)] = message

    def send(self, start_ns: int) -> int:
        """A frame set that the node has closed when this returns; its reference stamp."""
        stamp = self.car.frame_set(start_ns)
        self.sent += 1
        self.wait_for("synchronization", "taken", self.sent)
        return stamp

    def wait_for(self, task: str, key: str, value: int) -> None:
        def is_reported() -> bool:
            return bool(self.listener.reports) and self.listener.values(task)[key] == str(value)

        spin_until(self.node, is_reported, 60, f"{task}: {key} is {value}")

    def latency(self, stamp: int) -> Latency:
        spin_until(self.node, lambda: stamp in self.latencies, 60, "the latency")
        return self.latencies[stamp]

    def reset(self) -> None:
        client = self.node.create_client(Trigger, "/occupancy_node/reset")
        spin_until(self.node, client.service_is_ready, 60, "the service")
        future = client.call_async(Trigger.Request())
        spin_until(self.node, future.done, 60, "the answer")
        assert future.result().success


def test_order_resets_and_counts(launch: Launch, tmp_path: Path, node: Node) -> None:
    faults = ["none", "pause", "none", "pause", "none", "pause"]
    parameters = [
        "model:=alocc_2d_mini_small", "random_weights_seed:=0", "device:=cpu",
        f"rig:={write_rig(tmp_path / 'rig.yaml')}",
        # Generous: the machine that runs the tests may be busy.
        "sync.deadline_ms:=1500.0", "pose.wait_ms:=1500.0",
    ]  # fmt: skip
    options = [part for parameter in parameters for part in ("-p", parameter)]
    program = Path(__file__).with_name("faulty_network_node.py")
    process = launch([sys.executable, program, *faults, "--ros-args", *options])
    drive = Drive(node)
    grids, wait_for_grid = drive.listener.grids, drive.listener.wait_for_grid
    first = drive.send(T0)
    wait_for_grid(first)

    # While the network is busy with the second, the third is assembled, then the fourth.
    second, third = drive.send(T0 + STEP), drive.send(T0 + 2 * STEP)
    spin_for(node, 0.5)
    fourth = drive.send(T0 + 3 * STEP)
    assert second not in grids
    wait_for_grid(fourth)
    assert list(grids) == [first, second, fourth]
    assert drive.latency(fourth).queued_ms > 200.0
    assert drive.latency(second).network_ms > 6000.0
    for latency in drive.latencies.values():
        parts = sum(getattr(latency, f"{stage}_ms") for stage in STAGES)
        assert parts == pytest.approx(latency.total_ms, rel=0.05, abs=20.0)

    # What waits, assembled, is forgotten by a reset.
    fifth, sixth = drive.send(T0 + 4 * STEP), drive.send(T0 + 5 * STEP)
    spin_for(node, 0.5)
    drive.reset()
    assert fifth not in grids
    seventh = drive.send(T0 + 6 * STEP)
    assert wait_for_grid(seventh).history_break == "reset by ~/reset"
    assert grids[seventh].history_length == 0

    # So is what waits before a jump back in time.
    eighth, ninth = drive.send(T0 + 7 * STEP), drive.send(T0 + 8 * STEP)
    spin_for(node, 0.5)
    assert eighth not in grids
    earlier = drive.send(T0 - 60 * 10**9)
    assert "went back" in wait_for_grid(earlier).history_break

    sent_and_seen = [first, second, fourth, fifth, seventh, eighth, earlier]
    assert list(grids) == sent_and_seen and not {third, sixth, ninth} & set(grids)
    drive.wait_for("inference", "frames", len(sent_and_seen))
    values = drive.listener.values("inference")
    counts = {
        name: int(values[f"frame_sets_{name}"]) for name in ("overwritten", "cleared", "failed")
    }
    assert counts == {"overwritten": 1, "cleared": 2, "failed": 0}
    assert process.stop() == 0, process.output()
