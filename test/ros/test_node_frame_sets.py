"""Frame sets over DDS: the node and the player on bags with a lost image, and a fast camera."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.messages", exc_type=ImportError)

import rclpy
from car import CAMERAS, Listener, image, jpeg, small_rig, spin_until
from processes import OCC, SMALL_MODEL_NODE
from rclpy.node import Node
from ros_fixtures import Launch

from occ_perception.bags.writing import BagWriter, camera_topic

pytestmark = pytest.mark.ros

MS = 1_000_000
START = 1_600_000_000_000 * MS
TRIGGERS = 12
LOST = 7
OUTPUT = "/occupancy_node/occupancy"

Exposure = tuple[int, str]


def together(period_ms: float) -> list[Exposure]:
    """Cameras that fire together; one image of CAM_BACK is lost."""
    return [
        (START + round(k * period_ms * MS), name)
        for k in range(TRIGGERS)
        for name in CAMERAS
        if (k, name) != (LOST, "CAM_BACK")
    ]


def sweeps() -> list[Exposure]:
    """The cameras of a sweep at 10 Hz."""
    return [
        (START + (100 * k + round(offset * 1e3)) * MS, name)
        for k in range(TRIGGERS)
        for name, (_, offset) in CAMERAS.items()
    ]


def reference_twice_as_fast() -> list[Exposure]:
    """CAM_FRONT at 20 Hz, the others at 10 Hz."""
    return sweeps() + [(stamp + 50 * MS, name) for stamp, name in sweeps() if name == "CAM_FRONT"]


def write(path: Path, exposures: list[Exposure], late_ns: dict[str, int] | None = None) -> Path:
    """A bag; ``late_ns`` says how long after its stamp a camera's image was recorded."""
    images = {name: jpeg(image(name, 0.0)) for name in CAMERAS}
    rig = small_rig()
    with BagWriter(path) as writer:
        mounts = [("base_link", c.frame_id, c.ego_T_cam) for c in rig.cameras]
        writer.write_transforms(START, mounts, static=True)
        for name in CAMERAS:
            writer.write_camera_info(rig.camera(name), START)
        for received, stamp, name in sorted(
            (stamp + (late_ns or {}).get(name, 0), stamp, name) for stamp, name in exposures
        ):
            writer.write_odometry(received, np.eye(4))
            time = writer.new(
                "builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9
            )
            message = writer.new(
                "sensor_msgs/msg/CompressedImage",
                header=writer.new("std_msgs/msg/Header", stamp=time, frame_id=""),
                format="jpeg",
                data=np.frombuffer(images[name], np.uint8),
            )
            writer.write(camera_topic(name), received, message)
    return path


@pytest.fixture
def node(ros_context: None) -> Iterator[Node]:
    assert ros_context is None
    node = rclpy.create_node("frame_sets_listener")
    yield node
    node.destroy_node()


def play(launch: Launch, node: Node, bag: Path, *options: str) -> tuple[Listener, str]:
    """The node's outputs for a bag played in lockstep, and the node's log."""
    listener = Listener(node)
    process = launch(
        [sys.executable, SMALL_MODEL_NODE, "--ros-args", "-p", "model:=alocc_2d_mini_small",
         "-p", "random_weights_seed:=0", "-p", "device:=cpu", "-p", "layout:=occ_perception",
         "-p", "pose.wait_ms:=2000.0", "-p", "sync.deadline_ms:=1000.0", *options]
    )  # fmt: skip
    spin_until(node, lambda: node.count_publishers(OUTPUT), 120, "the node starts")
    player = launch([*OCC, "play", bag, "--lockstep", OUTPUT, "--output-timeout", "5"])
    spin_until(node, lambda: not player.is_running, 300, "the player ends")
    reports = len(listener.reports)
    spin_until(node, lambda: len(listener.reports) > reports, 30, "a last report")
    assert process.stop() == 0, process.output()
    return listener, process.output()


def stamps(listener: Listener) -> list[dict[str, int]]:
    """Camera -> stamp, of each output."""
    return [
        {
            name: stamp.sec * 10**9 + stamp.nanosec
            for name, stamp in zip(grid.camera_names, grid.camera_stamps, strict=True)
        }
        for _, grid in sorted(listener.grids.items())
    ]


@pytest.mark.parametrize(
    ("period_ms", "options"),
    [(1000 / 30, ()), (40.0, ("-p", "sync.tolerance_ms:=50.0"))],
)
def test_a_lost_image_costs_one_output_and_mixes_no_triggers(
    tmp_path: Path, node: Node, launch: Launch, period_ms: float, options: tuple[str, ...]
) -> None:
    listener, log = play(launch, node, write(tmp_path / "bag", together(period_ms)), *options)
    outputs = stamps(listener)
    assert all(len(output) == len(CAMERAS) for output in outputs)
    assert all(len(set(output.values())) == 1 for output in outputs)
    fired = [START + round(k * period_ms * MS) for k in range(TRIGGERS) if k != LOST]
    assert [output["CAM_FRONT"] for output in outputs] == fired
    values = listener.values("synchronization")
    assert (values["complete"], values["incomplete"]) == (str(TRIGGERS - 1), "1")
    if options:
        assert (values["tolerance_ms"], values["tolerance_from"]) == ("50.000", "given")
    else:
        assert values["tolerance_from"] == "observed"
        assert float(values["tolerance_ms"]) == pytest.approx(16.67, abs=0.1)
        assert "stamps of one frame set may be 16.7 ms apart" in log


def test_a_reference_camera_twice_as_fast_has_an_output_for_every_sweep(
    tmp_path: Path, node: Node, launch: Launch
) -> None:
    listener, _ = play(launch, node, write(tmp_path / "bag", reference_twice_as_fast()))
    assert [output["CAM_FRONT"] for output in stamps(listener)] == [
        START + (100 * k + 8) * MS for k in range(TRIGGERS)
    ]
    for output in stamps(listener):
        assert max(output.values()) - min(output.values()) < 43 * MS
    values = listener.values("synchronization")
    assert values["complete"] == str(TRIGGERS)
    # Before the second sweep nothing shows that the extra image of the first is one too many.
    assert int(values["incomplete"]) <= 1
    assert int(values["unmatched"]) >= TRIGGERS - 2
    assert values["tolerance_from"] == "observed"


def test_a_camera_recorded_late_has_all_outputs_in_lockstep(
    tmp_path: Path, node: Node, launch: Launch
) -> None:
    """The first images of the next frame sets were recorded before the last one of this."""
    bag = write(tmp_path / "bag", sweeps(), {"CAM_BACK": 250 * MS})
    listener, _ = play(launch, node, bag, "-p", "sync.deadline_ms:=8000.0")
    assert [output["CAM_FRONT"] for output in stamps(listener)] == [
        START + (100 * k + 8) * MS for k in range(TRIGGERS)
    ]
