"""nuScenes folders and info files of public code bases give the same index."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import occ_training
import pytest
import training_folders as folders
from occ_training.cli import app
from occ_training.data.file_checks import check_files
from occ_training.data.index import DatasetIndex
from occ_training.data.info_pickles import load_info_pickle
from occ_training.data.nuscenes import index_from_tables
from occ_training.data.nuscenes_infos import index_from_infos
from occ_training.data.records import DatasetError
from PIL import Image
from typer.main import get_command
from typer.testing import CliRunner

import occ_perception
from occ_perception.bags.nuscenes_tables import NuScenesError
from occ_perception.geometry import transform_points
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_perception.synthetic.devkit import VERSION


def table(name: str) -> dict[str, dict]:
    rows = json.loads((folders.town_folder() / VERSION / f"{name}.json").read_text())
    return {row["token"]: row for row in rows}


def info_file_content() -> dict:
    """The town as an info file, joined from its tables."""
    mounts, poses, channels = table("calibrated_sensor"), table("ego_pose"), table("sensor")
    readings: dict[str, dict[str, dict]] = {}
    for row in table("sample_data").values():
        channel = channels[mounts[row["calibrated_sensor_token"]]["sensor_token"]]["channel"]
        readings.setdefault(row["sample_token"], {})[channel] = row
    infos = []
    for sample in table("sample").values():
        rows = readings[sample["token"]]
        cams = {}
        for name in NUSCENES_CAMERAS:
            mount = mounts[rows[name]["calibrated_sensor_token"]]
            pose = poses[rows[name]["ego_pose_token"]]
            cams[name] = {
                "data_path": f"./data/nuscenes/{rows[name]['filename']}",
                "timestamp": rows[name]["timestamp"],
                "sensor2ego_translation": mount["translation"],
                "sensor2ego_rotation": mount["rotation"],
                "ego2global_translation": pose["translation"],
                "ego2global_rotation": pose["rotation"],
                "cam_intrinsic": np.array(mount["camera_intrinsic"]),
            }
        sweep = rows["LIDAR_TOP"]
        mount = mounts[sweep["calibrated_sensor_token"]]
        pose = poses[sweep["ego_pose_token"]]
        infos.append(
            {
                "token": sample["token"],
                "timestamp": sample["timestamp"],
                "scene_name": table("scene")[sample["scene_token"]]["name"],
                "scene_token": sample["scene_token"],
                "lidar_path": f"./data/nuscenes/{sweep['filename']}",
                "lidar_token": sweep["token"],
                "lidar2ego_translation": mount["translation"],
                "lidar2ego_rotation": mount["rotation"],
                "ego2global_translation": pose["translation"],
                "ego2global_rotation": pose["rotation"],
                "cams": cams,
                "gt_names": np.array(["car", "truck"]),
                "gt_boxes": np.zeros((2, 7), dtype=np.float32),
                "valid_flag": np.array([True, False]),
            }
        )
    return {"infos": infos[::-1], "metadata": {"version": VERSION}}


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_info_files_give_the_index_of_the_tables(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "infos.pkl"
    file.write_bytes(pickle.dumps(info_file_content(), protocol=protocol))
    ours = index_from_infos(folders.town_folder(), load_info_pickle(file))
    theirs = folders.town_index()
    assert len(ours) == folders.DRIVES * folders.FRAMES
    assert ours.sequences() == theirs.sequences()
    assert ours.header.label_sets == theirs.header.label_sets
    for a, b in zip(ours.frames, theirs.frames, strict=True):
        assert (a.token, a.stamp_ns, a.sequence) == (b.token, b.stamp_ns, b.sequence)
        assert a.labels == b.labels
        assert (a.lidar.points, a.lidar.semantics) == (b.lidar.points, b.lidar.semantics)
        assert np.array_equal(a.lidar.world_T_lidar, b.lidar.world_T_lidar)
        for name, camera in b.cameras.items():
            assert (a.cameras[name].image, a.cameras[name].width) == (camera.image, camera.width)
            assert a.cameras[name].stamp_ns == camera.stamp_ns
            assert np.array_equal(a.cameras[name].world_T_cam, camera.world_T_cam)
            assert np.array_equal(a.cameras[name].K, camera.K)


def test_poses_are_those_of_the_drive_at_camera_and_at_lidar_time() -> None:
    """In a folder they are relative to the corner of the town's map, 150 m away."""
    index = folders.town_index()
    on_map = np.zeros((4, 4))
    on_map[:2, 3] = 150.0
    for number, frame in enumerate(index.frames[: folders.FRAMES]):
        drive = folders.sensors(0)
        at_lidar = drive.drive.scene(0.5 * number).world_T_ego + on_map
        assert frame.world_T_lidar_ego == pytest.approx(at_lidar, abs=1e-9)
        frame_set = drive.frame(0.5 * number)
        at_front = frame_set.world_T_ego["CAM_FRONT"] + on_map
        assert frame.world_T_reference_ego == pytest.approx(at_front, abs=1e-9)
        assert frame.cameras["CAM_BACK"].stamp_ns == frame_set.stamps_ns["CAM_BACK"]
        moved = transform_points(frame.world_T_lidar_ego, [0, 0, 0]) - transform_points(
            frame.world_T_reference_ego, [0, 0, 0]
        )
        assert np.linalg.norm(moved) < 1.0  # 35 ms


