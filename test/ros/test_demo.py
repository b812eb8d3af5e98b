"""What `make demo` runs: node and player as processes, judged by what a subscriber received."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("occ_perception.ros.demo", exc_type=ImportError)

from car import jpeg, picture, small_rig
from conftest import Launch
from nuscenes_folder import VERSION, drawn_scene
from processes import RunningProcess, python_module

from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.writing import BagWriter

pytestmark = pytest.mark.ros

SECOND = 10**9
START = 1_600_000_000 * SECOND


def demo(launch: Launch, environment: dict[str, str], *arguments: str | Path) -> RunningProcess:
    return launch(python_module("occ_perception.ros.demo", *arguments), environment=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drawn_scene(tmp_path / "folder", keyframes=2, with_sweeps=False, size=(320, 180))
    return tmp_path / "folder"


def test_all_rings_answered_ends_well_and_leaves_pictures(
    tmp_path: Path, folder: Path, launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    """Played by time: the second ring waits in the mailbox while the first is computed."""
    convert_nuscenes(folder, VERSION, "scene-0001", tmp_path / "bag", sweeps=False)
    out = tmp_path / "out"
    run = demo(
        launch, environment_without_tf, tmp_path / "bag", "--realtime", "--device", "cpu",
        "--out", out,
    )  # fmt: skip
    assert run.wait(300) == 0, run.output()
    for line in (
        "weights are random (seed 0)",
        "rings in     2",
        "frames out   2",
        "drops        0",
    ):
        assert line in run.output()
    assert "p50" in run.output()
    pictures = sorted(out.glob("*.png"))
    assert len(pictures) == 2
    assert cv2.imread(str(pictures[0])).std() > 10
    assert "Traceback" not in (out / "node.log").read_text()


def test_a_ring_without_answer_ends_with_an_error(
    tmp_path: Path, launch: Launch, child_environment: dict[str, str]
) -> None:
    """The bag's only ring has no CAM_BACK; a lonely picture of it comes two seconds later."""
    rig = small_rig()
    with BagWriter(tmp_path / "bag") as writer:
        mounts = [("base_link", camera.frame_id, camera.ego_T_cam) for camera in rig.cameras]
        writer.write_transforms(START, mounts, static=True)
        for camera in rig.cameras:
            stamp = START + (2 * SECOND if camera.name == "CAM_BACK" else 0)
            writer.write_odometry(stamp, np.eye(4))
            writer.write_camera_info(camera, stamp)
            writer.write_camera(camera.name, stamp, jpeg(picture(camera.name, 0.0)))
    run = demo(
        launch, child_environment, tmp_path / "bag", "--lockstep", "--answer-timeout", "4",
        "--device", "cpu", "--random-weights", "7", "--out", tmp_path / "out",
    )  # fmt: skip
    assert run.wait(300) == 1, run.output()
    assert "drops        1" in run.output()
    assert "(no CAM_BACK in the bag)" in run.output()
    assert (
        "was not answered on /occupancy_node/occupancy"
        in (tmp_path / "out" / "player.log").read_text()
    )


def test_without_a_bag_it_says_how_to_make_one(
    launch: Launch, child_environment: dict[str, str]
) -> None:
    run = demo(launch, child_environment)
    assert run.wait(60) == 2
    assert "occ convert nuscenes" in run.output()
