"""`occ view --live`: a running node, followed over DDS into a recording that is read back."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.live_view", exc_type=ImportError)

import rclpy
from car import CAMERAS, Car, Listener, image, spin_for, spin_until, write_rig
from processes import OCC, SMALL_MODEL_NODE, RunningProcess, wait_for
from rclpy.node import Node
from ros_fixtures import Launch

from occ_perception.ros.messages import prediction_from_message

pytestmark = pytest.mark.ros

HAS_RERUN = importlib.util.find_spec("rerun") is not None
WATCHER = Path(__file__).with_name("watch_node.py")

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
            # Generous: the machine that runs the tests may be busy.
            "-p", "sync.deadline_ms:=1500.0", "-p", "pose.wait_ms:=1500.0",
        ]
    )  # fmt: skip


def test_a_running_node_is_followed(tmp_path: Path, launch: Launch, node: Node) -> None:
    """Images, path and occupancy of every frame, each at the stamp of its grid."""
    occupancy_node = start_node(launch, tmp_path)
    car, listener = Car(node), Listener(node)
    car.wait_until_heard()
    out = tmp_path / "live.rrd"
    viewers = [launch([sys.executable, WATCHER, "/occupancy_node"])]
    if HAS_RERUN:
        command = ["view", "--live", "--out", out]
        viewers.append(launch([sys.executable, SMALL_MODEL_OCC, *command]))

    def are_following() -> bool:
        for viewer in viewers:
            assert viewer.is_running, viewer.output()
        publishers = [*car.images.values(), car.poses]
        return all(p.get_subscription_count() == 1 + len(viewers) for p in publishers)

    spin_until(node, are_following, 120.0, "the viewers subscribe")
    spin_for(node, 0.5)
    stamps = []
    for number in range(3):
        stamps.append(car.frame_set(START + number * SECOND // 2))
        listener.wait_for_grid(stamps[-1])
    for viewer in viewers:
        wait_for(lambda viewer=viewer: "3 frames" in viewer.output(), 60.0, "three are shown")
        assert viewer.stop() == 0, viewer.output()
        assert "not shown" not in viewer.output()
    assert occupancy_node.is_running

    frames = [json.loads(line) for line in viewers[0].output().splitlines() if line[0] == "{"]
    assert [frame["stamp"] for frame in frames] == stamps
    for frame, stamp in zip(frames, stamps, strict=True):
        grid = prediction_from_message(listener.grids[stamp])
        assert frame["occupied"] == int((grid.labels != grid.empty_class).sum())
        assert frame["cameras"] == list(grid.camera_stamps_ns)
        assert list(frame["images"].values()) == [
            pytest.approx(image(name, taken * 1e-9).mean(), abs=1.0)
            for name, taken in grid.camera_stamps_ns.items()
        ]
    travelled = np.diff([frame["position"] for frame in frames], axis=0)
    np.testing.assert_allclose(travelled, [[2.5, 0, 0]] * 2, atol=1e-3)
    if HAS_RERUN:
        assert viewers[1].output().splitlines()[-1] == f"3 frames in {out}"
        rows, times, positions = read_recording(out)
        for entity in ("prediction/voxels", "motion", *(f"cameras/{name}" for name in CAMERAS)):
            assert rows[f"/world/ego/{entity}"] >= 3, entity
        assert times == stamps
        np.testing.assert_allclose(np.diff(positions, axis=0), [[2.5, 0, 0]] * 2, atol=1e-3)


def read_recording(path: Path) -> tuple[dict[str, int], list[int], np.ndarray]:
    """Rows per entity, stamps of the grids, ego positions."""
    from rerun.chunk import RrdReader

    rows: dict[str, int] = {}
    times: list[int] = []
    positions: list[list[float]] = []
    for chunk in RrdReader(path).stream().to_chunks():
        rows[chunk.entity_path] = rows.get(chunk.entity_path, 0) + chunk.num_rows
        table = chunk.to_record_batch()
        if chunk.entity_path == "/world/ego/prediction/voxels":
            times += [stamp.value for stamp in table["stamp"]]
        if chunk.entity_path == "/world/ego":
            positions += [row[0] for row in table["Transform3D:translation"].to_pylist()]
    return rows, times, np.array(positions)


@pytest.mark.skipif(not HAS_RERUN, reason="rerun is not installed")
def test_without_a_node_the_running_nodes_are_listed(tmp_path: Path, launch: Launch) -> None:
    (tmp_path / "a.rrd").write_text("precious")
    run = launch([*OCC, "view", "/nobody", "--live", "--out", tmp_path / "a.rrd"])
    assert run.wait(60) == 2, run.output()
    assert "no node /nobody responds" in run.output()
    assert (tmp_path / "a.rrd").read_text() == "precious"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("module", "extra"), [("rerun", "pip install 'occ_perception[rerun]'"), ("rclpy", "make setup")]
)
def test_a_missing_package_is_named(
    tmp_path: Path, launch: Launch, module: str, extra: str
) -> None:
    out = str(tmp_path / "a.rrd")
    code = (
        f"import sys; sys.modules[{module!r}] = None; sys.argv = ['occ', 'view', '--live', "
        f"'--out', {out!r}]; from occ_perception.cli import main; main()"
    )
    run = launch([sys.executable, "-c", code])
    assert run.wait(60) == 2, run.output()
    assert extra in run.output()
    assert "Traceback" not in run.output()
