"""Drives on disk: devkit-format folders, read back by the package's own readers, and commands."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import synthetic_scenes as scenes
from synthetic_scenes import files_of, run_code, sensors
from typer.testing import CliRunner

from occ_perception.atomic import OutputError
from occ_perception.bags.drive import open_recording
from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.cli.town import app
from occ_perception.errors import OptionError
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.devkit import (
    VERSION,
    merge_devkit_drives,
    token_of,
    write_devkit_drive,
)
from occ_perception.synthetic.labels import OCC3D_GRID

OCC = [sys.executable, "-c", "from occ_perception.cli import main; main()"]
# Added to a pose: what it is in the coordinates of the folder's map.
TOWN_ON_MAP = np.zeros((4, 4))
TOWN_ON_MAP[:2, 3] = 150.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("devkit")
    for index in (0, 1):
        write_devkit_drive(sensors(index), root, frames=2)
    return root


def table(root: Path, name: str) -> list[dict]:
    return json.loads((root / VERSION / f"{name}.json").read_text())


def test_tables_refer_to_each_other_and_to_files_that_exist(folder: Path) -> None:
    tokens = {
        name: {row["token"] for row in table(folder, name)}
        for name in ("scene", "sample", "sample_data", "ego_pose", "calibrated_sensor", "sensor",
                     "log", "instance", "category", "attribute", "visibility")
    }  # fmt: skip
    assert len(table(folder, "scene")) == 2
    assert len(table(folder, "sample_data")) == 2 * 2 * 7
    for row in table(folder, "sample_data"):
        assert row["sample_token"] in tokens["sample"]
        assert row["ego_pose_token"] in tokens["ego_pose"]
        assert row["calibrated_sensor_token"] in tokens["calibrated_sensor"]
        assert (folder / row["filename"]).is_file()
        assert row["prev"] in tokens["sample_data"] | {""}
    for row in table(folder, "sample"):
        assert row["scene_token"] in tokens["scene"]
        assert {row["prev"], row["next"]} - {""} <= tokens["sample"]
    for row in table(folder, "sample_annotation"):
        assert row["instance_token"] in tokens["instance"]
        assert set(row["attribute_tokens"]) <= tokens["attribute"]
        assert row["visibility_token"] in tokens["visibility"]
    for row in table(folder, "lidarseg"):
        data = next(d for d in table(folder, "sample_data") if d["token"] == row["token"])
        points = np.fromfile(folder / data["filename"], "<f4").reshape(-1, 5)
        classes = np.fromfile(folder / row["filename"], np.uint8)
        assert len(points) == len(classes) > 15_000
        assert set(np.unique(classes)) <= {2, 9, 10, 12, 14, 16, 17, 18, *range(21, 29), 30}
    for row in table(folder, "map"):
        assert (folder / row["filename"]).is_file()


def test_label_files_hold_the_labels_at_lidar_time(folder: Path) -> None:
    name = scenes.drive(20_000, 1).name
    expected = sensors(1).labels(0.5)
    token = token_of(name, 1)
    occ3d = np.load(folder / "gts" / name / token / "labels.npz")
    assert sorted(occ3d) == ["mask_camera", "mask_lidar", "semantics"]
    assert np.array_equal(occ3d["semantics"], expected.semantics)
    assert np.array_equal(occ3d["mask_camera"] > 0, expected.mask_camera)
    assert np.array_equal(occ3d["mask_lidar"] > 0, expected.mask_lidar)
    both = (occ3d["mask_camera"] & occ3d["mask_lidar"]) > 0
    assert np.array_equal(both, expected.mask_like_occ3d)
    assert 0.05 < both.mean() < expected.mask_camera.mean()
    openocc = np.load(folder / "openocc_v2" / name / token / "labels.npz")
    assert np.array_equal(openocc["flow"], expected.flow)
    assert {str(openocc[key].dtype) for key in openocc} == {"int32", "uint8", "float32"}


def test_label_files_have_the_format_of_the_real_ones(folder: Path, shared_dir: Path) -> None:
    published = shared_dir / "data" / "occ3d-openocc-labels"
    for ours, theirs in (("gts", "occ3d_labels"), ("openocc_v2", "openocc_flow_labels")):
        path = next((folder / ours).glob("*/*/labels.npz"))
        with np.load(path) as own, np.load(published / f"{theirs}.npz") as real:
            assert sorted(own) == sorted(real)
            for key in own:
                assert (own[key].shape, own[key].dtype) == (real[key].shape, real[key].dtype), key


def test_lidarseg_points_lie_in_voxels_of_their_class(folder: Path) -> None:
    """Points through the written mounts, classes through the written general ids."""
    names = {row["index"]: row["name"].split(".")[-1] for row in table(folder, "category")}
    lidar = next(d for d in table(folder, "sample_data") if "LIDAR" in d["filename"])
    points = np.fromfile(folder / lidar["filename"], "<f4").reshape(-1, 5)[:, :3]
    general = np.fromfile(
        folder / "lidarseg" / VERSION / f"{lidar['token']}_lidarseg.bin", np.uint8
    )
    mount = next(
        m
        for m in table(folder, "calibrated_sensor")
        if m["token"] == lidar["calibrated_sensor_token"]
    )
    assert mount["rotation"] == [1.0, 0.0, 0.0, 0.0]
    index = OCC3D_GRID.indices(points + np.array(mount["translation"]))
    inside = OCC3D_GRID.contains(index)
    labels = np.load(next((folder / "gts").glob(f"*/{lidar['sample_token']}/labels.npz")))
    voxel = labels["semantics"][tuple(index[inside].T)]
    classes = LABEL_SETS["occ3d"].class_names
    road = np.array([names[g] == "driveable_surface" for g in general[inside]])
    assert road.sum() > 1000
    assert np.mean(voxel[road] == classes.index("driveable_surface")) > 0.92
    assert np.mean(voxel != classes.index("free")) > 0.98


def test_a_folder_converts_to_a_bag_like_real_data(folder: Path, tmp_path: Path) -> None:
    name = scenes.drive(20_000, 1).name
    report = convert_nuscenes(folder, VERSION, name, tmp_path / "bag", sweeps=False)
    assert not report.problems
    frames = list(open_recording(tmp_path / "bag"))
    expected = sensors(1).frame(0.5)
    assert len(frames) == 2
    for camera, stamp in expected.stamps_ns.items():
        assert frames[1].stamps_ns[camera] == stamp
        on_map = expected.world_T_ego[camera] + TOWN_ON_MAP
        assert np.allclose(frames[1].world_T_ego[camera], on_map, atol=1e-6)
        assert np.allclose(frames[1].rig.camera(camera).K, expected.rig.camera(camera).K)
        difference = frames[1].images[camera].astype(int) - expected.images[camera]
        assert np.abs(difference).mean() < 6  # JPEG


def test_an_interrupted_drive_is_continued(tmp_path: Path) -> None:
    """A file-size limit stops the first run in the middle of a frame, as a full disk would."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "import test_synthetic_outputs as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "s = t.sensors(2); s.labels(0.0); s.frame(0.0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "t.write_devkit_drive(s, Path(sys.argv[1]), 1)\n"
    )
    run = run_code(code, tmp_path)
    assert run.returncode != 0
    pattern = (
        r"OutputError: (\S+) could not be written: the file would be larger than may be written"
    )
    named = re.search(pattern, run.stderr.splitlines()[-1])
    assert named
    assert Path(named[1]).is_relative_to(tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left
    assert not [path for path in left if "unfinished" in path.name]
    killed = tmp_path / "town" / sensors(2).drive.name / ".drive.json.unfinished"
    killed.mkdir()
    (killed / "drive.json").write_text("{")
    assert not [path for path in left if path.name in ("drive.json", "scene.json", "labels.npz")]
    write_devkit_drive(sensors(2), tmp_path, frames=1)
    assert not killed.exists()
    assert len(table(tmp_path, "sample")) == 1
    images = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.jpg")}
    assert len(images) == 6
    write_devkit_drive(sensors(2), tmp_path, frames=1)
    assert {path: path.stat().st_mtime_ns for path in images} == images
    with pytest.raises(OutputError, match="choose another folder"):
        write_devkit_drive(sensors(2), tmp_path, frames=2)


def one_drive_and_a_half(root: Path) -> None:
    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    write_devkit_drive(sensors(0), root, frames=1)
    with pytest.raises(KeyboardInterrupt):
        write_devkit_drive(sensors(1), root, frames=2, progress=interrupt)


def test_lidarseg_files_are_those_of_the_table_while_a_drive_is_unfinished(tmp_path: Path) -> None:
    """The devkit refuses a folder where they are not."""
    one_drive_and_a_half(tmp_path)
    assert lidarseg_files(tmp_path) == [row["filename"] for row in table(tmp_path, "lidarseg")]
    merge_devkit_drives(tmp_path)
    assert len(lidarseg_files(tmp_path)) == 1
    write_devkit_drive(sensors(1), tmp_path, frames=2)
    listed = sorted(row["filename"] for row in table(tmp_path, "lidarseg"))
    assert len(listed) == 3
    assert lidarseg_files(tmp_path) == listed


def lidarseg_files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in (root / "lidarseg").rglob("*.bin"))


