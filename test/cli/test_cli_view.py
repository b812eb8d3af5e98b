"""``occ view`` and ``occ export`` on small recordings."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import typer
from small_footage import SmallFootage, truth_at, write_footage
from typer.testing import CliRunner

from occ_perception.cli import PlainErrors
from occ_perception.cli.export import export
from occ_perception.cli.view import view

app = typer.Typer(cls=PlainErrors)
app.command("view")(view)
app.command("export")(export)


@pytest.fixture(scope="module")
def footage(tmp_path_factory) -> SmallFootage:
    return write_footage(tmp_path_factory.mktemp("footage"), count=3)


def occ(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_film_compares_with_the_truth_and_plays_as_recorded(tmp_path, footage):
    film = tmp_path / "film.mp4"
    result = occ("view", footage.predictions, "--out", film, "--cameras", footage.cameras)
    assert result.exit_code == 0, result.output
    assert "3 frames" in result.output
    reader = cv2.VideoCapture(str(film))
    assert reader.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert reader.get(cv2.CAP_PROP_FPS) == pytest.approx(2.0)
    _, bgr = reader.read()
    missed = np.abs(bgr[560:, 800:].astype(int) - (224, 96, 40)).max(-1) < 40
    assert missed.sum() > 200  # the strip of road that the guess lacks, and its legend


def test_images_of_some_frames_go_to_a_folder(tmp_path, footage):
    out = tmp_path / "frames"
    result = occ("view", footage.cameras, "--out", out, "--every", 2)
    assert result.exit_code == 0, result.output
    assert sorted(file.name for file in out.iterdir()) == ["000000.png", "000001.png"]


def test_a_sheet_shows_all_frames(tmp_path, footage):
    result = occ("view", footage.predictions, "-o", tmp_path / "sheet.png", "--limit", 2)
    assert result.exit_code == 0, result.output
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[1] > 700


def test_points_are_exported_with_the_lidar(tmp_path, footage):
    open_topic = ("--lidar", footage.cameras)
    result = occ("export", footage.predictions, "--ply", tmp_path, *open_topic)
    assert result.exit_code == 0, result.output
    assert "3 files of occupancy, 3 of lidar points" in result.output
    names = sorted(file.name for file in tmp_path.iterdir())
    stamp = footage.stamps[0]
    assert names[:2] == [f"000000_{stamp}_lidar.ply", f"000000_{stamp}_occupancy.ply"]
    voxels = int((truth_at(stamp).labels != 17).sum())
    head = (tmp_path / names[1]).read_bytes()[:400].decode("ascii", "replace")
    assert 0 < int(head.split("element vertex ")[1].split()[0]) < voxels


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of --out, --rerun and --open3d"),
        (("--out", "film.avi"), "expected a name ending in .mp4, .png or .rrd"),
        (("--out", "a.mp4", "--rerun"), "one of --out, --rerun and --open3d"),
        (("--out", "a.mp4", "--topic", "/no"), "it has /occupancy_node/occupancy"),
    ],
)
def test_contradictory_options_are_refused(footage, arguments, message):
    result = occ("view", footage.predictions, *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
