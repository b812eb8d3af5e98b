"""The demonstration: node and player as processes, and the output that a subscriber received."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import bag_families
import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", exc_type=ImportError)

from car import image, jpeg, small_rig
from nuscenes_folder import VERSION, drawn_images, drawn_scene
from processes import OCC, RunningProcess, python_file
from ros_fixtures import Launch
from small_model_demo import SMALL_TOWN_MODEL
from small_model_node import SMALL_MODEL

from occ_perception.atomic import OutputError
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.predictions import BagPredictions
from occ_perception.bags.writing import BagWriter
from occ_perception.demo import over_dds
from occ_perception.demo.demonstration import make_drive
from occ_perception.demo.over_dds import Children
from occ_perception.demo.setting import DemoError, Setting
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.sensing import layouts
from occ_perception.sensing.calibration import save_rig

pytestmark = pytest.mark.ros

SMALL_MODEL_DEMO = Path(__file__).with_name("small_model_demo.py")
SECOND = 10**9
START = 1_600_000_000 * SECOND


def demo(launch: Launch, environment: dict[str, str], *arguments: str | Path) -> RunningProcess:
    return launch([*OCC, "demo", *arguments], environment=environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drawn_scene(tmp_path / "folder", keyframes=2, with_sweeps=False, size=(320, 180))
    return tmp_path / "folder"


def test_outputs_for_all_frame_sets_give_exit_code_0_and_a_film(
    tmp_path: Path, folder: Path, launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    """Played by time: the second frame set waits in the mailbox while the first is computed."""
    convert_nuscenes(folder, VERSION, "scene-0001", tmp_path / "bag", sweeps=False)
    out = tmp_path / "out"
    run = demo(
        launch, environment_without_tf, tmp_path / "bag", "--realtime", "--device", "cpu",
        "--out", out,
    )  # fmt: skip
    assert run.wait(300) == 0, run.output()
    for line in (
        "weights are random (seed 0)",
        "frame sets in   2",
        "frames out      2",
        "drops           0",
        "(2 of 2 grids)",
    ):
        assert line in run.output()
    assert "p50" in run.output()
    assert len(film_images(out / "film.mp4")) == 2
    assert "no ground truth" in run.output()
    assert "No scores" in (out / "report.html").read_text()
    assert "Traceback" not in (out / "node.log").read_text()


def test_images_without_stamps_are_stamped_by_the_bags_clock(
    tmp_path: Path, launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    """With stamps of today's clock they would match no pose of the bag."""
    images = drawn_images(keyframes=3, with_sweeps=False, size=(320, 180))
    bag = bag_families.clynamen_ros2(tmp_path / "bag", images)
    rig = CameraRig(
        tuple(CameraCalibration(p.channel, *p.size, p.K, p.ego_T_cam) for p in images[:6])
    )
    save_rig(tmp_path / "rig.yaml", rig)
    shipped = Path(layouts.__file__).with_name("clynamen_ros2.yaml").read_text()
    layout = tmp_path / "small.yaml"
    layout.write_text(shipped.replace("rig: nuscenes", "rig: rig.yaml"))
    run = launch(
        python_file(
            SMALL_MODEL_DEMO, "demo", bag, "--model", SMALL_MODEL, "--random-weights", "0",
            "--device", "cpu", "--lockstep", "--layout", layout, "--out", tmp_path / "out",
        ),
        environment=environment_without_tf,
    )  # fmt: skip
    assert run.wait(300) in (0, 1), run.output()
    assert "is played by time: its images carry no stamps" in run.output()
    # A busy machine may skip frame sets, but every output must carry the bag's time.
    stamps = [output.stamp_ns for output in BagPredictions(tmp_path / "out" / "recorded")]
    assert stamps
    assert images[0].stamp_ns - SECOND < stamps[0] <= stamps[-1] < images[-1].stamp_ns + SECOND
    assert "<td>over DDS, by time</td>" in (tmp_path / "out" / "report.html").read_text()


