"""Tables and info files that lack something, or say it otherwise, and the frames that remain."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import training_folders as folders
from nuscenes_folder import drawn_scene, drive
from occ_training.cli import app
from occ_training.convert import convert_bags
from occ_training.convert_bag import ConvertOptions
from occ_training.data.file_checks import CheckReport
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import read_labels
from occ_training.data.nuscenes import index_from_tables
from occ_training.data.nuscenes_infos import index_from_infos
from occ_training.data.records import DatasetError
from test_training_nuscenes import info_file_content
from typer.testing import CliRunner

from occ_perception.bags.nuscenes import convert_nuscenes
from occ_perception.bags.nuscenes_tables import NuScenesError
from occ_perception.geometry import invert_transform, matrix_from_pose
from occ_perception.models.card import NUSCENES_CAMERAS
from occ_perception.synthetic.devkit import VERSION


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The town's folder with tables of its own."""
    for entry in folders.town_folder().iterdir():
        if entry.name != VERSION:
            (tmp_path / entry.name).symlink_to(entry)
    shutil.copytree(folders.town_folder() / VERSION, tmp_path / VERSION)
    return tmp_path


def rows_of(root: Path, table: str) -> list[dict]:
    return json.loads((root / VERSION / f"{table}.json").read_text())


def edit(root: Path, table: str, change: Callable[[list[dict]], object]) -> None:
    rows = rows_of(root, table)
    change(rows)
    (root / VERSION / f"{table}.json").write_text(json.dumps(rows))


def rows_without(rows: list[dict], *places: tuple[str, str]) -> list[dict]:
    """Rows but for those of (sample's token, channel)."""
    return [
        row
        for row in rows
        if not any(
            row["sample_token"] == token and f"/{channel}/" in row["filename"]
            for token, channel in places
        )
    ]


def test_a_missing_row_costs_its_entry_or_its_frame(root: Path) -> None:
    first, second, third, *others = folders.town_index().frames
    lost = [(first.token, "CAM_BACK"), (second.token, "CAM_FRONT"), (third.token, "LIDAR_TOP")]
    edit(root, "sample_data", lambda rows: rows.__setitem__(slice(None), rows_without(rows, *lost)))
    with pytest.raises(NuScenesError, match=f"no key frame of CAM_BACK of sample {first.token}"):
        index_from_tables(root, VERSION)
    command = ["prepare", "nuscenes", str(root), "--version", VERSION, "--out", str(root / "i")]
    result = CliRunner().invoke(app, [*command, "--check", "present"])
    assert result.exit_code == 0, result.output
    assert f"{len(others) + 2} of {len(others) + 3} frames are usable" in result.output
    assert "missing or damaged: CAM_BACK in 1, CAM_FRONT in 1, labels in 1, lidar in 1" in (
        " ".join(result.output.split())
    )
    index = DatasetIndex.load(root / "i")
    kept = {frame.token: frame for frame in index.frames}
    assert set(kept) == {first.token, third.token, *(frame.token for frame in others)}
    assert set(NUSCENES_CAMERAS) - set(kept[first.token].cameras) == {"CAM_BACK"}
    assert kept[third.token].lidar is None and not kept[third.token].labels
    problems = (root / "i" / "index.problems.txt").read_text()
    assert (
        problems.count("\n") == 4 and "sample_data.json has no key frame of CAM_FRONT" in problems
    )


def test_rows_that_cannot_be_read_cost_their_frames(root: Path) -> None:
    def spoil(rows: list[dict]) -> None:
        rows[0]["timestamp"] = rows[0]["timestamp"] // 10**6
        del rows[1]["sample_token"]
        rows[2]["ego_pose_token"] = "nowhere"

    edit(root, "sample_data", spoil)
    report = CheckReport()
    index = index_from_tables(root, VERSION, report=report)
    text = "\n".join(report.problems)
    assert "no time in microseconds since 1970 (these may be seconds)" in text
    assert "sample_token is missing or null" in text
    assert "ego_pose.json has no record 'nowhere'" in text
    lost = {"CAM_FRONT": len(report.left_out)}
    assert len(index) == report.frames - lost["CAM_FRONT"] >= report.frames - 3


def test_of_two_rows_for_one_image_the_first_is_used(root: Path) -> None:
    edit(root, "sample_data", lambda rows: rows.append({**rows[0], "token": "again"}))
    report = CheckReport()
    same_frames(index_from_tables(root, VERSION, report=report), folders.town_index())
    (problem,) = report.problems
    assert "record again: sample_token is that of another key frame" in problem


