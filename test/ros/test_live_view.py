"""`occ view --live`: a running node, followed over DDS into a recording that is read back."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.live_view", exc_type=ImportError)
pytest.importorskip("rerun")

import rclpy
from car import Car, Listener, small_rig, spin_until, write_rig
from conftest import Launch
from processes import OCC, SMALL_MODEL_NODE, RunningProcess, wait_for
from rclpy.node import Node

pytestmark = pytest.mark.ros

SECOND = 10**9
START = 1_600_000_000 * SECOND
SMALL_MODEL_OCC = Path(__file__).parents[1] / "small_model_occ.py"


@pytest.fixture
def node(ros_context: None) -> Node:
    del ros_context
    made = rclpy.create_node("test_live_view")
    yield made
    made.destroy_node()


def start_node(launch: Launch, folder: Path) -> RunningProcess:
    return launch(
        [
            sys.executable, SMALL_MODEL_NODE, "--ros-args",
            "-p", "model:=alocc_2d_mini_small",
            "-p", "random_weights_seed:=0",
            "-p", f"rig:={write_rig(folder / 'rig.yaml')}",
        ]
    )  # fmt: skip


def test_a_running_node_is_followed_into_a_recording(
    tmp_path: Path, launch: Launch, node: Node
) -> None:
    """Pictures, path and occupancy of every moment, each at the stamp of its grid."""
    occupancy_node = start_node(launch, tmp_path)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    out = tmp_path / "live.rrd"
    command = ["view", "--live", "--out", out]
    viewer = launch([sys.executable, SMALL_MODEL_OCC, *command])

    def is_followed() -> bool:
        assert viewer.is_running, viewer.output()
        # Node and viewer.
        return all(p.get_subscription_count() > 1 for p in [*car.pictures.values(), car.odometry])

    spin_until(node, is_followed, 120.0, "the viewer subscribes")
    stamps = []
    for number in range(3):
        stamps.append(car.ring(START + number * SECOND // 2))
        listener.wait_for_grid(stamps[-1])
    wait_for(lambda: "3 moments" in viewer.output(), 60.0, "three moments are shown")
    assert viewer.stop() == 0, viewer.output()
    assert viewer.output().splitlines()[-1] == f"3 moments in {out}"
    assert "not shown" not in viewer.output()
    assert occupancy_node.is_running

    rows, times, poses = read_recording(out)
    cameras = [f"cameras/{camera.name}" for camera in small_rig().cameras]
    for entity in ("prediction/cells", "motion", *cameras):
        assert rows[f"/world/ego/{entity}"] >= 3, entity
    assert times == stamps
    np.testing.assert_allclose(np.diff(poses, axis=0), [[2.5, 0, 0]] * 2, atol=1e-3)


def read_recording(path: Path) -> tuple[dict[str, int], list[int], np.ndarray]:
    """Rows per entity, stamps of the grids, ego positions."""
    from rerun.chunk import RrdReader

    rows: dict[str, int] = {}
    times: list[int] = []
    positions: list[list[float]] = []
    for chunk in RrdReader(path).stream().to_chunks():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
        table = chunk.to_record_batch()
        if chunk.entity_path == "/world/ego/prediction/cells":
            times += [stamp.value for stamp in table["stamp"]]
        if chunk.entity_path == "/world/ego":
            positions += [row[0] for row in table["Transform3D:translation"].to_pylist()]
    return rows, times, np.array(positions)


def test_without_a_node_it_says_who_is_there(tmp_path: Path, launch: Launch) -> None:
    run = launch([*OCC, "view", "/nobody", "--live", "--out", tmp_path / "a.rrd"])
    assert run.wait(60) == 2, run.output()
    assert "no node /nobody answers" in run.output()


@pytest.mark.parametrize(
    ("module", "extra"), [("rerun", "pip install 'occ_perception[rerun]'"), ("rclpy", "make setup")]
)
def test_what_is_missing_is_named(tmp_path: Path, launch: Launch, module: str, extra: str) -> None:
    out = str(tmp_path / "a.rrd")
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['occ', 'view', '--live', "
        f"'--out', {out!r}]; from occ_perception.cli import main; main()"
    )
    run = launch([sys.executable, "-c", code])
    assert run.wait(60) == 2, run.output()
    assert extra in run.output()
    assert "Traceback" not in run.output()