def test_a_frame_set_without_output_gives_exit_code_1(
    tmp_path: Path, launch: Launch, child_environment: dict[str, str]
) -> None:
    """The bag's only frame set has no CAM_BACK; an image of that camera comes 2 s later."""
    rig = small_rig()
    with BagWriter(tmp_path / "bag") as writer:
        mounts = [("base_link", camera.frame_id, camera.ego_T_cam) for camera in rig.cameras]
        writer.write_transforms(START, mounts, static=True)
        for camera in rig.cameras:
            stamp = START + (2 * SECOND if camera.name == "CAM_BACK" else 0)
            writer.write_odometry(stamp, np.eye(4))
            writer.write_camera_info(camera, stamp)
            writer.write_camera(camera.name, stamp, jpeg(image(camera.name, 0.0)))
    run = demo(
        launch, child_environment, tmp_path / "bag", "--lockstep", "--output-timeout", "4",
        "--device", "cpu", "--random-weights", "7", "--out", tmp_path / "out",
    )  # fmt: skip
    assert run.wait(300) == 1, run.output()
    assert "drops           1" in run.output()
    assert "(no CAM_BACK in the bag)" in run.output()
    assert (
        "has no output on /occupancy_node/occupancy"
        in (tmp_path / "out" / "player.log").read_text()
    )


def test_a_drive_through_the_town_is_scored_against_its_truth(
    tmp_path: Path, launch: Launch, environment_without_tf: dict[str, str]
) -> None:
    """The whole demonstration, on a small drive with a small network; the drive is reused."""
    out = tmp_path / "out"
    command = python_file(
        SMALL_MODEL_DEMO, "demo", "--model", SMALL_TOWN_MODEL, "--frames", "3", "--rate", "2",
        "--size", "160x90", "--device", "cpu", "--out", out,
    )  # fmt: skip
    run = launch(command, environment=environment_without_tf)
    assert run.wait(300) == 0, run.output()
    for line in (
        "The network is untrained",
        "frame sets in   3",
        "frames out      3",
        "drops           0",
    ):
        assert line in run.output()
    (mean_iou,) = re.findall(r"^mIoU (\d+\.\d) %$", run.output(), re.M)
    assert mean_iou == f"{100 * mean_iou_of(out / 'recorded', out / 'town_3x160x90_2hz'):.1f}"
    assert re.search(r"^geometry IoU +\d+\.\d %", run.output(), re.M)
    assert re.search(r"^flow error +\d+\.\d\d m/s", run.output(), re.M)
    assert run.output().splitlines()[-1].split()[-1] == str(out / "report.html")

    page = (out / "report.html").read_text()
    for words in ("untrained", f"{mean_iou} %", "driveable_surface", "film.mp4", "p99"):
        assert words in page
    assert "http:" not in page and "https:" not in page  # self-contained
    images = film_images(out / "film.mp4")
    assert len(images) == 3
    assert cv2.imread(str(out / "first.png")).shape == (900, 1600, 3)
    assert images[0].shape == (900, 1600, 3)
    assert np.abs(images[0].astype(int) - images[2]).max() > 50

    drive = out / "town_3x160x90_2hz" / "metadata.yaml"
    made = drive.stat().st_mtime_ns
    assert make_drive(out, 3, 2.0, (160, 90)) == drive.parent
    assert drive.stat().st_mtime_ns == made


def test_a_drive_of_another_version_is_refused(tmp_path: Path) -> None:
    metadata = make_drive(tmp_path, 1, 2.0, (64, 36)) / "metadata.yaml"
    metadata.write_text(metadata.read_text().replace('"generator": 1', '"generator": 0'))
    with pytest.raises(OutputError, match="choose another name"):
        make_drive(tmp_path, 1, 2.0, (64, 36))


