"""Drives on disk as bags, read back by the package's own readers."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import synthetic_scenes as scenes
from synthetic_scenes import files_of, run_code, sensors
from typer.testing import CliRunner

from occ_perception.bags.drive import open_recording
from occ_perception.bags.lidar import FrameSetSweeps
from occ_perception.cli.town import app
from occ_perception.errors import OccError
from occ_perception.geometry import transform_points
from occ_perception.synthetic.labels import OCC3D_GRID
from occ_perception.synthetic.recording import BagOptions, record_drive
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_does_not_fit_the_disk_does_not_exist(tmp_path: Path, storage: str) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "import test_synthetic_bags as t\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "s = t.sensors(2); s.truth(0.0); s.frame(0.0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"t.record_drive(s, Path(sys.argv[1]), 4, t.BagOptions(storage='{storage}'))\n"
    )
    run = run_code(code, tmp_path / "bag")
    assert run.returncode != 0
    last = run.stderr.splitlines()[-1]
    assert f"OutputError: {tmp_path / 'bag'} could not be written" in last
    # SQLite calls it an I/O error.
    assert "larger than may be written" in last or storage == "sqlite3"
    assert not list(tmp_path.iterdir())


def town_bags(*arguments: str, out: Path, drives: str = "0-1"):
    options = ["--town", "20000", "--drive", drives, "--bag", "mcap", "--out", str(out)]
    small = ["--frames", "1", "--size", "64x36", "--jobs", "1"]
    return CliRunner().invoke(app, ["drive", *options, *small, *arguments])


def test_a_bag_is_reused_only_if_its_settings_match(tmp_path: Path) -> None:
    """Bags are kept by the same command and refused by any other."""
    assert town_bags(out=tmp_path).exit_code == 0
    made = files_of(tmp_path)
    one = tmp_path / "town-20000-000"
    assert town_bags(out=tmp_path).exit_code == 0
    assert town_bags(out=one, drives="0").exit_code == 0
    for more in (["--frames", "2"], ["--size", "160x90"], ["--jitter-rig"], ["--lidar", "1"]):
        for out, drives in ((tmp_path, "0-1"), (one, "0")):
            refusal = town_bags(*more, out=out, drives=drives).exception
            assert isinstance(refusal, OccError)
            assert re.search(r"holds a drive with .*'generator': 1.* delete it", str(refusal))
    assert files_of(tmp_path) == made


def test_a_bag_of_another_generator_or_without_provenance_is_refused(tmp_path: Path) -> None:
    bag = tmp_path / "bag"
    assert town_bags(out=bag, drives="0").exit_code == 0
    metadata = bag / "metadata.yaml"
    text = metadata.read_text()
    metadata.write_text(text.replace('"generator": 1', '"generator": 0'))
    assert metadata.read_text() != text
    assert "'generator': 0" in str(town_bags(out=bag, drives="0").exception)
    metadata.unlink()
    assert "has no provenance of a drive" in str(town_bags(out=bag, drives="0").exception)


def test_a_bag_holds_the_truth_for_the_reference_cameras_stamp(tmp_path: Path) -> None:
    from rosbags.highlevel import AnyReader

    from occ_perception.bags.message_types import ros2_types
    from occ_perception.codec import EncodedOccupancy, decode_occupancy

    own = sensors(1)
    record_drive(own, tmp_path / "bag", 2, BagOptions(storage="sqlite3"))
    frames = list(open_recording(tmp_path / "bag"))
    messages = []
    with AnyReader([tmp_path / "bag"], default_typestore=ros2_types()) as reader:
        for connection, _, raw in reader.messages():
            if connection.topic.startswith("/ground_truth"):
                messages.append((connection.topic, reader.deserialize(raw, connection.msgtype)))
    by_topic = {topic: [m for t, m in messages if t == topic] for topic, _ in messages}
    assert sorted(by_topic) == [
        "/ground_truth/flow",
        "/ground_truth/occupancy",
        "/ground_truth_in_view/occupancy",
    ]
    for frame, full, in_view in zip(
        frames,
        by_topic["/ground_truth/occupancy"],
        by_topic["/ground_truth_in_view/occupancy"],
        strict=True,
    ):
        stamp = full.header.stamp.sec * 1_000_000_000 + full.header.stamp.nanosec
        assert stamp == frame.stamp_ns
        volumes = []
        for message in (full, in_view):
            encoded = EncodedOccupancy(
                message.encoding,
                message.labels,
                message.indices,
                message.run_lengths,
            )
            volumes.append(decode_occupancy(encoded, OCC3D_GRID.dims, 17, 18))
        seconds = (stamp - own.stamp_ns(0.0)) * 1e-9
        labels = own.labels(seconds)
        assert np.array_equal(volumes[0], labels.semantics)
        assert np.array_equal(volumes[1] == 255, ~labels.mask_camera)
        # The pose the bag gives for that image is the one the labels are made in.
        assert np.allclose(frame.world_T_reference_ego, own.drive.pose(seconds), atol=1e-4)


def test_lidar_points_are_moved_to_the_stamp_of_the_occupancy(tmp_path: Path) -> None:
    """The front camera exposes 35 ms before the lidar; the drive gives the distance."""
    own = sensors(1)
    record_drive(own, tmp_path / "bag", 3, BagOptions(lidar_rate=10.0))
    sweeps = list(FrameSetSweeps(tmp_path / "bag"))
    assert [sweep.stamp_ns for sweep in sweeps] == [
        own.stamp_ns(own.reference_time(t)) for t in (0.0, 0.5, 1.0)
    ]
    for sweep, t in zip(sweeps, (0.0, 0.5, 1.0), strict=True):
        ego_T_world = np.linalg.inv(own.drive.pose(own.reference_time(t)))
        reported = own.points(t).points[:, :3].astype(np.float64)
        moved = transform_points(ego_T_world @ own.drive.pose(t) @ own.ego_T_lidar, reported)
        unmoved = transform_points(own.ego_T_lidar, reported)
        assert np.abs(sweep.points - moved).max() < 0.02
        assert np.abs(sweep.points - unmoved).max() > 0.1


def test_odometry_noise_drifts_by_about_its_size(tmp_path: Path) -> None:
    own = DriveSensors(scenes.drive(20_000, 1), SensorOptions(size=(64, 36)))
    record_drive(own, tmp_path / "bag", 5, BagOptions(odometry_noise=0.03))
    poses = [frame.world_T_reference_ego for frame in open_recording(tmp_path / "bag")]
    exact = [own.drive.pose(own.reference_time(t)) for t in np.arange(5) * 0.5]
    driven = transform_points(np.linalg.inv(exact[0]), exact[-1][:3, 3])
    measured = transform_points(np.linalg.inv(poses[0]), poses[-1][:3, 3])
    error = np.linalg.norm(measured - driven) / np.linalg.norm(driven)
    assert 1e-4 < error < 0.15
