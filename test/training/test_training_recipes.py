"""Schedules, slot sampling, recipes and run files: the definition of a run, without running it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import training_folders as folders
from occ_training.cli import app
from occ_training.data.records import DatasetError
from occ_training.initial_weights import load_initial_weights
from occ_training.losses.masks import MaskLossConfig
from occ_training.losses.terms import (
    TERMS,
    DepthBinaryCrossEntropy,
    DepthCrossEntropy,
    Velocities,
    VoxelMasks,
)
from occ_training.optimiser import swin_layer
from occ_training.recipe import Gate, RecipeError
from occ_training.recipes import RECIPES
from occ_training.run_file import changed, plain_values, read_run
from occ_training.run_folder import store_recipe, stored_recipe
from occ_training.sampler import SlotSampler, check_each_once, group_frames, shares
from occ_training.schedules import Averaging, CosineRampDown, LearningRate
from typer.main import get_command
from typer.testing import CliRunner

from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.weight_files import WeightsError, weights_path

CONFIGS = sorted((Path(__file__).parents[2] / "config/training").glob("*.yaml"))
# Commands with their options; a change affects users.
INTERFACE = {
    "fit": "RECIPE --out --data --labels --validation --frames --samples --cpu-hours --devices"
    " --nodes --accelerator --set",
    "pack": "RUN --frames --device --jobs --install",
    "eval": "MODEL --data --weights --random-weights --labels --sequence --part --save --json --csv"
    " --device --precision --execution --jobs --ray",
    "overfit": "--out --steps --voxels --precision --accelerator",
    "recipes": "NAME",
}


# --- schedules ------------------------------------------------------------------------------------


def test_warm_up_is_the_line_of_the_reference_code() -> None:
    rate = LearningRate(warm_up_steps=200, warm_up_from=0.001)
    for step in (0, 1, 57, 199):
        assert rate.factor(step) == pytest.approx(1 - (1 - step / 200) * (1 - 0.001))
    assert rate.factor(200) == rate.factor(10**6) == 1.0
    dropping = LearningRate(warm_up_steps=0, drops=(10, 20), drop_factor=0.2)
    assert [dropping.factor(s) for s in (9, 10, 20)] == pytest.approx([1.0, 0.2, 0.04])


def test_measured_depth_fades_as_half_a_cosine() -> None:
    fading = CosineRampDown(end=48030)
    assert fading.rate(0) == 1.0 and fading.rate(48031) == 0.0
    for step in (1, 12345, 48030):
        assert fading.rate(step) == pytest.approx((math.cos(math.pi * step / 48030) + 1) / 2)
    later = CosineRampDown(begin=16010, end=32020)
    assert later.rate(16010) == 1.0
    assert later.rate(24015) == pytest.approx(0.5)


def test_decay_of_the_average_is_that_of_the_reference_code() -> None:
    schedule = Averaging()
    assert schedule.decay(1) == pytest.approx(0.999 * (1 - math.exp(-10561 / 2000)))
    assert schedule.decay(10**6) == pytest.approx(0.999)


def test_the_rate_falls_along_a_cosine() -> None:
    rate = LearningRate(warm_up_steps=100, fall=CosineRampDown(begin=100, end=1000), fall_to=0.01)
    assert rate.factor(100) == 1.0
    assert rate.factor(550) == pytest.approx(0.505)
    assert rate.factor(1000) == pytest.approx(0.01) == rate.factor(5000)


# --- streams --------------------------------------------------------------------------------------

GROUPS = [range(0, 3), range(3, 8), range(8, 9), range(9, 13), range(13, 15)]


def stream(mine: range, slots: int = 4, first: int = 0, last: int = 40) -> list[list[int]]:
    steps = SlotSampler(GROUPS, slots, mine, seed=5, first_step=first, last_step=last)
    return [[visit[0] for visit in visits] for visits in steps]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_slots_see_the_same_on_any_number_of_processes(processes: int) -> None:
    each = 4 // processes
    parts = [stream(range(p * each, (p + 1) * each)) for p in range(processes)]
    joined = [[i for part in parts for i in part[step]] for step in range(40)]
    assert joined == stream(range(4))


def test_slots_walk_every_fourth_group_of_one_permutation_stream() -> None:
    generator = torch.Generator().manual_seed(5)
    order = [g for _ in range(20) for g in torch.randperm(5, generator=generator).tolist()]
    for slot, column in enumerate(zip(*stream(range(4)), strict=True)):
        expected = [i for group in order[slot::4] for i in GROUPS[group]]
        assert list(column) == expected[:40]


def test_a_stream_can_start_at_any_step() -> None:
    assert stream(range(4), first=17) == stream(range(4))[17:]
    visits = list(SlotSampler(GROUPS, 1, range(1), 0, 3, 5))
    assert [v[0][1] for v in visits] == [3, 4]  # the visit number is the step


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(DatasetError, match="5 groups of frames for 6 batch slots"):
        SlotSampler(GROUPS, 6, range(6), 0, 0, 1)


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_evaluation_distributes_every_sequence_once_and_evenly(processes: int) -> None:
    lengths = np.random.default_rng(1).integers(30, 42, 150)
    groups = group_frames(np.repeat(np.arange(150), lengths))
    assert [len(g) for g in groups] == lengths.tolist()
    dealt = shares(groups, processes)
    check_each_once([i for share in dealt for g in share for i in groups[g]], int(lengths.sum()))
    loads = [sum(len(groups[g]) for g in share) for share in dealt]
    assert max(loads) - min(loads) <= 42


@pytest.mark.parametrize("seen", [[0, 1], [0, 1, 2, 2], [0, 1, 2, 3]])
def test_a_frame_missing_or_seen_twice_is_an_error(seen: list[int]) -> None:
    check_each_once([2, 0, 1], 3)
    with pytest.raises(RuntimeError, match="the scores would be wrong"):
        check_each_once(seen, 3)


# --- recipes --------------------------------------------------------------------------------------


def test_every_model_of_the_zoo_has_a_recipe_for_it() -> None:
    missing, unknown = set(MODELS) - set(RECIPES), set(RECIPES) - set(MODELS)
    assert not missing, f"add {missing} to _MAKERS of occ_training/recipes.py"
    assert not unknown, f"{unknown} of occ_training/recipes.py are no models"
    assert all(RECIPES[name]().model == name for name in RECIPES)


@pytest.mark.parametrize(
    ("name", "steps", "batch", "history_from", "fading_end"),
    [
        ("alocc_2d_mini", 96_060, 16, 16_010, 48_030),
        ("alocc_flow_3d", 144_090, 16, 16_010, 48_030),
        ("bevdetocc_sf", 96_060, 16, 16_010, None),
        ("fbocc", 80_040, 32, 8_004, None),
        ("fbocc_gf", 80_040, 32, 0, None),
        ("alocc_3d_waymo", 118_560, 16, 19_760, 59_280),
        ("alocc_3d_gf", 96_060, 16, 0, 48_030),
        ("alocc_3d_surroundocc", 42_192, 16, 0, 10_548),
    ],
)
def test_recipes_have_the_reference_lengths(name, steps, batch, history_from, fading_end) -> None:
    recipe = RECIPES[name]()
    assert (recipe.steps, recipe.batch, recipe.history_from) == (steps, batch, history_from)
    assert (recipe.depth_fading and recipe.depth_fading.end) == fading_end


def test_true_motion_fades_as_in_the_reference_code() -> None:
    fading = RECIPES["alocc_flow_2d"]().motion_fading
    assert (
        fading
        == CosineRampDown(begin=16_010, end=32_020)
        == RECIPES["alocc_flow_3d"]().motion_fading
    )
    steps = (0, 16_010, 24_015, 32_020, 32_021)
    assert [fading.rate(step) for step in steps] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    with_flow = {name for name in RECIPES if get_card(name).config.predicts_flow} - {"alocc_town"}
    assert with_flow == {name for name, recipe in RECIPES.items() if recipe().motion_fading}
    only_depth = replace(RECIPES["alocc_flow_2d"](), terms=(DepthCrossEntropy(),))
    assert "labels" in only_depth.sample_options(get_card("alocc_flow_2d")).contents


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_load_what_their_terms_need(name: str) -> None:
    recipe, card = RECIPES[name](), get_card(name)
    contents = recipe.sample_options(card).contents
    for term in recipe.terms:
        assert set(term.contents) <= set(contents)
    assert ("previous_images" in contents) == (card.config.matches_images)
    if card.measures_depth:
        assert "depth" in contents


def test_a_run_over_fewer_samples_scales_its_schedules() -> None:
    recipe = replace(RECIPES["alocc_town"](), motion_fading=CosineRampDown(begin=1000, end=2000))
    short = recipe.lasting(recipe.steps * recipe.batch // 10)
    assert (short.steps, short.batch) == (recipe.steps // 10, recipe.batch)
    assert short.depth_fading == CosineRampDown(begin=0, end=round(recipe.depth_fading.end / 10))
    assert short.motion_fading == CosineRampDown(begin=100, end=200)
    assert short.gate == recipe.gate
    rates = [r.optimiser.schedule.factor for r in (recipe, short)]
    for share in (0.3, 0.6, 1.0):
        at = [round(share * r.steps) for r in (recipe, short)]
        assert rates[0](at[0]) == pytest.approx(rates[1](at[1]))
    assert recipe.lasting(recipe.steps * recipe.batch) == recipe
    shorter = RECIPES["alocc_2d"]().lasting(96_060 * 4)
    assert (shorter.steps, shorter.history_from) == (24_015, 4002)
    with pytest.raises(RecipeError, match="1 samples are fewer than a batch of 2"):
        recipe.lasting(1)


def test_the_demonstration_trains_on_the_town_and_has_a_gate() -> None:
    recipe = RECIPES["alocc_town"]()
    assert recipe.town is not None and recipe.gate is not None
    assert {name for name in RECIPES if RECIPES[name]().town} == {"alocc_town"}
    rate = recipe.optimiser.schedule.factor
    assert rate(40) == rate(0.6 * recipe.steps) == pytest.approx(1.0)
    assert rate(0.8 * recipe.steps) == pytest.approx(0.51)
    assert rate(recipe.steps) == pytest.approx(0.02)


def test_swin_layers_are_numbered_from_the_images() -> None:
    backbone = "image.backbone."
    assert swin_layer(f"{backbone}patch_embed.projection.weight") == 0
    assert swin_layer(f"{backbone}stages.0.blocks.0.norm1.weight") == 1
    assert swin_layer(f"{backbone}stages.2.blocks.17.ffn.fc1.weight") == 22
    assert swin_layer(f"{backbone}stages.2.downsample.reduction.weight") == 22
    assert swin_layer("depth.reduce.0.weight") == 25
    recipe, card = RECIPES["alocc_3d_depth_swin_b"](), get_card("alocc_3d_depth_swin_b")
    with torch.device("meta"):
        net = card.config.build()
    groups = recipe.optimiser.groups(net, recipe.optimiser)
    count = sum(len(group["params"]) for group in groups)
    assert count == len(list(net.parameters()))
    rates = {group["lr"] for group in groups}
    assert min(rates) == pytest.approx(2e-4 * 0.85**25) and max(rates) == pytest.approx(2e-4)


# --- run files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_run_files_can_be_read(path: Path) -> None:
    run = read_run(str(path), RECIPES)
    assert run.recipe.model in MODELS and run.data is not None


def test_changes_reach_into_parts_and_keep_kinds(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        "recipe: alocc_2d\ndata: d\nchanges: {batch: 4, bev: null, optimiser: {lr: 0.001}}\n"
    )
    run = read_run(str(file), RECIPES)
    assert (run.recipe.batch, run.recipe.bev, run.recipe.optimiser.lr) == (4, None, 0.001)
    assert run.recipe.steps == RECIPES["alocc_2d"]().steps


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_printed_recipe_is_a_run_file_that_changes_nothing(name: str, tmp_path) -> None:
    printed = CliRunner().invoke(app, ["recipes", name])
    assert printed.exit_code == 0, printed.output
    file = tmp_path / "run.yaml"
    file.write_text(printed.output)
    recipe = RECIPES[name]()
    assert plain_values(read_run(str(file), RECIPES).recipe) == plain_values(recipe)


def test_optional_parts_can_be_added_to_a_recipe() -> None:
    changes = {"gate": {"step": 100, "floor": 0.1}, "motion_fading": {"end": 10}}
    recipe = changed(RECIPES["alocc_2d"](), changes, "run.yaml")
    assert recipe.gate == Gate(step=100, floor=0.1)
    assert recipe.motion_fading == CosineRampDown(end=10)
    with pytest.raises(RecipeError, match=r"run.yaml, gate: .*'flor'"):
        changed(RECIPES["alocc_2d"](), {"gate": {"step": 1, "flor": 0.1}}, "run.yaml")


def test_terms_are_changed_added_and_taken_out_by_name(tmp_path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(
        """