def test_scenes_are_chosen_by_name() -> None:
    names = list(folders.town_index().sequences())
    chosen = index_from_tables(folders.town_folder(), VERSION, [names[1]])
    assert list(chosen.sequences()) == [names[1]]
    with pytest.raises(DatasetError, match=f"no scene scene-0103.*{names[0]}"):
        index_from_tables(folders.town_folder(), VERSION, ["scene-0103"])
    with pytest.raises(NuScenesError, match=VERSION):
        index_from_tables(folders.town_folder(), "v1.0-mini")


@pytest.mark.parametrize("table", ["sensor", "calibrated_sensor", "ego_pose"])
def test_a_record_that_a_table_lacks_is_named(tmp_path: Path, table: str) -> None:
    shutil.copytree(folders.town_folder() / VERSION, tmp_path / VERSION)
    file = tmp_path / VERSION / f"{table}.json"
    file.write_text(json.dumps(json.loads(file.read_text())[:-1]))
    with pytest.raises(NuScenesError, match=rf"/{table}\.json has no record"):
        index_from_tables(tmp_path, VERSION)


class _Command:
    def __reduce__(self):
        return (print, ("a pickle ran this",))


class _Late:
    def __reduce__(self):
        return (getattr, (np.ndarray, "tofile"))


@pytest.mark.parametrize("evil", [_Command(), {"infos": [_Late()]}, Path("x"), np.random.rand])
def test_pickles_that_name_anything_else_are_refused(tmp_path: Path, evil, capsys) -> None:
    file = tmp_path / "infos.pkl"
    file.write_bytes(pickle.dumps(evil))
    with pytest.raises(DatasetError, match=r"infos\.pkl cannot be read.*names [\w.]+\.\w+"):
        load_info_pickle(file)
    assert "ran this" not in capsys.readouterr().out


def pickled_array(dtype: bytes, state: bytes) -> bytes:
    """A handwritten pickle of protocol 0: an array of one eight-byte element with a dtype state."""
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I1\ntcnumpy\ndtype\n(S'%s'\nI00\nI01\ntR%sbI00\nS'12345678'\ntb." % (dtype, state)
    )


ADDRESSES = b"(I3\nS'|'\nNNNI-1\nI-1\nI%d\nt"


@pytest.mark.parametrize(
    ("dtype", "state", "message"),
    [
        (b"O8", ADDRESSES % 0, "arrays of 'O8', expected numbers or text"),
        (b"O8", ADDRESSES % 63, "arrays of 'O8', expected numbers or text"),
        (b"V8", ADDRESSES % 0, "arrays of 'V8', expected numbers or text"),
        (b"f8", ADDRESSES % 63, "gives the type float64 the state"),
        (b"S8", b"(I3\nS'|'\nN(S'a'\nt(dI8\nI1\nI0\nt", "gives the type .*the state"),
    ],
)
def test_types_that_make_addresses_of_bytes_are_refused(
    tmp_path: Path, dtype: bytes, state: bytes, message: str
) -> None:
    """In a separate process: a pickle that is not refused would crash it."""
    file = tmp_path / "infos.pkl"
    file.write_bytes(pickled_array(dtype, state))
    with pytest.raises(DatasetError, match=message):
        load_info_pickle(file)