def test_two_samples_of_one_time_are_one_frame(root: Path) -> None:
    edit(root, "sample", lambda rows: rows[1].update(timestamp=rows[0]["timestamp"]))
    report = CheckReport()
    assert len(index_from_tables(root, VERSION, report=report)) == report.frames - 1
    assert "has the same time" in report.problems[0]


def test_distorted_images_are_refused_with_the_way_out(root: Path) -> None:
    edit(
        root,
        "calibrated_sensor",
        lambda rows: [row.update(camera_distortion=[-0.3, 0.1, 0, 0, 0]) for row in rows],
    )
    with pytest.raises(DatasetError, match=r"camera_distortion is .* `occ-train convert` rectify"):
        index_from_tables(root, VERSION, report=CheckReport())


def test_cameras_of_other_names_are_refused_with_the_way_out(root: Path) -> None:
    def rename(pattern: str) -> None:
        edit(
            root,
            "sensor",
            lambda rows: [
                row.update(channel=pattern.format(number, row["channel"][4:]))
                for number, row in enumerate(rows)
                if row["modality"] == "camera"
            ],
        )

    rename("CAMERA_{1}")
    assert index_from_tables(root, VERSION).frames[0].cameras.keys() == set(NUSCENES_CAMERAS)
    rename("CAMERA_{0}")
    with pytest.raises(NuScenesError, match=r"no camera CAM_FRONT; .*CAM_0.* rename the channels"):
        index_from_tables(root, VERSION)


def test_a_set_without_lidar_has_labels_of_the_cameras_time(root: Path) -> None:
    edit(
        root,
        "sensor",
        lambda rows: [row.update(modality="radar", channel="RADAR") for row in rows
                      if row["modality"] == "lidar"],
    )  # fmt: skip
    index = index_from_tables(root, VERSION)
    assert index.frames[0].lidar is None
    assert {key: f.time for key, f in index.header.label_sets.items()} == dict.fromkeys(
        folders.town_index().header.label_sets, "reference_camera"
    )


def test_a_distorted_set_is_trained_through_a_bag(tmp_path: Path) -> None:
    """Its images come out rectified, its labels at the lidar's time."""
    data = tmp_path / "data"
    drawn_scene(data, keyframes=2, with_sweeps=False, lidar=True)
    table = data / "v1.0-mini" / "calibrated_sensor.json"
    mounts = json.loads(table.read_text())
    for mount in mounts:
        mount["camera_distortion"] = [-0.1, 0.01, 0, 0, 0] if mount["camera_intrinsic"] else []
    table.write_text(json.dumps(mounts))
    semantics = np.random.default_rng(1).integers(0, 18, (200, 200, 16), np.uint8)
    samples = json.loads((data / "v1.0-mini" / "sample.json").read_text())
    for sample in samples:
        file = data / "gts" / "scene-0001" / sample["token"] / "labels.npz"
        file.parent.mkdir(parents=True)
        np.savez_compressed(file, semantics=semantics, mask_camera=semantics > 8)
    convert_nuscenes(data, "v1.0-mini", "scene-0001", tmp_path / "bag", lidar=True)
    convert_bags([tmp_path / "bag"], tmp_path / "out", ConvertOptions())
    index = DatasetIndex.load(tmp_path / "out")
    label_format = index.header.label_sets["occ3d"]
    assert len(index) == 2 and label_format.time == "lidar"
    for frame, sample in zip(index.frames, samples, strict=True):
        assert Path(frame.cameras["CAM_BACK"].image).suffix == ".png"
        labels = read_labels(index.path(frame.labels["occ3d"]), label_format)
        assert np.array_equal(labels.semantics_XYZ, semantics)
        assert np.array_equal(labels.camera_mask_XYZ, semantics > 8)
        expected = drive((sample["timestamp"] - samples[0]["timestamp"]) / 1e6)
        np.testing.assert_allclose(frame.world_T_lidar_ego, expected, atol=0.01)


# -- info files ----------------------------------------------------------------------------------


def same_frames(ours: DatasetIndex, theirs: DatasetIndex, atol: float = 0.0) -> None:
    assert ours.sequences() == theirs.sequences()
    for a, b in zip(ours.frames, theirs.frames, strict=True):
        assert (a.token, a.stamp_ns, a.labels) == (b.token, b.stamp_ns, b.labels)
        assert a.lidar.points == b.lidar.points
        np.testing.assert_allclose(a.lidar.world_T_lidar, b.lidar.world_T_lidar, atol=atol)
        for name, camera in b.cameras.items():
            mine = a.cameras[name]
            assert (mine.image, mine.stamp_ns, mine.width) == (
                *(camera.image, camera.stamp_ns, camera.width),
            )
            np.testing.assert_allclose(mine.K, camera.K)
            np.testing.assert_allclose(mine.ego_T_cam, camera.ego_T_cam, atol=atol)
            np.testing.assert_allclose(mine.world_T_ego, camera.world_T_ego, atol=atol)


