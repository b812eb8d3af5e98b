"""Run folders: one recipe each, gates, diverged weights, checkpoints by time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from occ_training.checkpoints import DivergedError, finished_checkpoints
from occ_training.data.dataset import OccupancyDataset
from occ_training.evaluate import evaluation_options
from occ_training.fit import fit
from occ_training.recipe import Gate, TrainingRecipe
from occ_training.recipes import RECIPES
from occ_training.run_folder import RunError, store_recipe, stored_recipe
from occ_training.validation import GateError
from small_training import small_card, small_recipe, town_index

from occ_perception.errors import OptionError


def train(recipe: TrainingRecipe, out: Path, *callbacks: pl.Callback) -> Path:
    card = small_card()
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    held_out = OccupancyDataset(town_index(drives=1), card, evaluation_options(card))
    return fit(
        recipe,
        dataset,
        out,
        card=card,
        accelerator="cpu",
        validation=held_out if recipe.gate else None,
        callbacks=callbacks,
        log_every=1,
        progress=False,
    )


def steps_of(out: Path) -> list[str]:
    return [path.name for path in finished_checkpoints(out / "checkpoints")]


# --- the gate -------------------------------------------------------------------------------------


def test_a_failed_gate_ends_the_run_and_stays_failed(tmp_path) -> None:
    recipe = small_recipe(steps=3, checkpoint_every=1, gate=Gate(step=2, floor=0.9))
    with pytest.raises(GateError, match=r"camera_mask/mIoU is 0\.\d+ at the gate, expected more"):
        train(recipe, tmp_path)
    assert steps_of(tmp_path) == ["step_0000001", "step_0000002"]

    class Nothing(pl.Callback):
        def on_train_start(self, *_) -> None:
            pytest.fail("a run that failed its gate continues")

    with pytest.raises(GateError, match=r"--set gate.floor=-?\d"):
        train(recipe, tmp_path, Nothing())
    train(replace(recipe, gate=Gate(step=2, floor=-1.0)), tmp_path)
    assert steps_of(tmp_path)[-1] == "step_0000003"


def test_a_run_that_is_beyond_a_gate_is_checked_after_its_next_step(tmp_path) -> None:
    recipe = small_recipe(steps=2, checkpoint_every=1)
    train(recipe, tmp_path)
    with pytest.raises(GateError, match="at the gate"):
        train(replace(recipe, steps=4, gate=Gate(step=1, floor=0.9)), tmp_path)
    assert steps_of(tmp_path)[-1] == "step_0000003"


def test_a_passed_gate_is_passed_once(tmp_path) -> None:
    gate = Gate(step=1, floor=-1.0, score="all_voxels/IoU")
    train(small_recipe(steps=1, checkpoint_every=1, gate=gate), tmp_path)
    (tmp_path / "validation/step_0000001.json").unlink()
    longer = small_recipe(steps=2, checkpoint_every=1, gate=gate)
    train(longer, tmp_path)
    assert [path.name for path in (tmp_path / "validation").glob("*.json")] == ["step_0000002.json"]


def test_a_gate_needs_validation_data_and_a_known_score(tmp_path) -> None:
    recipe = small_recipe(steps=1, gate=Gate(step=1, floor=-1.0, score="camera_mask/speed"))
    with pytest.raises(GateError, match=r"camera_mask/speed, the validation has camera_mask/mIoU"):
        train(recipe, tmp_path / "a")
    card = small_card()
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    with pytest.raises(OptionError, match="small has a gate and no validation data"):
        fit(recipe, dataset, tmp_path / "b", card=card, accelerator="cpu", progress=False)


# --- checkpoints ----------------------------------------------------------------------------------


class Lose(pl.Callback):
    """Sets a weight to NaN at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(pl_module.net.parameters()).fill_(float("nan"))


def test_weights_that_are_not_finite_are_not_written(tmp_path) -> None:
    recipe = small_recipe(steps=3, checkpoint_every=1, averaging=None)
    with pytest.raises(DivergedError, match=r"no longer finite after 2 steps.*optimiser\.lr"):
        train(recipe, tmp_path, Lose(2))
    assert steps_of(tmp_path) == ["step_0000001"]


def test_checkpoints_are_also_written_by_time(tmp_path) -> None:
    train(small_recipe(steps=3, kept_checkpoints=9, checkpoint_minutes=0.0), tmp_path)
    assert steps_of(tmp_path) == ["step_0000001", "step_0000002", "step_0000003"]


# --- one run per folder ---------------------------------------------------------------------------


def test_a_folder_belongs_to_one_run(tmp_path) -> None:
    recipe = small_recipe(steps=1)
    train(recipe, tmp_path)
    with pytest.raises(RunError, match="holds another run: seed 0 there, 1 wanted; choose another"):
        train(replace(recipe, seed=1), tmp_path)
    optimiser = replace(recipe.optimiser, lr=1.0)
    with pytest.raises(RunError, match=r"optimiser.lr 0.0002 there, 1.0 wanted"):
        train(replace(recipe, optimiser=optimiser), tmp_path)
    store_recipe(tmp_path, replace(recipe, steps=9, workers=3, checkpoint_every=1))


def test_a_folder_without_a_checkpoint_holds_no_run_yet(tmp_path) -> None:
    recipe = RECIPES["alocc_town"]()
    store_recipe(tmp_path, replace(recipe, seed=1))
    town = replace(recipe.town, towns=3, size=(352, 198))
    other = replace(recipe, town=town, gate=None, bev=None).lasting(1600)
    store_recipe(tmp_path, other)
    assert stored_recipe(tmp_path, RECIPES) == other
    with pytest.raises(RunError, match=r"holds no run: it has no recipe.json"):
        stored_recipe(tmp_path / "nothing", RECIPES)
