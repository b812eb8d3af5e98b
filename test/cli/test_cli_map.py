"""``occ map`` on small recordings: from occupancy or cameras to the three files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from small_footage import CAR, FREE, ROAD, SmallFootage, guess_at, truth_at, write_footage
from small_streams import SMALL_MODEL, small_card
from typer.testing import CliRunner

from occ_perception.bags.writing import BagWriter
from occ_perception.cli import PlainErrors
from occ_perception.cli.map import map_drive
from occ_perception.mapping.drive_map import DriveMap, MapOptions, MapVoxels
from occ_perception.mapping.map_files import read_arrays
from occ_perception.models.zoo import MODELS

app = typer.Typer(cls=PlainErrors)
app.callback()(lambda: None)
app.command("map")(map_drive)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> SmallFootage:
    return write_footage(tmp_path_factory.mktemp("footage"), count=3)


def occ_map(*arguments: object):
    return CliRunner().invoke(app, ["map", *(str(argument) for argument in arguments)])


def mapped(predict, footage: SmallFootage) -> MapVoxels:
    """The map that the command should make."""
    drive_map = DriveMap()
    for frame in footage.frames:
        drive_map.add(predict(frame.stamp_ns), frame.world_T_reference_ego)
    return drive_map.voxels()


def assert_same(got: MapVoxels, expected: MapVoxels) -> None:
    for name in ("indices", "log_odds", "classes"):
        np.testing.assert_array_equal(getattr(got, name), getattr(expected, name), name)
    assert (got.voxel_size, got.origin) == (expected.voxel_size, expected.origin)


def test_recorded_truth_becomes_all_three_files(tmp_path: Path, footage: SmallFootage) -> None:
    files = [tmp_path / f"map{suffix}" for suffix in (".npz", ".ot", ".ply")]
    result = occ_map(footage.cameras, *(part for file in files for part in ("-o", file)))
    assert result.exit_code == 0, result.output
    voxels = read_arrays(files[0])
    assert_same(voxels, mapped(truth_at, footage))
    assert set(np.unique(voxels.classes)) == {ROAD, FREE}  # the car moves
    assert not (voxels.classes == CAR).any()
    occupied = int(voxels.occupied.sum())
    assert f"3 frames, {len(np.unique(voxels.indices[:, :2], axis=0)) * 0.25:.0f} m2" in (
        result.output
    )
    assert f"{occupied} voxels of 0.5 m occupied" in result.output
    assert files[1].read_bytes().startswith(b"# Octomap OcTree file\n")
    head = files[2].read_bytes()[:900].decode("ascii", "replace")
    assert f"element vertex {occupied}\n" in head and "property float probability\n" in head


def test_predictions_take_the_pose_from_another_bag(tmp_path: Path, footage: SmallFootage) -> None:
    file = tmp_path / "map.npz"
    options = ("--poses", footage.cameras, "--voxel-size", 1.0, "--local", "--every", 2)
    result = occ_map(footage.predictions, "-o", file, *options)
    assert result.exit_code == 0, result.output
    first = footage.frames[0].world_T_reference_ego[:3, 3]
    drive_map = DriveMap(MapOptions(1.0, tuple(first.tolist())))
    for frame in footage.frames[::2]:
        drive_map.add(guess_at(frame.stamp_ns), frame.world_T_reference_ego)
    assert_same(read_arrays(file), drive_map.voxels())


def test_odometry_is_enough_and_frames_without_a_pose_are_named(
    tmp_path: Path, footage: SmallFootage
) -> None:
    """What a robot records of its own output: no cameras."""
    frames = footage.frames
    with BagWriter(tmp_path / "bag") as bag:
        for frame in frames:
            bag.write_occupancy(guess_at(frame.stamp_ns))
        bag.write_occupancy(guess_at(frames[-1].stamp_ns + 5 * 10**9))
        for frame in frames:
            bag.write_odometry(frame.stamp_ns, frame.world_T_reference_ego)
    result = occ_map(tmp_path / "bag", "-o", tmp_path / "map.npz")
    assert result.exit_code == 0, result.output
    assert_same(read_arrays(tmp_path / "map.npz"), mapped(guess_at, footage))
    assert result.output.count("skipped: ") == 1 and "newer than the newest pose" in result.output


def test_a_model_maps_a_bag_of_cameras(tmp_path: Path, footage: SmallFootage) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL_MODEL, small_card(rename=SMALL_MODEL))
        options = ("--model", SMALL_MODEL, "--random-weights", 3, "--limit", 1, "--device", "cpu")
        result = occ_map(footage.cameras, "-o", tmp_path / "map.npz", *options)
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "the map is meaningless" in result.output
    voxels = read_arrays(tmp_path / "map.npz")
    assert voxels.voxel_size == 0.4  # columns of 2 m, layers of 0.4 m
    assert len(voxels.indices) > 100  # random weights see the world as a wall


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "map.bt"), "expected a name ending in .ot, .ply, .npz"),
        (("-o", "map.ot", "--voxel-size", 0), "must be positive"),
        (("-o", "map.ot", "--rig", "x"), "need --model"),
        (("-o", "map.ot", "-m", "alocc_2d_mini", "--topic", "/x"), "without --model"),
        (("-o", "map.ot"), "fits no shipped layout and has no odometry"),
        (("-o", "map.ot", "--layout", "occ_perception"), "has no ego pose on /odom"),
    ],
)
def test_contradictory_options_are_refused(
    footage: SmallFootage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, message
) -> None:
    monkeypatch.chdir(tmp_path)
    result = occ_map(footage.predictions, *arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
