"""The node as a managed node: a manager configures, activates, pauses and cleans up over DDS."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
import torch
from car import Car, Listener, spin_for, spin_until, write_rig
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from processes import SMALL_MODEL_NODE, RunningProcess
from rclpy.node import Node
from ros_fixtures import Launch
from small_streams import small_card
from std_srvs.srv import Trigger

from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.zoo import get_card
from occ_perception.runtime.weight_files import file_checksum

pytestmark = pytest.mark.ros

NAME = "/occupancy_node"
T0 = 1_700_000_000 * 10**9
STEP = 10**9 // 2


@pytest.fixture(autouse=True)
def kept_weights(tmp_path: Path, child_environment: dict[str, str]) -> Iterator[Path]:
    """The folder where the node finds weights by the model's name, at first empty."""
    child_environment["OCC_WEIGHTS"] = str(tmp_path / "kept")
    yield tmp_path / "kept"
    del child_environment["OCC_WEIGHTS"]


def start(launch: Launch, tmp_path: Path, *parameters: str) -> RunningProcess:
    rig = write_rig(tmp_path / "rig.yaml")
    return launch(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args", "-p", "model:=alocc_2d_mini_small",
            "-p", "device:=cpu", "-p", f"rig:={rig}",
            # Generous: the machine that runs the tests may be busy.
            "-p", "sync.deadline_ms:=1500.0", "-p", "pose.wait_ms:=1500.0",
            *(word for parameter in parameters for word in ("-p", parameter)),
        ]
    )  # fmt: skip


