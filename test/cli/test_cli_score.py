"""``occ score``: recorded predictions and saved evaluations against ground truth."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from occ_perception.bags.predictions import write_arrays
from occ_perception.cli import app
from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import OCC3D_GRID

OCC3D = LABEL_SETS["occ3d"]
CAR, ROAD = OCC3D.class_names.index("car"), OCC3D.class_names.index("driveable_surface")


def occ(*arguments: object):
    return CliRunner().invoke(app, ["score", *(str(argument) for argument in arguments)])


def street(car_voxels: int, stamp_ns: int = 0) -> OccupancyPrediction:
    labels = np.full(OCC3D_GRID.dims, OCC3D.empty_class, np.uint8)
    labels[:, :, 1] = ROAD
    labels[100, 100 : 100 + car_voxels, 2] = CAR
    return OccupancyPrediction(
        *(stamp_ns, "base_link", OCC3D_GRID, np.eye(4), labels),
        *(OCC3D.class_names, OCC3D.empty_class),
    )


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three predictions and two truths as arrays: half of the car is found."""
    for number in range(3):
        write_arrays(tmp_path / f"pred/{number}.npz", street(4, number * 500_000_000))
    for number in range(2):
        write_arrays(tmp_path / f"truth/{number}.npz", street(8, number * 500_000_000))
    return tmp_path / "pred", tmp_path / "truth"


def test_arrays_are_joined_by_time(folders, tmp_path) -> None:
    predictions, truth = folders
    files = ("--json", tmp_path / "scores.json", "--csv", tmp_path / "scores.csv")
    result = occ(predictions, "--ground-truth", truth, *files)
    assert result.exit_code == 0, result.output
    assert "1 predictions have no ground truth at their time" in result.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    part = scores["parts"]["all labelled voxels"]
    assert scores["frames"] == 2
    assert part["per_class"]["IoU"]["car"] == pytest.approx(0.5)
    assert part["per_class"]["IoU"]["driveable_surface"] == 1.0
    assert part["scores"]["mIoU"] == pytest.approx(0.75)
    rows = list(csv.reader((tmp_path / "scores.csv").open()))
    assert ["all labelled voxels", "IoU", "car", "0.5"] in rows


def tree(folder: Path, names: list[str], car_voxels: int, of_occ3d: bool) -> Path:
    labels = street(car_voxels).labels
    for name in names:
        file = folder / name / "labels.npz" if of_occ3d else folder / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        mask = np.ones(labels.shape, np.uint8)
        mask[100, 100:102] = 0  # a quarter of the car is out of view
        arrays = {"mask_camera": mask, "mask_lidar": mask} if of_occ3d else {}
        np.savez_compressed(file, semantics=labels, **arrays)
    return folder


def test_saved_evaluations_are_joined_by_token(tmp_path) -> None:
    predictions = tree(tmp_path / "saved", ["scene-1/aa", "scene-1/bb", "scene-2/cc"], 4, False)
    truth = tree(tmp_path / "gts", ["scene-1/aa", "scene-2/cc", "scene-9/zz"], 8, True)
    result = occ(predictions, "--ground-truth", truth, "--json", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    assert "1 predictions have no ground truth and do not count: scene-1/bb" in result.output
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["frames"] == 2
    part = scores["parts"]["in view of a camera"]
    assert part["per_class"]["IoU"]["car"] == pytest.approx(2 / 6)


def test_mistakes_are_one_line(folders, tmp_path) -> None:
    predictions, truth = folders
    saved = tree(tmp_path / "saved", ["scene-1/aa"], 4, False)
    other = tree(tmp_path / "gts", ["scene-2/aa"], 4, True)
    moved = replace(OCC3D_GRID, lower=(0.0, 0.0, 0.0))
    write_arrays(tmp_path / "moved/0.npz", replace(street(1), grid=moved))
    (tmp_path / "damaged/scene-2").mkdir(parents=True)
    (tmp_path / "damaged/scene-2/aa.npz").write_bytes(b"no zip")
    for arguments, message in [
        ((predictions,), "no prediction with ground truth at its time"),
        ((predictions, "--ground-truth", tmp_path / "nowhere"), "nowhere"),
        ((tmp_path / "moved", "--ground-truth", truth), "the ground truth's"),
        ((saved,), "give --ground-truth gts/"),
        ((saved, "--ground-truth", other), "none of the 1 predictions"),
        ((saved, "--ground-truth", other, "--topic", "/x"), "--topic is for bags"),
        ((tmp_path / "damaged", "--ground-truth", other), "is no saved prediction"),
    ]:
        result = occ(*arguments)
        assert result.exit_code == 2, result.output
        assert message in result.output
        assert len(result.output.splitlines()) == 1