recipe: alocc_2d
changes:
  terms:
    VoxelMasks: {points: {points: 100}}
    ImageMasks: null
    Velocities: {weight: 0.5}
    DepthBinaryCrossEntropy: {weight: 2}
"""
    )
    masks, *others = read_run(str(file), RECIPES).recipe.terms
    assert masks == VoxelMasks(points=MaskLossConfig(points=100))
    assert others == [
        DepthCrossEntropy(),
        Velocities(weight=0.5),
        DepthBinaryCrossEntropy(weight=2),
    ]


def test_every_term_of_a_recipe_has_a_name_in_run_files() -> None:
    used = {type(term) for recipe in RECIPES.values() for term in recipe().terms}
    assert used <= set(TERMS.values())


def test_a_run_with_other_terms_is_known_by_its_folder(tmp_path) -> None:
    terms = {"ImageMasks": None, "Velocities": {"weight": 0.5}}
    recipe = changed(RECIPES["alocc_2d"](), {"terms": terms}, "run.yaml")
    store_recipe(tmp_path, recipe)
    assert stored_recipe(tmp_path, RECIPES) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stepps": 1}, "'stepps' cannot be changed; fields that can: terms, steps, batch"),
        ({"steps": "many"}, "steps is 'many', expected something like 96060"),
        ({"terms": []}, "terms: expected terms by name, as in .* got \\[\\]"),
        ({"terms": {"Velocity": {}}}, "there is no term 'Velocity'; there are VoxelMasks, Image"),
        ({"terms": {"Velocities": 2}}, "terms: Velocities is 2, expected fields of it, or null"),
        ({"terms": {"ImageMasks": {"wait": 1}}}, "terms, ImageMasks: 'wait' cannot be changed"),
        ({"terms": {"DepthBinaryCrossEntropy": {}}}, "BinaryCrossEntropy: weight must be given"),
        ({"optimiser": {"momentum": 0.9}}, "optimiser: 'momentum' cannot be changed"),
        ({"synchronised_norms": 1}, "synchronised_norms is 1"),
    ],
)
def test_invalid_changes_name_what_is_possible(change, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        changed(RECIPES["alocc_2d"](), change, "run.yaml")


def test_unknown_recipes_and_fields_are_named(tmp_path) -> None:
    with pytest.raises(RecipeError, match="no recipe 'alocc_9d'; there are alocc_2d"):
        read_run("alocc_9d", RECIPES)
    file = tmp_path / "run.yaml"
    file.write_text("recipe: alocc_2d\ndatta: d\n")
    with pytest.raises(RecipeError, match="unknown datta; there are recipe, data"):
        read_run(str(file), RECIPES)


# --- command line ---------------------------------------------------------------------------------


def test_commands_and_options_are_frozen() -> None:
    commands = get_command(app).commands
    for name, words in INTERFACE.items():
        found = [
            p.opts[0] if p.param_type_name == "option" else p.name.upper()
            for p in commands[name].params
        ]
        assert found == words.split(), name


def test_recipes_are_listed_and_a_run_without_data_is_refused(tmp_path) -> None:
    listing = CliRunner().invoke(app, ["recipes"])
    assert listing.exit_code == 0
    assert "alocc_2d_mini: 96060 steps of 16, history from step 16010" in listing.output
    refused = CliRunner().invoke(app, ["fit", "alocc_2d_mini", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert refused.output.startswith("error: alocc_2d_mini names no data set: give --data")


def test_data_without_point_classes_is_trained_on_without_them(tmp_path, monkeypatch) -> None:
    """An ordinary lidar has no classes; the shipped run file must work for it."""
    trained = {}

    def train(recipe, dataset, *_, **__) -> Path:
        trained[len(trained)] = [type(term).__name__ for term in recipe.terms]
        assert ("point_classes" in dataset.options.contents) == ("ImageMasks" in trained[0])
        return tmp_path

    monkeypatch.setattr("occ_training.fit.fit", train)
    index = folders.town_index()
    plain = [replace(f, lidar=replace(f.lidar, semantics=None)) for f in index.frames]
    replace(index, frames=tuple(plain)).save(tmp_path / "plain")
    config = next(path for path in CONFIGS if path.stem == "own_data")
    options = ["fit", str(config), "--out", str(tmp_path), "--data"]
    result = CliRunner().invoke(app, [*options, str(tmp_path / "plain")])
    assert result.exit_code == 0, result.output
    assert "no frame of" in result.output and "trained without ImageMasks" in result.output
    assert trained == {0: ["VoxelMasks", "DepthCrossEntropy"]}


def test_initial_weights_can_be_the_stored_checkpoint_of_a_model(tmp_path, monkeypatch) -> None:
    """The run file for own recordings names the model, wherever its checkpoint is stored."""
    run = read_run(str(next(path for path in CONFIGS if path.stem == "own_data")), RECIPES)
    card = get_card(run.recipe.model)
    net = card.build()
    ours, weight = next(iter(net.named_parameters()))
    given = torch.full_like(weight, 3.0)
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="`occ weights fetch alocc_2d_mini` gets it"):
        load_initial_weights(net, card, run.recipe.initial_weights)
    torch.save({"state_dict": {checkpoint_key(ours, card.names): given}}, weights_path(card))
    summary = load_initial_weights(net, card, run.recipe.initial_weights)
    assert ": 1 of " in summary and torch.equal(weight, given)


def test_streams_are_endless() -> None:
    walk = SlotSampler(GROUPS, 4, range(4), 0, 0, 1).walk(3)
    assert len(list(islice(walk, 1000))) == 1000
