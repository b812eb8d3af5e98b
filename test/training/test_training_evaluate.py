"""``occ-train eval`` on a town folder: the scores do not depend on the number of processes."""

from __future__ import annotations

import csv
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import training_folders as folders
from occ_training import evaluate as evaluation
from occ_training.cli import app
from occ_training.parallel import Outcome
from occ_training.sampler import group_frames
from typer.testing import CliRunner

from occ_perception.cli import app as occ


def run(application, *words: object) -> str:
    result = CliRunner().invoke(application, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town")
    options = ("--frames", 2, "--size", "704x396", "--out", folder)
    run(occ, "town", "drive", "--town", 7, "--drive", "0-2", *options)
    run(app, "prepare", "nuscenes", folder, "--version", "v1.0-town")
    return folder


@pytest.mark.slow
def test_one_two_and_three_processes_give_identical_numbers(town: Path, tmp_path: Path) -> None:
    """Two frames of each of three drives, so that history is used."""
    for jobs in (1, 2, 3):
        run(
            app,
            *("eval", "alocc_town", "--data", town, "--random-weights", 3, "--device", "cpu"),
            *("--part", "camera_mask", "--part", "all_voxels", "--jobs", jobs),
            *("--json", tmp_path / f"{jobs}.json", "--csv", tmp_path / f"{jobs}.csv"),
            *("--save", tmp_path / f"outputs_{jobs}"),
        )
    scores = [(tmp_path / f"{jobs}.json").read_text() for jobs in (1, 2, 3)]
    assert scores[0] == scores[1] == scores[2]
    assert json.loads(scores[0])["frames"] == 6
    with (tmp_path / "1.csv").open() as lines:
        assert {row["part"] for row in csv.DictReader(lines)} == {"camera_mask", "all_voxels"}
    outputs = [sorted((tmp_path / f"outputs_{jobs}").rglob("*.npz")) for jobs in (1, 3)]
    assert len(outputs[0]) == 6
    for one, three in zip(*outputs, strict=True):
        volume = np.load(one)["semantics"]
        assert volume.shape == (200, 200, 16) and volume.dtype == np.uint8
        assert np.array_equal(volume, np.load(three)["semantics"])


@pytest.mark.slow
def test_a_ray_cluster_gives_the_numbers_of_one_process(town: Path, tmp_path: Path) -> None:
    """In separate processes, because Ray keeps its settings; with a token for this test alone."""
    pytest.importorskip("ray")
    command = [sys.executable, "-c", "from occ_training.cli import main; main()", "eval"]
    command += ["alocc_town", "--data", str(town), "--random-weights", "3", "--device", "cpu"]
    command += ["--part", "camera_mask", "--json"]
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    for name, ray in (("alone", []), ("ray", ["--ray", "local"])):
        subprocess.run(
            [*command, str(tmp_path / name), *ray], check=True, timeout=300, env=os.environ | token
        )
    assert (tmp_path / "ray").read_text() == (tmp_path / "alone").read_text()


@pytest.mark.parametrize(("device", "gpus"), [("auto", 1), ("cuda", 1), ("cpu", 0)])
def test_a_cluster_gets_one_task_per_sequence(tmp_path, monkeypatch, device, gpus) -> None:
    """The GPUs of this machine do not matter to the cluster."""
    folders.town_index().save(tmp_path)
    given = []

    def all_at_once(_function, tasks, _jobs, address, gpus):
        given.append((address, gpus, [(task.groups, task.device) for task in tasks]))
        runs = group_frames(tasks[0].dataset().groups_F)
        return [Outcome(task, ([*runs[task.groups[0]]], {})) for task in tasks]

    monkeypatch.setattr(evaluation, "run_all", all_at_once)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    task = evaluation.EvaluationTask(
        model="alocc_town", random_seed=1, device=device, data=tmp_path, parts=("camera_mask",)
    )
    evaluation.evaluate(task, ray_address="cluster:6379")
    assert given == [("cluster:6379", gpus, [((0,), device), ((1,), device)])]