def test_states_of_anything_but_arrays_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "infos.pkl"
    file.write_bytes(b"cnumpy.core.multiarray\n_reconstruct\n(dS'a'\nI1\nsb.")
    with pytest.raises(DatasetError, match="sets the state of a function"):
        load_info_pickle(file)
    file.write_bytes(pickled_array(b"f8", b"(I3\nS'<'\nNNNI-1\nI-1\nI0\nt"))
    assert load_info_pickle(file).tobytes() == b"12345678"  # the same file, honestly


def test_plain_values_and_arrays_come_back(tmp_path: Path) -> None:
    value = {
        "a": [1, 2.5, None, True, "text", b"bytes", (1, 2), {3}],
        "f": np.arange(6, dtype=np.float32).reshape(2, 3),
        "n": np.array(["car", "bus"]),
        "big": np.array([1, 2], dtype=">i4"),
        "s": np.float64(2.5),
    }
    for protocol in range(2, 6):
        file = tmp_path / f"{protocol}.pkl"
        file.write_bytes(pickle.dumps(value, protocol=protocol))
        read = load_info_pickle(file)
        assert read["a"] == value["a"]
        assert np.array_equal(read["f"], value["f"]) and read["f"].dtype == np.float32
        assert read["n"].tolist() == ["car", "bus"] and read["big"].tolist() == [1, 2]
        assert np.dtype("i4").isnative  # states in a file do not change numpy's own types
        assert read["s"] == 2.5
    (tmp_path / "cut.pkl").write_bytes((tmp_path / "4.pkl").read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"cut\.pkl"):
        load_info_pickle(tmp_path / "cut.pkl")
    with pytest.raises(DatasetError, match="No such file"):
        load_info_pickle(tmp_path / "none.pkl")


def test_info_files_of_other_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no list of infos"):
        index_from_infos(tmp_path, {"data_list": []})
    infos = info_file_content()
    del infos["infos"][2]["cams"]["CAM_BACK"]["cam_intrinsic"]
    with pytest.raises(DatasetError, match="info 2: field 'cam_intrinsic' is missing"):
        index_from_infos(tmp_path, infos)


@pytest.mark.parametrize("check", ["whole", "decode"])
def test_too_few_classes_of_points_are_listed(tmp_path: Path, check) -> None:
    frame = folders.frame("a")
    lidar = replace(frame.lidar, semantics="a.classes", semantics_ids="occ3d")
    index = folders.index(tmp_path, replace(frame, lidar=lidar, labels={}))
    Image.new("RGB", folders.IMAGE).save(tmp_path / "a.jpg")
    np.zeros((10, 3), np.float32).tofile(tmp_path / "a.bin")
    np.zeros(10, np.uint8).tofile(tmp_path / "a.classes")
    assert check_files(index, check)[1].problems == []
    np.zeros(5, np.uint8).tofile(tmp_path / "a.classes")
    kept, report = check_files(index, check)
    assert "a.classes: 5 classes for the 10 points" in report.problems[0]
    assert kept.frames[0].lidar.semantics is None and kept.frames[0].lidar.points == "a.bin"


