"""Tables of other vehicles in the devkit's format: used, or refused by table, record and field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from nuscenes_folder import VERSION, drawn_scene
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from occ_perception.bags.drive import open_recording
from occ_perception.bags.nuscenes import SceneReader, convert_nuscenes
from occ_perception.bags.nuscenes_tables import NuScenesError
from occ_perception.bags.predictions import BagPredictions
from occ_perception.cli import app
from occ_perception.labels import UNKNOWN_CLASS

SCENE = "scene-0001"
LENS = [-0.33, 0.12, 0.001, 0.0005, -0.02]


def edit(data: Path, table: str, change: Callable[[dict], object]) -> None:
    """Apply ``change`` to every record of a table."""
    file = data / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    for record in records:
        change(record)
    file.write_text(json.dumps(records))


def converted(tmp_path: Path, **options: object):
    return convert_nuscenes(tmp_path / "data", VERSION, SCENE, tmp_path / "bag", **options)


def test_distortion_goes_into_camera_info_and_the_images_to_raw_topics(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "data", keyframes=1, size=(160, 90))
    edit(tmp_path / "data", "calibrated_sensor", lambda r: r.update(camera_distortion=LENS))
    report = converted(tmp_path)
    assert report.distorted and report.problems == []
    with open_recording(tmp_path / "bag") as drive:
        assert drive.layout.name == "occ_raw"
        (item,) = drive.frame_sets()
        camera = item.rig.camera("CAM_BACK")
        assert camera.distortion == tuple(LENS)
        assert camera.distortion_model == "plumb_bob"
        (frame,) = drive
    assert not any(frame.rig.camera(name).distortion for name in frame.images), "rectified"


@pytest.mark.parametrize("lens", [None, [], [0, 0, 0, 0, 0]])
def test_no_distortion_is_written_as_rectified(tmp_path: Path, lens: object) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    edit(tmp_path / "data", "calibrated_sensor", lambda r: r.update(camera_distortion=lens))
    assert not converted(tmp_path).distorted
    with open_recording(tmp_path / "bag") as drive:
        assert drive.layout.name == "occ_perception"


def test_rotation_matrices_give_the_poses_of_quaternions(tmp_path: Path) -> None:
    images = drawn_scene(tmp_path / "data", keyframes=1)

    def to_matrix(record: dict) -> None:
        w, x, y, z = record["rotation"]
        record["rotation"] = Rotation.from_quat([x, y, z, w]).as_matrix().tolist()

    for table in ("calibrated_sensor", "ego_pose"):
        edit(tmp_path / "data", table, to_matrix)
    assert converted(tmp_path).problems == []
    with open_recording(tmp_path / "bag") as drive:
        (frame,) = drive
    for image in images:
        ego_T_cam = frame.rig.camera(image.channel).ego_T_cam
        np.testing.assert_allclose(ego_T_cam, image.ego_T_cam, atol=2e-9)
        np.testing.assert_allclose(frame.world_T_ego[image.channel], image.world_T_ego, atol=2e-9)


def test_cameras_spelled_otherwise_are_the_same_cameras(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    edit(
        tmp_path / "data",
        "sensor",
        lambda r: r.update(channel=r["channel"].replace("CAM_", "CAMERA_")),
    )
    assert converted(tmp_path).images.keys() == {
        *("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"),
        *("CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT"),
    }


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", "", None])
def test_scenes_that_name_no_folder_are_refused(tmp_path: Path, name: object) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    edit(tmp_path / "data", "scene", lambda r: r.update(name=name))
    with pytest.raises(NuScenesError, match=r"scene\.json, record \w+: name is"):
        SceneReader(tmp_path / "data", VERSION)


def test_a_folder_without_cameras_lists_its_channels(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    edit(tmp_path / "data", "sensor", lambda r: r.update(channel="RADAR_X", modality="radar"))
    with pytest.raises(NuScenesError, match=r"sensor\.json has no camera.* channels are RADAR_X"):
        converted(tmp_path)


def test_a_lidar_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "data", keyframes=1, lidar=True)
    edit(
        tmp_path / "data",
        "sensor",
        lambda r: r.update(channel=r["channel"].replace("LIDAR_TOP", "LIDAR_CONCAT")),
    )
    assert converted(tmp_path, lidar=True).sweeps == 1, "the only lidar, whatever its name"
    edit(tmp_path / "data", "sensor", lambda r: r.update(modality="camera"))
    with pytest.raises(NuScenesError, match=r"has no lidar LIDAR_TOP, and not one other"):
        convert_nuscenes(tmp_path / "data", VERSION, SCENE, tmp_path / "other", lidar=True)


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e-6, "seconds"), (1e-3, "milliseconds"), (1e3, "nanoseconds")]
)
def test_stamps_in_another_unit_are_refused(tmp_path: Path, factor: float, unit: str) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    for table in ("sample", "sample_data"):
        edit(tmp_path / "data", table, lambda r: r.update(timestamp=r["timestamp"] * factor))
    says = rf"sample_data\.json, record \w+: timestamp .* no time in microseconds .*may be {unit}"
    with pytest.raises(NuScenesError, match=says):
        converted(tmp_path)


def test_stamps_may_be_floating_point_numbers(tmp_path: Path) -> None:
    images = drawn_scene(tmp_path / "data", keyframes=1)
    edit(tmp_path / "data", "sample_data", lambda r: r.update(timestamp=float(r["timestamp"])))
    converted(tmp_path)
    with open_recording(tmp_path / "bag") as drive:
        (frame,) = drive
    assert set(frame.stamps_ns.values()) == {image.stamp_ns for image in images}


@pytest.mark.parametrize(
    ("table", "change", "says"),
    [
        ("sample_data", {"filename": None}, "filename is missing or null"),
        ("sample_data", {"timestamp": "then"}, "timestamp is 'then'"),
        ("sample_data", {"width": -5}, "width is -5"),
        ("ego_pose", {"rotation": [1, 0, 0]}, r"rotation has shape \(3,\)"),
        ("ego_pose", {"rotation": [0, 0, 0, 0]}, "rotation or translation cannot be used"),
        ("ego_pose", {"translation": ["a", 0, 0]}, r"translation is \['a', 0, 0\]"),
        (
            "calibrated_sensor",
            {"camera_intrinsic": [[1, 2], [3, 4]]},
            r"camera_intrinsic has .* \(2, 2\)",
        ),
        ("calibrated_sensor", {"camera_distortion": [1, 2, 3]}, r"camera_distortion is \[1"),
        ("calibrated_sensor", {"sensor_token": None}, "sensor_token is missing"),
    ],
)
def test_one_unusable_record_costs_its_image(tmp_path: Path, table, change, says) -> None:
    drawn_scene(tmp_path / "data", keyframes=1)
    file = tmp_path / "data" / VERSION / f"{table}.json"
    records = json.loads(file.read_text())
    records[1].update(change)
    file.write_text(json.dumps(records))
    report = converted(tmp_path)
    assert len(report.images) == 5
    (problem,) = report.problems
    with pytest.raises(
        NuScenesError, match=rf"{table}\.json, record {records[1]['token']}: {says}"
    ):
        raise NuScenesError(problem)


def test_sizes_that_are_not_given_are_those_of_the_files(tmp_path: Path) -> None:
    drawn_scene(tmp_path / "data", keyframes=1, size=(160, 90))
    edit(tmp_path / "data", "sample_data", lambda r: r.update(width=None, height=0))
    assert converted(tmp_path).problems == []
    with open_recording(tmp_path / "bag") as drive:
        assert (drive.rig.cameras[0].width, drive.rig.cameras[0].height) == (160, 90)


def test_labels_below_the_folder_become_ground_truth(tmp_path: Path) -> None:
    data = tmp_path / "data"
    drawn_scene(data, keyframes=2)
    samples = json.loads((data / VERSION / "sample.json").read_text())
    semantics = np.full((200, 200, 16), 17, np.uint8)
    semantics[100, 100, :3] = (4, 255, 11)
    seen = np.zeros_like(semantics)
    seen[100, 100] = 1
    for sample in samples:
        file = data / "gts" / SCENE / sample["token"] / "labels.npz"
        file.parent.mkdir(parents=True)
        np.savez_compressed(file, semantics=semantics, mask_camera=seen)
    file.write_bytes(file.read_bytes()[:100])
    report = converted(tmp_path)
    assert report.truths == 1 and f"{file}: is no label file of Occ3D" in report.problems[0]
    (truth,) = BagPredictions(tmp_path / "bag", "/ground_truth/occupancy")
    (in_view,) = BagPredictions(tmp_path / "bag", "/ground_truth_in_view/occupancy")
    assert truth.stamp_ns == in_view.stamp_ns == samples[0]["timestamp"] * 1000
    assert truth.frame_id == "base_link" and np.array_equal(truth.ego_T_grid, np.eye(4))
    assert np.array_equal(truth.labels, semantics)
    assert np.array_equal(in_view.labels, np.where(seen == 1, semantics, UNKNOWN_CLASS))


def test_all_scenes_in_one_command(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for number in range(3):
        drawn_scene(
            data, f"scene-000{number}", keyframes=1, start_us=1_540_000_000_000_000 + number
        )
    for file in data.rglob("*.jpg"):
        if file.name.endswith("__1540000000000001.jpg"):
            file.unlink()
    edit(
        data,
        "sample_data",
        lambda r: r.update(filename="gone.jpg" if r["timestamp"] % 10 == 1 else r["filename"]),
    )

    def run():
        command = ["convert", "nuscenes", str(data), "--version", VERSION, "--keyframes"]
        return CliRunner().invoke(app, [*command, "--out", str(tmp_path / "bags")])

    first = run()
    assert first.exit_code == 1
    assert "1 of 3 scenes failed: scene-0001" in first.output
    assert {path.name for path in (tmp_path / "bags").iterdir()} == {"scene-0000", "scene-0002"}
    with open_recording(tmp_path / "bags" / "scene-0002") as drive:
        assert len(list(drive)) == 1
    again = run()
    assert again.output.count("is there already, kept") == 2
