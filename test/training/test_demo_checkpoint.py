"""The demonstration checkpoint: trained by its recipe, interrupted, resumed, packed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from occ_training.checkpoints import finished_checkpoints
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.sample import collate
from occ_training.evaluate import evaluate_frames, evaluation_options
from occ_training.fit import fit
from occ_training.module import OccupancyModule
from occ_training.packing import PackError, learning_curve, pack
from occ_training.recipes import RECIPES
from occ_training.run_folder import store_recipe
from safetensors import safe_open
from safetensors.torch import load_file
from small_training import small_card, small_recipe, small_town_card, town_index
from torch import nn

from occ_perception.metrics import Evaluation
from occ_perception.models.checkpoint import load_checkpoint
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.weights import load_model

CPU = torch.device("cpu")


def test_a_step_in_half_precision_keeps_geometry_exact() -> None:
    """As on a GPU: bfloat16 only in convolutional parts, float32 in the lifting."""
    card, seen = small_card(), []
    assert RECIPES["alocc_town"]().precision == "bf16"
    recipe = small_recipe(precision="bf16")
    training = OccupancyModule(card.build(), card, recipe)
    training.net.lift.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    convolution = next(m for m in training.net.image.modules() if isinstance(m, nn.Conv2d))
    convolution.register_forward_hook(lambda *a: seen.append(a[-1].dtype))
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    training(collate([dataset[0], dataset[3]]))
    assert seen == [torch.bfloat16, False]


def test_a_run_that_is_not_finished_is_not_packed(tmp_path) -> None:
    store_recipe(tmp_path, RECIPES["alocc_town"]())
    with pytest.raises(PackError, match=r"is at step 0 of 5200: `occ-train fit alocc_town --out"):
        pack(tmp_path, tmp_path / "frames", "cpu", 1, False, print)


@pytest.mark.slow
def test_the_recipe_overfits_two_frames(tmp_path, capsys) -> None:
    card = small_town_card()
    recipe = RECIPES["alocc_town"]().lasting(300 * 2)
    recipe = replace(recipe, town=None, batch=1, image=None, bev=None, gate=None)
    index = town_index(drives=1, frames=2)
    scores = []
    for weights in (None, fit_two(recipe, card, index, tmp_path)):
        net = card.build()
        if weights is not None:
            load_checkpoint(net, card, weights)
        counted = Evaluation(card.label_set, ("camera_mask",), card.grid)
        plain = OccupancyDataset(index, card, evaluation_options(card))
        evaluate_frames(net.eval(), card, plain, counted, CPU)
        scores.append(counted.report().scores["camera_mask"])
    with capsys.disabled():
        print("\nmIoU, IoU before and after:", [(s["mIoU"], s["IoU"]) for s in scores])
    before, after = scores
    assert after["mIoU"] > 4 * before["mIoU"]
    assert after["mIoU"] > 0.3 and after["IoU"] > 0.5


def fit_two(recipe, card, index, out: Path) -> Path:
    dataset = OccupancyDataset(index, card, recipe.sample_options(card))
    return fit(recipe, dataset, out, card=card, accelerator="cpu", progress=False)


def test_two_runs_from_one_seed_give_the_same_weights(tmp_path) -> None:
    """On one thread, in the network's own recipe: drawn voxels, augmentation, average and all."""
    card, recipe = small_town_card(), RECIPES["alocc_town"]().lasting(6 * 2)
    recipe = replace(recipe, town=None, gate=None, validate_every=None)
    index, threads = town_index(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, other = (load_file(fit_two(recipe, card, index, tmp_path / n)) for n in "ab")
    finally:
        torch.set_num_threads(threads)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    begun = card.build().state_dict()
    assert any(not torch.equal(one[name], begun[name]) for name in one)


def test_the_curve_of_a_run_has_its_cpu_hours_and_scores(tmp_path) -> None:
    card, recipe = small_card(), small_recipe(steps=4, validate_every=2)
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    held_out = OccupancyDataset(town_index(), card, evaluation_options(card))
    fit(
        recipe, dataset, tmp_path, card=card, accelerator="cpu", validation=held_out,
        progress=False, log_every=1,
    )  # fmt: skip
    first, last = learning_curve(tmp_path)
    assert (first["step"], last["step"]) == (2, 4)
    assert 0 < first["cpu_hours"] < last["cpu_hours"] < 1
    assert {"mIoU", "IoU"} <= first.keys() and 0 <= first["IoU"] <= 1


@pytest.mark.slow
def test_the_command_survives_a_kill_and_its_checkpoint_loads(tmp_path, monkeypatch) -> None:
    """SIGKILL after a checkpoint; the same command resumes there, and the result is packed."""
    out = tmp_path / "town"
    options = [
        *("town.towns=1", "town.drives=1", "town.clip_frames=2", "town.validation_towns=1"),
        *("town.test_towns=1", "town.scored_frames=2", "batch=1", "workers=0"),
        *("checkpoint_every=1", "gate.step=2", "gate.floor=-1"),
    ]
    settings = [word for option in options for word in ("--set", option)]
    command = [sys.executable, "-m", "occ_training", "fit", "alocc_town", "--out", str(out)]
    command += ["--accelerator", "cpu", "--samples", "3", *settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment)
    try:
        until = time.monotonic() + 500
        while not finished_checkpoints(out / "checkpoints"):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
    finally:
        process.kill()
        process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr
    assert "rendering" not in done.stdout + done.stderr
    assert json.loads((out / "gate.json").read_text())["step"] == 2
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert again.returncode == 0 and "step_0000003" in again.stdout, again.stderr

    installed = tmp_path / "package/weights/alocc_town.safetensors"
    card = replace(get_card("alocc_town"), packaged=installed)
    monkeypatch.setitem(MODELS, "alocc_town", card)
    text = pack(out, out / "frames", "cpu", 1, True, print)
    assert "2 frames of the test split" in text and "| camera_mask mIoU |" in text
    assert (out / "report.md").read_text() == text
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores["scores"]) == ["with history", "without history", "nothing moves"]
    assert scores["scores"]["with history"]["frames"] == 2
    assert [*scores["by_distance"]][2:] == ["prior", "plane", "oracle"]
    assert "| oracle |" in text and not (out / "predictions").exists()
    assert [row["step"] for row in scores["curve"]] == [2, 3]  # the gate, and the end
    assert json.loads(installed.with_suffix(".json").read_text()) == scores
    assert installed.stat().st_size < 4e6
    with safe_open(installed, "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} >= {torch.float16}  # noqa: SIM118
    assert load_model("alocc_town").report.problems == []