class ScriptedNode:
    """Reports a topic's publisher after ``late`` queries."""

    def __init__(self, late: int) -> None:
        self.late, self.asked = late, Counter[str]()

    def count_publishers(self, topic: str) -> int:
        self.asked[topic] += 1
        return int(self.asked[topic] > self.late)


class ScriptedChildren(Children):
    def start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        del command
        self.seen.append((name, dict(self.node.asked)))
        return super().start(name, sys.executable, "-c", self.script[name])


def run_scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, player: str) -> ScriptedChildren:
    """Replace the demonstration's processes by lines of Python, without DDS."""
    monkeypatch.setattr(over_dds, "_spin", lambda *_: time.sleep(0.05))
    children = ScriptedChildren(tmp_path)
    children.node, children.seen = ScriptedNode(late=3), []
    children.script = {"player": player, "node": "import time; time.sleep(60)"}
    setting = Setting(tmp_path, "m", "", 0, "cpu", True, 1.0, "", tmp_path)
    recorder = types.SimpleNamespace(grids={})
    layout = layouts.load_layout("occ_perception")
    try:
        over_dds._run(setting, layout, children.node, children, tmp_path, recorder, 3)
    finally:
        children.stop()
    return children


def test_the_recorder_is_connected_to_the_player_before_the_node_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the first images would have no arrival time."""
    report = "import time; time.sleep(2); print('played 7 messages'); raise SystemExit(1)"
    (first, _), (second, asked) = run_scripted(tmp_path, monkeypatch, report).seen
    assert (first, second) == ("player", "node")
    topics = {camera.image for camera in layouts.load_layout("occ_perception").cameras}
    assert topics == set(asked)
    assert min(asked.values()) == 4


def test_a_crash_of_the_player_is_not_reported_as_missing_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DemoError, match=r"the player failed:(.|\n)*RuntimeError: broken"):
        code = "import time; time.sleep(2); raise RuntimeError('broken')"
        run_scripted(tmp_path, monkeypatch, code)


def test_a_process_that_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(over_dds, "_END_S", 0.5)
    children = Children(tmp_path)
    stuck = "import signal, time; signal.signal(2, signal.SIG_IGN); print(1, flush=True)\n"
    process = children.start("stuck", sys.executable, "-c", stuck + "time.sleep(60)")
    while not children.log("stuck"):
        time.sleep(0.05)
    children.stop()
    assert process.returncode == -9


def mean_iou_of(recorded: Path, drive: Path) -> float:
    """Straight from the definition, over what both bags hold."""
    with contextlib.closing(BagPredictions(recorded)) as outputs:
        predicted = np.stack([output.labels for output in outputs])
    with contextlib.closing(BagPredictions(drive, "/ground_truth_in_view/occupancy")) as truths:
        true = np.stack([truth.labels for truth in truths])
    seen = true != 255
    ratios = [
        np.sum(seen & (true == c) & (predicted == c)) / np.sum(either)
        for c in range(17)
        if (either := seen & ((true == c) | (predicted == c))).any()
    ]
    return float(np.mean(ratios))


def film_images(path: Path) -> list[np.ndarray]:
    film, images = cv2.VideoCapture(str(path)), []
    while (read := film.read())[0]:
        images.append(read[1])
    return images


def test_a_drive_that_cannot_be_written_is_an_error(
    tmp_path: Path, launch: Launch, child_environment: dict[str, str]
) -> None:
    run = demo(launch, child_environment, "--frames", "999", "--out", tmp_path / "out")
    assert run.wait(60) == 2
    assert "give 1 to 121 frames" in run.output()
    assert not list((tmp_path / "out").iterdir())


def test_an_unknown_model_is_an_error(
    tmp_path: Path, launch: Launch, child_environment: dict[str, str]
) -> None:
    run = demo(launch, child_environment, "--model", "alocc_4d", "--out", tmp_path / "out")
    assert run.wait(60) == 2
    assert "no model 'alocc_4d'" in run.output()