def test_vehicle_and_boxes_lie_on_the_map(folder: Path) -> None:
    """Pixels are 0.1 m, the origin is the lower left corner; buses are on driveable ground."""
    import cv2

    mask = cv2.imread(str(folder / "maps" / "town-20000.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (3000, 3000)
    poses = [row["translation"] for row in table(folder, "ego_pose")]
    categories = {row["token"]: row["name"] for row in table(folder, "category")}
    kinds = {row["token"]: categories[row["category_token"]] for row in table(folder, "instance")}
    buses = [
        row["translation"]
        for row in table(folder, "sample_annotation")
        if kinds[row["instance_token"]] == "vehicle.bus.rigid"
    ]

    def share_on_map(places: list[list[float]]) -> float:
        x, y = (10.0 * np.array(places)[:, :2]).astype(int).T
        return float(np.mean(mask[2999 - y, x] > 0))

    assert len(poses) == 28
    assert share_on_map(poses) == 1.0
    assert len(buses) > 2
    assert share_on_map(buses) > 0.9


def test_the_devkit_reads_a_folder_and_finds_the_vehicle_on_its_map(folder: Path) -> None:
    read = open_with_devkit(folder)
    assert len(read.lidarseg) == len(read.sample) == 4
    for pose in read.ego_pose:
        assert read.map[0]["mask"].is_on_mask(*pose["translation"][:2]).all()


def test_the_devkit_reads_a_folder_with_an_unfinished_drive(tmp_path: Path) -> None:
    one_drive_and_a_half(tmp_path)
    assert len(open_with_devkit(tmp_path).scene) == 1


def open_with_devkit(root: Path):
    nuscenes = pytest.importorskip("nuscenes.nuscenes", exc_type=ImportError)
    return nuscenes.NuScenes(VERSION, str(root), verbose=False)


def test_processes_side_by_side_write_what_one_writes(folder: Path, tmp_path: Path) -> None:
    """Two drives at once with two processes of one thread each, byte for byte."""
    arguments = ["town", "drive", "--town", "20000", "--drive", "0-1", "--frames", "2"]
    command = [*OCC, *arguments, "--size", "160x90", "--jobs", "2", "--out", str(tmp_path / "out")]
    subprocess.run(command, check=True, timeout=240)
    expected, got = files_of(folder), files_of(tmp_path / "out")
    assert set(got) == set(expected)
    assert [name for name in expected if got[name] != expected[name]] == []
    again = subprocess.run(
        [*command, "--jitter-rig"], timeout=240, capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "choose another folder" in again.stderr
    assert "Traceback" not in again.stderr
    assert files_of(tmp_path / "out") == got


def test_tables_are_merged_by_one_at_a_time(folder: Path, tmp_path: Path) -> None:
    """A merge that waited includes the drives completed meanwhile."""
    root = shutil.copytree(folder, tmp_path / "copy")
    late = next((root / "town").glob("*-001")) / "drive.json"
    content = late.read_bytes()
    late.unlink()
    with (root / "town" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        merging = threading.Thread(target=merge_devkit_drives, args=(root,))
        merging.start()
        merging.join(0.3)
        assert merging.is_alive()
        late.write_bytes(content)
    merging.join(30)
    assert len(table(root, "scene")) == 2


@pytest.mark.parametrize("bags", [[], ["--bag", "mcap"]], ids=["folder", "bags"])
def test_many_drives_that_do_not_fit_the_disk_end_in_one_line(tmp_path: Path, bags) -> None:
    drives = ["--town", "20000", "--drive", "0-1", "--frames", "2", "--size", "352x198"]
    command = [*OCC, "town", "drive", *drives, "--jobs", "1", *bags, "--out", str(tmp_path)]
    limited = ["bash", "-c", "ulimit -f 60; trap '' XFSZ; exec \"$@\"", "bash", *command]
    run = subprocess.run(limited, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    assert re.search(r"error: town 20000, drive \d: \S+ could not be written", run.stderr)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["drive", "--town", "15000"], "belongs to no split"),
        (["drive", "--drive", "1000"], "does not exist"),
        (["drive", "--town", "0-10500"], "town seed 10500 belongs to no split"),
        (["drive", "--town", "7", "--drive", "998-1000"], "drive 1000 does not exist"),
        (["drive", "--drive", "3-1"], "--drive takes a number or a range like 0-19"),
        (["drive", "--town", "one"], "--town takes a number"),
        (["drive", "--frames", "50"], "give 1 to 41 frames"),
        (["drive", "--size", "800x451"], "cannot be cropped"),
        (["drive", "--size", "big"], "must look like 800x450"),
        (["drive", "--rate", "10"], "needs --bag"),
        (["drive", "--odometry-noise", "0.01"], "needs --bag"),
        (["drive", "--bag", "mcap", "--odometry-noise", "inf"], "must be a finite number"),
        (["drive", "--bag", "mcap", "--lidar", "inf"], "must be a finite number"),
        (["render", "--time", "99"], "--time must be 0 to 20 s, the drive's length; got 99"),
        (["render", "--samples", "3"], "1, 2 or 4"),
    ],
)
def test_bad_input_is_refused_with_its_reason(arguments, reason, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, OptionError)
    assert reason in str(result.exception)
    assert not (tmp_path / "out" / VERSION).exists()


@pytest.mark.parametrize("command", ["drive", "render"])
def test_without_numba_the_error_names_the_extra(command: str, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        f"sys.argv = ['occ', 'town', '{command}', '--out', sys.argv[1]]\n"
        "from occ_perception.cli import main; main()\n"
    )
    run = run_code(code, tmp_path / "out")
    assert run.returncode == 2
    assert run.stderr.startswith("error: the town needs numba")
    assert run.stderr.strip().endswith("pip install 'occ_perception[synthetic]'")


def test_render_writes_a_contact_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    result = CliRunner().invoke(
        app, ["render", "--town", "20000", "--size", "160x90", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    import cv2

    assert cv2.imread(str(out)).shape == (4 * 90 + 160, 480, 3)
