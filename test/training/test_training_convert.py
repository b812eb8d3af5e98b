"""Bags to data sets: the content of a town bag is converted, and damage is reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bag_families as families
import numpy as np
import nuscenes_folder
import pytest
import synthetic_scenes as scenes
import yaml
from occ_training.cli import app
from occ_training.convert import convert_bags
from occ_training.convert_bag import ConvertOptions
from occ_training.convert_frames import spaced
from occ_training.data.index import DatasetIndex
from occ_training.data.label_files import read_labels, read_points
from PIL import Image
from typer.testing import CliRunner

from occ_perception.bags.predictions import BagPredictions
from occ_perception.bags.recording import Recording
from occ_perception.bags.writing import BagWriter, camera_topic
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.recording import BagOptions, record_drive
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions

FRAMES = 3


def sensors() -> DriveSensors:
    return DriveSensors(scenes.drive(20_000, 1), SensorOptions(size=(160, 90)))


@pytest.fixture(scope="module")
def bag(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "drive"
    record_drive(sensors(), path, FRAMES, BagOptions(lidar_rate=10.0))
    return path


@pytest.fixture(scope="module")
def dataset(bag, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("truth")
    convert_bags([bag], out, ConvertOptions())
    run = CliRunner().invoke(app, ["convert", str(bag), "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "converted before" in run.output
    return out


def recorded(bag: Path, topic: str) -> dict[int, object]:
    with Recording(bag) as recording:
        return {
            recording.header_stamp_ns(message): recording.decode(message)
            for message in recording.messages({topic})
        }


def test_images_keep_their_bytes_and_stamps(bag, dataset) -> None:
    index = DatasetIndex.load(dataset)
    assert len(index) == FRAMES
    assert set(index.header.cameras) == set(sensors().rig.names)
    for name in index.header.cameras:
        messages = recorded(bag, camera_topic(name))
        for frame in index.frames:
            camera = frame.cameras[name]
            assert index.path(camera.image).read_bytes() == bytes(messages[camera.stamp_ns].data)
            assert frame.stamp_ns == frame.cameras["CAM_FRONT"].stamp_ns


def test_poses_and_calibration_are_those_of_the_drive(dataset) -> None:
    car = sensors()
    index = DatasetIndex.load(dataset)
    for n, frame in enumerate(index.frames):
        for name, camera in frame.cameras.items():
            exact = car.drive.pose(car.exposure(name, n / 2))
            # Odometry has 50 Hz; poses in between are interpolated linearly.
            assert np.allclose(camera.world_T_ego, exact, atol=2e-3)
            assert np.allclose(camera.K, car.rig.camera(name).K)
            assert np.allclose(camera.ego_T_cam, car.rig.camera(name).ego_T_cam, atol=1e-12)
            assert (camera.width, camera.height) == (160, 90)


def test_labels_are_the_ground_truth(bag, dataset) -> None:
    index = DatasetIndex.load(dataset)
    label_format = index.header.label_sets["occ3d"]
    assert (label_format.time, label_format.frame, label_format.classes) == (
        "reference_camera",
        "ego",
        "occ3d",
    )
    seen = {p.stamp_ns: p for p in BagPredictions(bag, "/ground_truth_in_view/occupancy")}
    for truth in BagPredictions(bag, "/ground_truth/occupancy"):
        frame = next(f for f in index.frames if f.stamp_ns == truth.stamp_ns)
        labels = read_labels(index.path(frame.labels["occ3d"]), label_format)
        assert np.array_equal(labels.semantics_XYZ, truth.labels)
        assert np.array_equal(labels.flow_XYZ2, truth.flow)
        assert np.array_equal(labels.camera_mask_XYZ, seen[truth.stamp_ns].labels != 255)
        openocc = read_labels(
            index.path(frame.labels["openocc"]), index.header.label_sets["openocc"]
        )
        for name in ("car", "driveable_surface", "vegetation", "free"):
            ours, theirs = (LABEL_SETS[s].class_names.index(name) for s in ("openocc", "occ3d"))
            expected = truth.labels == theirs
            if name == "free":
                expected |= truth.labels == 0
            assert np.array_equal(openocc.semantics_XYZ == ours, expected)


def test_lidar_points_come_with_their_classes_and_lie_where_they_were_measured(dataset) -> None:
    car = sensors()
    index = DatasetIndex.load(dataset)
    for n, frame in enumerate(index.frames):
        lidar = frame.lidar
        assert lidar is not None and lidar.points is not None and lidar.semantics is not None
        assert lidar.stamp_ns == car.stamp_ns(n / 2)
        expected = car.points(n / 2)
        points = read_points(index.path(lidar.points), lidar.columns)
        far = np.linalg.norm(expected.points[:, :3], axis=1) > 1.5
        assert np.allclose(points, expected.points[far, :3], atol=1e-4)
        classes = np.frombuffer(index.path(lidar.semantics).read_bytes(), np.uint8)
        assert np.array_equal(classes, expected.classes[far])
        assert np.allclose(lidar.ego_T_lidar, car.ego_T_lidar)
        assert np.allclose(lidar.world_T_ego, car.drive.pose(n / 2), atol=2e-3)


def test_labels_from_the_bags_own_lidar_agree_with_the_truth(bag, dataset, tmp_path) -> None:
    reports, failures = convert_bags([bag], tmp_path, ConvertOptions(labels="lidar"))
    assert not failures and "/ground_truth/boxes" in reports[0].labels
    index, exact = DatasetIndex.load(tmp_path), DatasetIndex.load(dataset)
    assert [f.token for f in index.frames] == [f.token for f in exact.frames]
    hit = missed = wrong = 0
    for ours, theirs in zip(index.frames, exact.frames, strict=True):
        a = read_labels(index.path(ours.labels["occ3d"]), index.header.label_sets["occ3d"])
        b = read_labels(exact.path(theirs.labels["occ3d"]), exact.header.label_sets["occ3d"])
        visible = a.camera_mask_XYZ & b.camera_mask_XYZ
        mine, real = a.semantics_XYZ != 17, b.semantics_XYZ != 17
        hit += (mine & real & visible).sum()
        missed += (real & ~mine & visible).sum()
        wrong += (mine & ~real & visible).sum()
        assert not (a.camera_mask_XYZ & ~a.lidar_mask_XYZ).any()
    assert hit / (hit + missed + wrong) > 0.6, "one second of sweeps"


def test_label_folders_are_matched_by_stamp_and_by_token(bag, dataset, tmp_path) -> None:
    index = DatasetIndex.load(dataset)
    stamped, by_token = tmp_path / "stamped", tmp_path / "gts"
    stamped.mkdir()
    samples = []
    for n, frame in enumerate(index.frames[:2]):
        file = index.path(frame.labels["occ3d"])
        shutil.copyfile(file, stamped / f"{frame.stamp_ns}.npz")
        folder = by_token / "scene" / f"token{n}"
        folder.mkdir(parents=True)
        shutil.copyfile(file, folder / "labels.npz")
        # As in nuScenes: the token's time is the lidar's, 35 ms after the front camera's.
        samples.append({"token": f"token{n}", "timestamp": (frame.stamp_ns + 35_000_000) // 1000})
    (stamped / f"{index.frames[2].stamp_ns}.npz").write_bytes(b"PK damaged")
    table = tmp_path / "sample.json"
    table.write_text(json.dumps(samples))
    (report,), _ = convert_bags([bag], tmp_path / "a", ConvertOptions(labels=str(stamped)))
    first = DatasetIndex.load(tmp_path / "a" / "parts" / "drive.jsonl")
    assert len(first) == 2 and first.header.label_sets["occ3d"].time == "reference_camera"
    assert len(report.problems["label_file"]) == 1 and len(report.problems["no_labels"]) == 1
    assert not list((tmp_path / "a").rglob(f"*{index.frames[2].stamp_ns}.jpg"))

    options = ConvertOptions(labels=str(by_token), samples=str(table))
    convert_bags([bag], tmp_path / "b", options)
    second = DatasetIndex.load(tmp_path / "b" / "parts" / "drive.jsonl")
    assert len(second) == 2 and second.header.label_sets["occ3d"].time == "lidar"
    for frame, row in zip(second.frames, samples, strict=True):
        assert frame.lidar is not None and frame.lidar.stamp_ns == row["timestamp"] * 1000
        assert frame.lidar.points is not None
    _, failures = convert_bags([bag], tmp_path / "c", ConvertOptions(labels=str(by_token)))
    assert "--samples" in failures[str(bag)]


@pytest.mark.parametrize("family", [families.clynamen, families.foxglove])
def test_bags_of_other_tools_become_data_sets(family, tmp_path) -> None:
    raw = family is families.clynamen  # without camera_info: has the size of the nuScenes rig
    images = nuscenes_folder.drawn_images(
        keyframes=2, with_sweeps=not raw, size=(1600, 900) if raw else (160, 90)
    )
    path = tmp_path / ("scene.bag" if raw else "scene")
    family(path, images)
    options = ConvertOptions(labels="none", spacing_s=0.5)
    reports, failures = convert_bags([path], tmp_path / "out", options)
    assert not failures, failures
    part = DatasetIndex.load(tmp_path / "out" / "parts" / "scene.jsonl")
    assert len(part) >= 2 and not part.header.label_sets
    by_stamp = {(p.channel, p.stamp_ns): p for p in images}
    for frame in part.frames:
        for name, camera in frame.cameras.items():
            source = by_stamp[name, camera.stamp_ns]
            assert np.allclose(camera.world_T_ego, source.world_T_ego, atol=1e-2)
            if raw:
                stored = np.asarray(Image.open(part.path(camera.image)))
                assert np.array_equal(stored, families.pixels(source))
            else:
                assert part.path(camera.image).read_bytes() == source.jpeg
    assert ("PNG" in reports[0].images) == raw


def rewritten(bag: Path, out: Path, change) -> Path:
    """A copy of the bag with each message changed by ``change(topic, stamp, message)`` or dropped.

    None drops a message.
    """
    with Recording(bag) as recording, BagWriter(out) as writer:
        for message in recording.messages():
            changed = change(message.topic, message.received_ns, recording.decode(message))
            if changed is not None:
                writer.write(message.topic, message.received_ns, changed)
    return out


def test_missing_cameras_damaged_images_and_pose_gaps_are_listed(bag, tmp_path) -> None:
    car = sensors()
    stamps = [car.stamp_ns(car.exposure("CAM_BACK", n / 2)) for n in range(FRAMES)]

    def change(topic, stamp, message):
        if topic == camera_topic("CAM_BACK") and stamp == stamps[0]:
            return None
        if topic == camera_topic("CAM_BACK") and stamp == stamps[1]:
            message.data = message.data[: len(message.data) // 2]
        return message

    broken = rewritten(bag, tmp_path / "broken", change)
    (report,), failures = convert_bags([broken], tmp_path / "out", ConvertOptions())
    assert not failures and report.frames == 1
    assert len(report.problems["missing_camera"]) == 1
    assert "truncated" in report.problems["undecodable_image"][0]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["bags"][0]["problems"]

    (kept,), _ = convert_bags([broken], tmp_path / "kept", ConvertOptions(keep_incomplete=True))
    part = DatasetIndex.load(tmp_path / "kept" / "parts" / "broken.jsonl")
    assert kept.frames == 2 and "CAM_BACK" not in part.frames[0].cameras

    def without_poses(topic, stamp, message):
        near = abs(stamp - stamps[1]) < 600_000_000
        return None if topic in ("/odom", "/tf") and near else message

    gap = rewritten(bag, tmp_path / "gap", without_poses)
    _, failures = convert_bags([gap], tmp_path / "gone", ConvertOptions())
    assert "pose" in failures[str(gap)]
    run = CliRunner().invoke(app, ["convert", str(gap), "--out", str(tmp_path / "gone")])
    assert run.exit_code != 0


def test_a_bag_that_breaks_off_gives_what_is_before_and_one_that_is_none_fails(
    tmp_path,
) -> None:
    whole = tmp_path / "whole"
    families.foxglove(whole, nuscenes_folder.drawn_images(keyframes=6, size=(640, 360)))
    cut = tmp_path / "cut.mcap"
    data = next(whole.glob("*.mcap")).read_bytes()
    cut.write_bytes(data[: int(len(data) * 0.7)])
    nothing = tmp_path / "nothing.mcap"
    nothing.write_bytes(b"not a bag")
    reports, failures = convert_bags(
        [nothing, cut], tmp_path / "out", ConvertOptions(labels="none"), jobs=2
    )
    assert "damaged_file" in reports[0].problems and reports[0].frames >= 1
    assert list(failures) == [str(nothing)]
    assert failures[str(nothing)].startswith(f"{nothing} cannot be read: ")
    assert sorted(f.stem for f in (tmp_path / "out" / "parts").iterdir()) == ["cut"]


def test_numbers_of_messages_that_differ_are_reported(tmp_path) -> None:
    path = families.foxglove(tmp_path / "bag", nuscenes_folder.drawn_images(keyframes=2))
    metadata = path / "metadata.yaml"
    content = yaml.safe_load(metadata.read_text())
    (tf,) = (
        topic
        for topic in content["rosbag2_bagfile_information"]["topics_with_message_count"]
        if topic["topic_metadata"]["name"] == "/tf"
    )
    tf["message_count"] = 5
    metadata.write_text(yaml.safe_dump(content))
    run = CliRunner().invoke(
        app, ["convert", str(path), "--labels", "none", "--out", str(tmp_path / "out")]
    )
    assert run.exit_code == 0, run.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())["bags"][0]
    (text,) = report["problems"]["message_count"]
    assert text == "metadata.yaml states 5 messages, but 2 are in its files: /tf 2 instead of 5"
    assert text in " ".join(run.output.split())


def test_an_interrupted_bag_is_converted_again_and_a_finished_one_is_kept(
    bag, tmp_path, monkeypatch
) -> None:
    other = tmp_path / "second"
    shutil.copytree(bag, other)
    options = ConvertOptions()
    from occ_training.convert_frames import FrameWriter

    written = []
    keep = FrameWriter.write

    def write(self, item, label_ns):
        written.append(item.sequence)
        if item.sequence == "second" and len(written) == FRAMES + 2:
            raise KeyboardInterrupt
        return keep(self, item, label_ns)

    monkeypatch.setattr(FrameWriter, "write", write)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_bags([bag, other], out, options)
    assert [f.stem for f in (out / "parts").iterdir()] == ["drive"]
    assert [f.name for f in (out / "frames").iterdir()] == ["drive"]
    # A killed process does not clean up.
    (out / "frames" / ".second.unfinished" / "second" / "CAM_FRONT").mkdir(parents=True)
    (out / "frames" / "second").mkdir()
    monkeypatch.undo()
    reports, failures = convert_bags([bag, other], out, options)
    assert not failures and [r.resumed for r in reports] == [True, False]
    assert not list(out.rglob(".*")) and reports[1].frames == FRAMES

    _, failures = convert_bags([bag], out, ConvertOptions(labels="none"))
    assert "choose another folder" in failures[str(bag)]
    assert len(DatasetIndex.load(out / "parts" / "drive.jsonl")) == FRAMES


def test_bags_keep_their_names_in_later_calls(bag, tmp_path) -> None:
    """Recordings in numbered folders, and bags of equal name that are converted again alone."""
    bags = [tmp_path / name for name in ("rec.1", "rec.2", "a/drive", "b/drive")]
    for copy in bags:
        shutil.copytree(bag, copy)
    out, options = tmp_path / "out", ConvertOptions(labels="none")
    reports, failures = convert_bags(bags, out, options)
    assert not failures
    names = ["a-drive", "b-drive", "rec.1", "rec.2"]
    assert [report.name for report in reports] == names
    for again in (bags[2:3], bags[1:]):
        reports, failures = convert_bags(again, out, options)
        assert not failures and all(report.resumed for report in reports)
    assert list(DatasetIndex.load(out).sequences()) == names
    alone = tmp_path / "alone"
    for some in (bags[2:3], bags[2:]):
        reports, failures = convert_bags(some, alone, options)
    assert [report.name for report in reports] == ["b-drive", "drive"]


def test_frames_are_chosen_about_the_spacing_apart() -> None:
    twelve_hz = [round(n * 1e9 / 12) for n in range(60)]
    assert list(spaced(twelve_hz, 500_000_000)) == [*twelve_hz[::6], twelve_hz[-1]]
    keyframes = [0, 400, 1000, 1500, 2100]
    assert list(spaced([k * 10**6 for k in keyframes], 500_000_000)) == [
        k * 10**6 for k in keyframes
    ]
    with_gap = [0, 100, 200, 5000, 5100, 5500]
    assert [s // 10**6 for s in spaced([k * 10**6 for k in with_gap], 500_000_000)] == [
        0,
        5000,
        5500,
    ]
