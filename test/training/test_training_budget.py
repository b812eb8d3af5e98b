"""CPU hours become a number of samples when a run begins, and stay that number."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from occ_training import cpu
from occ_training.budget import samples_in, seconds_per_sample
from occ_training.cpu import cpu_precision
from occ_training.data.dataset import OccupancyDataset
from occ_training.recipes import RECIPES
from small_training import small_town_card, town_index


@pytest.fixture(scope="module")
def material():
    card = small_town_card()
    recipe = replace(RECIPES["alocc_town"](), town=None, batch=2, gate=None)
    dataset = OccupancyDataset(town_index(drives=2, frames=2), card, recipe.sample_options(card))
    return recipe, dataset, card


def test_hours_divided_by_the_time_of_a_sample(material, tmp_path) -> None:
    recipe, dataset, card = material
    seconds = seconds_per_sample(recipe, dataset, card)
    assert 0.005 < seconds < 30
    samples = samples_in(1.0, recipe, dataset, card, tmp_path)
    assert samples % recipe.batch == 0
    assert math.isclose(samples, 3600 / seconds, rel_tol=0.5)  # two measurements
    assert samples_in(1e-9, recipe, dataset, card, tmp_path) == recipe.batch


def test_a_run_that_has_begun_keeps_its_number(material, tmp_path) -> None:
    recipe, dataset, card = material
    (tmp_path / "recipe.json").write_text(json.dumps({"steps": 123}))
    (tmp_path / "checkpoints/step_0000001").mkdir(parents=True)
    assert samples_in(1.0, recipe, dataset, card, tmp_path) == 246


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_a_half_precision_is_for_cpus_that_have_it(monkeypatch, has_bf16, expected) -> None:
    monkeypatch.setattr(
        torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bf16, raising=False
    )
    assert cpu_precision("bf16") == expected
    assert cpu_precision("fp32") == cpu_precision("fp16") == "fp32"
    assert not cpu.is_on_cpu("gpu") and cpu.is_on_cpu("cpu")