def test_prepare_lists_damaged_files_and_leaves_them_out(tmp_path: Path) -> None:
    root = tmp_path / "town"
    root.mkdir()
    for entry in folders.town_folder().iterdir():
        if entry.is_dir() and entry.name not in ("samples", "gts"):
            (root / entry.name).symlink_to(entry)
    index = folders.town_index()
    for frame in index.frames:
        paths = [camera.image for camera in frame.cameras.values()]
        for relative in (*paths, frame.lidar.points, *frame.labels.values()):
            if not (root / relative).exists():
                (root / relative).parent.mkdir(parents=True, exist_ok=True)
                (root / relative).symlink_to(index.path(relative))
    first, second, third, fourth = index.frames[:4]

    def rewrite(relative: str, data: bytes | None) -> None:
        (root / relative).unlink()
        if data is not None:
            (root / relative).write_bytes(data)

    cut = index.path(second.cameras["CAM_BACK"].image).read_bytes()[:-500]
    rewrite(first.cameras["CAM_FRONT"].image, None)
    rewrite(second.cameras["CAM_BACK"].image, cut)
    rewrite(third.lidar.points, b"\0" * 30)
    rewrite(fourth.labels["occ3d"], index.path(fourth.labels["occ3d"]).read_bytes()[:-100])
    (tmp_path / "scenes.txt").write_text("\n".join(index.sequences()) + "\n")

    command = ["prepare", "nuscenes", str(root), "--version", VERSION, "--out", str(tmp_path)]
    result = CliRunner().invoke(app, [*command, "--scenes", str(tmp_path / "scenes.txt")])
    assert result.exit_code == 0, result.output
    assert "5 of 6 frames are usable" in result.output
    listed = (tmp_path / "index.problems.txt").read_text().splitlines()
    assert len(listed) == 4
    assert [frame.token in line for frame, line in zip(index.frames, listed, strict=False)] == (
        [True] * 4
    )
    assert "No such file" in listed[0] and "JPEG" in listed[1]
    assert "whole number of points" in listed[2] and "occ3d" in listed[3]

    read = DatasetIndex.load(tmp_path)
    assert [frame.token for frame in read.frames] == [f.token for f in index.frames[1:]]
    assert "CAM_BACK" not in read.frames[0].cameras
    assert read.frames[1].lidar.points is None
    assert read.frames[1].world_T_lidar_ego is not None
    assert list(read.frames[2].labels) == ["openocc"]
    for relative in (read.frames[3].labels["occ3d"], read.frames[3].cameras["CAM_BACK"].image):
        assert read.path(relative).is_file()

    again = CliRunner().invoke(app, ["prepare", "verify", str(tmp_path)])
    assert again.exit_code == 0 and "5 of 5 frames are usable" in again.output
    assert not (tmp_path / "index.problems.txt").exists()
    present = CliRunner().invoke(app, [*command, "--check", "present"])
    assert present.exit_code == 0 and "missing or damaged: CAM_FRONT in 1" in present.output
    decoded = CliRunner().invoke(app, [*command, "--check", "decode"])
    assert decoded.exit_code == 0 and "5 of 6 frames are usable" in decoded.output


def test_a_folder_without_sensor_data_is_refused(tmp_path: Path) -> None:
    (tmp_path / VERSION).symlink_to(folders.town_folder() / VERSION)
    result = CliRunner().invoke(app, ["prepare", "nuscenes", str(tmp_path), "--version", VERSION])
    assert result.exit_code == 2
    assert "is the sensor data unpacked" in result.output
    assert not (tmp_path / "index.jsonl").exists()


def test_messages_of_both_packages_are_one_line_however_they_are_installed(tmp_path: Path) -> None:
    """Also if a package is imported through a symbolic link, as in symlinked colcon installs."""
    (tmp_path / "occ_training").symlink_to(Path(occ_training.__file__).parent)
    (tmp_path / "occ_perception").symlink_to(Path(occ_perception.__file__).parent)
    run = "from occ_training.cli import main; main()"
    for folder, message in (
        (tmp_path, "no nuScenes tables"),
        (folders.town_folder(), "no scene x"),
    ):
        arguments = ["prepare", "nuscenes", str(folder), "--version", VERSION, "--scenes", "x"]
        result = subprocess.run(
            [sys.executable, "-c", run, *arguments],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2
        assert message in result.stderr and "Traceback" not in result.stderr


# Every sub-command with its arguments and options. A change here affects users and belongs in the
# change log.
PREPARE = {
    "infos": ["ROOT", "PICKLE", "--out -o", "--check", "--threads"],
    "nuscenes": [
        "ROOT", "--version", "--scenes", "--split", "--out -o", "--check", "--threads"
    ],
    "verify": ["INDEX", "--out -o", "--check", "--threads"],
    "waymo": [
        "ROOT", "--poses", "--labels", "--frames", "--scenes", "--out -o", "--check", "--threads"
    ],
}  # fmt: skip


def test_options_of_prepare_are_those_that_are_documented() -> None:
    commands = get_command(app).commands["prepare"].commands
    found = {
        name: [
            " ".join(p.opts) if p.param_type_name == "option" else p.name.upper()
            for p in command.params
        ]
        for name, command in commands.items()
    }
    assert found == PREPARE