@pytest.fixture
def manager(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("manager")
    yield node
    node.destroy_node()


def call(node: Node, kind: type[Any], name: str, request: Any = None, timeout_s: float = 120.0):
    client = node.create_client(kind, f"{NAME}/{name}")
    spin_until(node, client.service_is_ready, timeout_s, f"service {name}")
    future = client.call_async(request or kind.Request())
    spin_until(node, future.done, timeout_s, f"answer of {name}")
    node.destroy_client(client)
    return future.result()


def change(node: Node, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return call(node, ChangeState, "change_state", request).success


def state(node: Node) -> int:
    return call(node, GetState, "get_state").current_state.id


def frames(car: Car, listener: Listener, first: int, count: int) -> list[Any]:
    return [
        listener.wait_for_grid(car.frame_set(T0 + n * STEP)) for n in range(first, first + count)
    ]


def test_a_manager_takes_the_node_through_its_life(
    launch: Launch, tmp_path: Path, manager: Node
) -> None:
    process = start(launch, tmp_path, "autostart:=false", "random_weights_seed:=0")
    car, listener = Car(manager), Listener(manager)
    assert state(manager) == State.PRIMARY_STATE_UNCONFIGURED
    assert not manager.count_publishers(f"{NAME}/occupancy")

    assert change(manager, Transition.TRANSITION_CONFIGURE)
    assert state(manager) == State.PRIMARY_STATE_INACTIVE
    spin_until(
        manager, lambda: manager.count_publishers(f"{NAME}/occupancy"), 30, "outputs are advertised"
    )
    assert "inactive" in listener.wait_for_status("lifecycle", "inactive").message
    front = car.topic("CAM_FRONT", "image")
    assert not manager.count_subscribers(front)

    assert change(manager, Transition.TRANSITION_ACTIVATE)
    unpublished = f"{front}/compressed"
    spin_until(manager, lambda: manager.count_subscribers(unpublished), 30, "an input is seen")
    assert not manager.count_publishers(unpublished)
    car.wait_until_heard()
    topics = [line.split() for line in process.output().splitlines()]
    assert ["in", "CAM_FRONT", front, "sensor_msgs/Image,", "or"] in [t[:5] for t in topics]
    assert ["out", "occupancy", f"{NAME}/occupancy", "occ_msgs/SemanticOccupancy"] in [
        t[:4] for t in topics
    ]
    first = frames(car, listener, 0, 3)
    assert process.output().count("first grid, of the images at") == 1
    assert [grid.history_length for grid in first] == [0, 1, 2]

    assert change(manager, Transition.TRANSITION_DEACTIVATE)
    spin_until(manager, lambda: not manager.count_subscribers(front), 30, "inputs are given up")
    silent = car.frame_set(T0 + 3 * STEP)
    spin_for(manager, 2.0)
    assert silent not in listener.grids

    assert change(manager, Transition.TRANSITION_ACTIVATE)
    car.wait_until_heard()
    again = frames(car, listener, 4, 2)
    assert [grid.history_length for grid in again] == [0, 1], "what it had seen is forgotten"

    assert change(manager, Transition.TRANSITION_DEACTIVATE)
    assert change(manager, Transition.TRANSITION_CLEANUP)
    spin_until(
        manager, lambda: not manager.count_publishers(f"{NAME}/occupancy"), 30, "outputs are gone"
    )
    assert change(manager, Transition.TRANSITION_CONFIGURE)
    assert change(manager, Transition.TRANSITION_ACTIVATE)
    car.wait_until_heard()
    frames(car, listener, 6, 1)
    assert process.stop() == 0, process.output()
    assert "Traceback" not in process.output()


def test_what_cannot_be_configured_stays_unconfigured_and_says_why(
    launch: Launch, tmp_path: Path, manager: Node
) -> None:
    process = start(launch, tmp_path, "autostart:=false")  # neither weights nor a seed
    assert not change(manager, Transition.TRANSITION_CONFIGURE)
    assert state(manager) == State.PRIMARY_STATE_UNCONFIGURED
    assert "there are no weights of alocc_2d_mini_small on this machine" in process.output()
    assert not call(manager, Trigger, "reset").success
    assert process.stop() == 0, process.output()


def test_kept_weights_are_found_by_the_name_of_the_model_and_those_of_another_are_named(
    launch: Launch, tmp_path: Path, manager: Node, kept_weights: Path
) -> None:
    kept_weights.mkdir()
    card = small_card()
    name = str(card.url).rsplit("/", 1)[1]
    write_checkpoint(get_card("bevdetocc_sf"), kept_weights / name)
    process = start(launch, tmp_path, "autostart:=false")
    assert not change(manager, Transition.TRANSITION_CONFIGURE)
    says = "does not fit model alocc_2d_mini_small: these are the keys of bevdetocc_sf or"
    (line,) = [line for line in process.output().splitlines() if says in line]
    assert line.startswith("[FATAL]")

    for file in kept_weights.iterdir():
        file.unlink()
    write_checkpoint(card, kept_weights / name)
    assert change(manager, Transition.TRANSITION_CONFIGURE)
    assert change(manager, Transition.TRANSITION_ACTIVATE)
    checksum = file_checksum(kept_weights / name)
    assert f"alocc_2d_mini_small@{checksum[:12]} runs on cpu" in process.output()


def write_checkpoint(card: ModelCard, path: Path) -> None:
    """A file with the tensors of a model; there is one number in memory for each."""
    with torch.device("meta"):
        tensors = card.build().state_dict()
    torch.save(
        {
            checkpoint_key(key, card.names): torch.tensor(0.01).to(value.dtype).expand(value.shape)
            for key, value in tensors.items()
        },
        path,
    )


def test_a_reset_clears_the_history(launch: Launch, tmp_path: Path, manager: Node) -> None:
    start(launch, tmp_path, "random_weights_seed:=0")
    car, listener = Car(manager), Listener(manager)
    car.wait_until_heard()
    assert [grid.history_length for grid in frames(car, listener, 0, 2)] == [0, 1]
    answer = call(manager, Trigger, "reset")
    assert answer.success, answer.message
    (grid,) = frames(car, listener, 2, 1)
    assert grid.history_length == 0
    assert grid.history_break == "reset by ~/reset"