@pytest.mark.parametrize("hint", ["occ_path", "tables", "labels"])
def test_the_scene_is_known_without_its_name(root: Path, hint: str) -> None:
    content = info_file_content()
    for info in content["infos"]:
        scene = info.pop("scene_name")
        if hint == "occ_path":
            info["occ_path"] = f"./data/nuscenes/gts/{scene}/{info['token']}"
    if hint != "tables":
        shutil.rmtree(root / VERSION)
    same_frames(index_from_infos(root, content), folders.town_index())


def test_a_scene_without_name_is_called_by_its_token(tmp_path: Path) -> None:
    content = info_file_content()
    for info in content["infos"]:
        del info["scene_name"]
    index = index_from_infos(tmp_path, content)
    assert set(index.sequences()) == {info["scene_token"] for info in content["infos"]}
    for info in content["infos"]:
        del info["scene_token"]
    with pytest.raises(DatasetError, match=r"info 0: it does not say of which scene"):
        index_from_infos(tmp_path, content)


def data_list_content() -> dict[str, Any]:
    """The town as mmdetection3d 1.1 writes it: matrices, seconds, names of files alone."""

    def pose(record: dict, name: str) -> np.ndarray:
        w, x, y, z = record[f"{name}_rotation"]
        return matrix_from_pose(record[f"{name}_translation"], (x, y, z, w))

    content = info_file_content()
    rows = []
    for number, info in enumerate(content["infos"]):
        world_T_lidar = pose(info, "ego2global") @ pose(info, "lidar2ego")
        images = {}
        for name, camera in info["cams"].items():
            world_T_cam = pose(camera, "ego2global") @ pose(camera, "sensor2ego")
            images[name] = {
                "img_path": Path(camera["data_path"]).name,
                "cam2img": camera["cam_intrinsic"].tolist(),
                "cam2ego": pose(camera, "sensor2ego").tolist(),
                "lidar2cam": (invert_transform(world_T_cam) @ world_T_lidar).tolist(),
                "timestamp": camera["timestamp"] / 1e6,
                "sample_data_token": "",
            }
        rows.append(
            {
                "sample_idx": number,
                "token": info["token"],
                "timestamp": info["timestamp"] / 1e6,
                "ego2global": pose(info, "ego2global").tolist(),
                "images": images,
                "lidar_points": {
                    "lidar_path": Path(info["lidar_path"]).name,
                    "num_pts_feats": 5,
                    "lidar2ego": pose(info, "lidar2ego").tolist(),
                },
                "instances": [],
            }
        )
    return {"metainfo": {"dataset": "nuscenes", "version": VERSION}, "data_list": rows}


def test_info_files_of_mmdetection3d_give_the_index_of_the_tables(root: Path) -> None:
    content = data_list_content()
    # A pose goes through the lidar's and back, 1 km from the map's origin.
    same_frames(index_from_infos(root, content), folders.town_index(), atol=1e-9)
    for row in content["data_list"]:
        row["timestamp"] *= 1e6
    with pytest.raises(DatasetError, match=r"info 0: timestamp .* no time in seconds since 1970"):
        index_from_infos(root, content)


def test_an_unusable_info_costs_its_entry_or_its_frame(root: Path) -> None:
    content = data_list_content()
    first, second, third, *_ = content["data_list"]
    del first["images"]["CAM_BACK"]
    second["images"]["CAM_FRONT"]["cam2ego"] = [[1.0]]
    content["data_list"][3] = None
    report = CheckReport()
    index = index_from_infos(root, content, report)
    tokens = {frame.token: frame for frame in index.frames}
    assert first["token"] in tokens and third["token"] in tokens
    assert "CAM_BACK" not in tokens[first["token"]].cameras
    assert second["token"] not in tokens and len(index) == report.frames - 2
    assert len(report.left_out) == 2
    text = "\n".join(report.problems)
    assert "info 0: field 'CAM_BACK' is missing" in text
    assert "info 1: cam2ego has shape (1, 1)" in text
    assert "info 3: field 'token' is missing" in text
