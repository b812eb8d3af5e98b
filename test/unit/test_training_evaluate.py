"""``occ-train eval`` on a town folder: the scores do not depend on the number of processes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from occ_training.cli import app
from typer.testing import CliRunner

from occ_perception.cli import app as occ

pytestmark = pytest.mark.slow


def run(application, *words: object) -> str:
    result = CliRunner().invoke(application, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    options = ("--frames", 1, "--size", "704x396", "--out", folder)
    run(occ, "town", "drive", "--town", 7, "--drive", "0-2", *options)
    run(app, "prepare", "nuscenes", folder, "--version", "v1.0-town")
    return folder


def test_one_two_and_three_processes_give_identical_numbers(town: Path, tmp_path: Path) -> None:
    for jobs in (1, 2, 3):
        run(
            app,
            *("eval", "alocc_town", "--data", town, "--random-weights", 3, "--device", "cpu"),
            *("--part", "camera_mask", "--part", "all_voxels", "--jobs", jobs),
            *("--json", tmp_path / f"{jobs}.json", "--csv", tmp_path / f"{jobs}.csv"),
            *("--save", tmp_path / f"answers_{jobs}"),
        )
    scores = [(tmp_path / f"{jobs}.json").read_text() for jobs in (1, 2, 3)]
    assert scores[0] == scores[1] == scores[2]
    assert json.loads(scores[0])["frames"] == 3
    with (tmp_path / "1.csv").open() as lines:
        assert {row["part"] for row in csv.DictReader(lines)} == {"camera_mask", "all_voxels"}
    answers = [sorted((tmp_path / f"answers_{jobs}").rglob("*.npz")) for jobs in (1, 3)]
    assert len(answers[0]) == 3
    for one, three in zip(*answers, strict=True):
        volume = np.load(one)["semantics"]
        assert volume.shape == (200, 200, 16) and volume.dtype == np.uint8
        assert np.array_equal(volume, np.load(three)["semantics"])
