"""The training loop on frames of the town: state, resuming, processes, averages, precision."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from occ_training.checkpoints import finished_checkpoints
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.records import DatasetError
from occ_training.data.sample import collate
from occ_training.ema import WeightAverage, float_entries
from occ_training.evaluate import (
    add_counters,
    evaluate_frames,
    evaluation_options,
)
from occ_training.fit import fit
from occ_training.initial_weights import load_initial_weights
from occ_training.losses.flow import moving_voxels
from occ_training.module import OccupancyModule, freeze_norms, measured_depth_rate
from occ_training.optimiser import Optimiser
from occ_training.sampler import check_each_once, group_frames, shares
from occ_training.schedules import Averaging, CosineRampDown
from safetensors.torch import load_file
from small_networks import small_network
from small_training import small_card, small_recipe, town_index

from occ_perception.errors import OptionError
from occ_perception.metrics import Evaluation
from occ_perception.models.checkpoint import load_checkpoint
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.state import state_tensors
from occ_perception.models.zoo import get_card

RUN = Path(__file__).parents[1] / "small_training_run.py"


@pytest.fixture(scope="module")
def index_file(tmp_path_factory) -> Path:
    return town_index().save(tmp_path_factory.mktemp("town"))


def run(out: Path, index: Path, *options: str, status: int = 0) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(RUN), str(out), str(index), *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == status, done.stdout + done.stderr


def logged(out: Path, name: str = "loss") -> dict[int, float]:
    """Step -> value, from the CSV log."""
    with (out / "logs/csv/metrics.csv").open() as lines:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(lines) if row[name]}


def training_of(recipe, card):
    torch.manual_seed(0)
    return OccupancyModule(card.build(), card, recipe)


# --- resume and processes -------------------------------------------------------------------------


def test_a_killed_run_resumes_to_the_same_weights(tmp_path, index_file) -> None:
    """SIGKILL at step 5; the last checkpoint is of step 4."""
    run(tmp_path / "whole", index_file)
    run(tmp_path / "killed", index_file, "--kill-at", "5", status=-9)
    killed = finished_checkpoints(tmp_path / "killed/checkpoints")
    assert [path.name for path in killed] == ["step_0000002", "step_0000004"]
    with (tmp_path / "killed/logs/csv/metrics.csv").open("a") as log:
        log.write("0.1,0.2")  # a truncated line
    run(tmp_path / "killed", index_file)

    for file in ("weights.safetensors", "slot_0000.safetensors", "slot_0001.safetensors"):
        whole, resumed = (
            load_file(tmp_path / name / "checkpoints/step_0000006" / file)
            for name in ("whole", "killed")
        )
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole), file

    # The log has every step once.
    assert logged(tmp_path / "killed") == logged(tmp_path / "whole")
    for column in ("loss", "lr-AdamW"):
        with (tmp_path / "killed/logs/csv/metrics.csv").open() as lines:
            steps = [int(row["step"]) for row in csv.DictReader(lines) if row[column]]
        assert steps == list(range(6))


@pytest.mark.slow(ci=True)
def test_sigterm_ends_both_processes_with_a_checkpoint(tmp_path, index_file) -> None:
    """The signal reaches one of them, as from `kill`."""
    two = ("--devices", "2")
    stop = ("--kill-at", "3", "--signal", "SIGTERM")
    run(tmp_path, index_file, *two, *stop, status=143)
    stopped = finished_checkpoints(tmp_path / "checkpoints")
    assert [path.name for path in stopped] == ["step_0000002", "step_0000003"]
    run(tmp_path, index_file, *two)
    assert list(logged(tmp_path)) == list(range(6))


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path, index_file) -> None:
    """Gloo, the same global batch; norms keep their statistics, draws depend on the frame."""
    run(tmp_path / "one", index_file, "--by-sample")
    run(tmp_path / "two", index_file, "--by-sample", "--devices", "2")
    one, two = logged(tmp_path / "one"), logged(tmp_path / "two")
    assert list(one) == list(two) == list(range(6))
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-4)
    weights = [
        load_file(tmp_path / name / "checkpoints/step_0000006/weights.safetensors")
        for name in ("one", "two")
    ]
    apart = max(float((weights[0][k] - weights[1][k]).abs().max()) for k in weights[0])
    assert apart < 5e-4
    # One process resumes a checkpoint of two.
    run(tmp_path / "two", index_file, "--by-sample", "--steps", "8")
    assert list(logged(tmp_path / "two")) == list(range(8))


@pytest.mark.slow
def test_loader_processes_do_not_change_the_result(tmp_path, index_file) -> None:
    run(tmp_path / "own", index_file, "--steps", "3")
    run(tmp_path / "two", index_file, "--steps", "3", "--workers", "2")
    assert logged(tmp_path / "own") == logged(tmp_path / "two")


# --- one process ----------------------------------------------------------------------------------


def batches(recipe, card, steps: int):
    """The batches of the first steps, as the training loop loads them."""
    from occ_training.sampler import SlotSampler

    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    groups = group_frames(dataset.groups_F)
    stream = SlotSampler(groups, recipe.batch, range(recipe.batch), recipe.seed, 0, steps)
    return [collate([dataset[visit] for visit in visits]) for visits in stream]


def test_state_is_carried_and_started_slot_by_slot() -> None:
    card = small_card()
    recipe = small_recipe(history_from=0)
    training = training_of(recipe, card)
    training.net.eval()
    joint = batches(recipe, card, 4)
    assert [b.start_B.tolist() for b in joint] == [[True] * 2, [False] * 2, [False] * 2, [True] * 2]
    with torch.no_grad():
        for batch in joint:
            outputs = training(batch)
    assert training.slots.position_B.tolist() == [1, 1]
    # The last frame is the first of its sequence, so its output does not depend on the others.
    fresh = training_of(recipe, card)
    fresh.net.eval()
    with torch.no_grad():
        alone = fresh(joint[-1])
    assert torch.allclose(outputs.logits_BKXYZ, alone.logits_BKXYZ, atol=1e-5)


def test_without_history_every_frame_is_a_start_for_the_volume_but_not_for_flow() -> None:
    card = small_card()
    off, on = small_recipe(history_from=10**6), small_recipe(history_from=0)
    logits, flows = {}, {}
    for name, recipe in (("off", off), ("on", on)):
        training = training_of(recipe, card)
        training.net.eval()
        for batch in batches(recipe, card, 2):
            with torch.no_grad():
                outputs = training(batch)
        logits[name], flows[name] = outputs.logits_BKXYZ, training.slots.state.flow.map_BYXC
    fresh = training_of(off, card)
    fresh.net.eval()
    with torch.no_grad():
        alone = fresh(replace(batch, start_B=torch.tensor([True, True])))
    assert torch.allclose(logits["off"], alone.logits_BKXYZ, atol=1e-5)
    assert not torch.allclose(logits["on"], alone.logits_BKXYZ, atol=1e-3)
    # Flow still compares with the previous frame: its velocities are not those of a first frame.
    assert not torch.allclose(outputs.flow_BXYZ2, alone.flow_BXYZ2, atol=1e-6)


def test_the_state_keeps_no_graph() -> None:
    card, recipe = small_card(), small_recipe(history_from=0)
    training = training_of(recipe, card)
    for batch in batches(recipe, card, 2):
        training(batch)
    assert not any(t.requires_grad for t in state_tensors(training.slots.state).values())


def test_losses_are_those_of_the_terms_and_reach_every_parameter() -> None:
    card = small_card()
    recipe = small_recipe(history_from=0, depth_fading=None)
    training = training_of(recipe, card)
    (batch,) = batches(recipe, card, 1)
    losses = training.losses(batch, training(batch))
    assert set(losses) == {
        *("mask", "dice", "image_mask", "image_dice", "depth"),
        *("flow_bins", "flow", "flow_cosine"),
    }
    sum(losses.values()).backward()
    still = [n for n, p in training.net.named_parameters() if p.grad is None]
    assert still == []
    # Without classes of lidar points no trained parameter is left without a gradient.
    plain = training_of(recipe.without("point_classes"), card)
    losses = plain.losses(batch, plain(batch))
    assert not any("image" in name for name in losses)
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in plain.net.parameters() if p.requires_grad)


@pytest.mark.parametrize("precision", ["bf16"])
def test_half_precision_trains(tmp_path, precision: str) -> None:
    card = small_card()
    recipe = small_recipe(steps=2, precision=precision)
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    fit(recipe, dataset, tmp_path, card=card, accelerator="cpu", log_every=1, progress=False)
    values = logged(tmp_path)
    full = tmp_path / "full"
    fit(
        replace(recipe, precision="fp32"),
        dataset,
        full,
        card=card,
        accelerator="cpu",
        log_every=1,
        progress=False,
    )
    assert list(values.values()) == pytest.approx(list(logged(full).values()), rel=0.03)


def test_recomputing_does_not_change_gradients() -> None:
    card = small_card()
    gradients = []
    for names in ((), ("image.backbone", "encoder")):
        recipe = small_recipe(recomputed=names)
        training = training_of(recipe, card)
        freeze_norms(training.net)
        (batch,) = batches(recipe, card, 1)
        sum(training.losses(batch, training(batch)).values()).backward()
        gradients.append({n: p.grad for n, p in training.net.named_parameters()})
    plain, twice = gradients
    assert all(torch.allclose(plain[n], twice[n], rtol=1e-4, atol=1e-6) for n in plain)


def test_an_unknown_part_to_recompute_is_refused_with_similar_names() -> None:
    recipe = small_recipe(recomputed=("image.backbon",))
    with pytest.raises(OptionError, match=r"'image.backbon'.* similar names are .*image.back"):
        training_of(recipe, small_card())


def test_terms_that_the_network_does_not_support_are_refused() -> None:
    net = small_network(get_card("bevdetocc_sf"))
    with pytest.raises(ValueError, match=r"no prototypes .* leave the term ImageMasks out"):
        net.image_prototypes()
    with pytest.raises(ValueError, match=r"predicts no flow; leave the term Velocities out"):
        net.velocity_bins(torch.zeros(3, 32))
    assert net.image_embed is None


def test_measured_depth_fades_for_cameras_and_stays_for_depth_models() -> None:
    card = small_card()
    recipe = small_recipe(depth_fading=CosineRampDown(end=10))
    assert measured_depth_rate(card, recipe, 0) == 1.0
    assert measured_depth_rate(card, recipe, 5) == pytest.approx(0.5)
    assert measured_depth_rate(card, recipe, 11) is None
    with_sensor = replace(card, config=replace(card.config, measured_depth=True))
    assert measured_depth_rate(with_sensor, recipe, 11) == 1.0


def test_the_flow_head_gets_labels_of_two_frames_until_their_share_is_zero() -> None:
    card, recipe = small_card(), small_recipe()
    training = training_of(recipe, card)
    given = []
    training.net.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].motion))
    first, second, third, fourth = batches(recipe, card, 4)
    for batch, rate in ((first, 1.0), (second, 0.25)):
        training.slots.forward(batch, motion_rate=rate)
    assert [hint.rate for hint in given] == [1.0, 0.25]
    assert torch.equal(given[1].labels_BXYZ, second.labels_BXYZ)
    assert torch.equal(given[1].previous_labels_BXYZ, first.labels_BXYZ)
    assert not torch.equal(first.labels_BXYZ, second.labels_BXYZ)
    # Another process continues from the saved state of the slots.
    other = training_of(recipe, card)
    other.net.load_state_dict(training.net.state_dict())
    other.slots.restore(training.slots.tensors(), torch.device("cpu"))
    other.net.register_forward_pre_hook(lambda _, arguments: given.append(arguments[0].motion))
    other.slots.forward(third, motion_rate=0.25)
    assert torch.equal(given[-1].previous_labels_BXYZ, second.labels_BXYZ)
    other.slots.forward(fourth, motion_rate=0.0)
    assert given[-1] is None
    assert "labels" not in other.slots.tensors()
    with pytest.raises(DatasetError, match=r"no occupancy labels.*motion_fading"):
        other.slots.forward(replace(first, labels_BXYZ=None), motion_rate=1.0)


def test_motion_fading_replaces_the_matching_by_that_of_the_labels() -> None:
    card = small_card()
    recipe = small_recipe(history_from=0, depth_fading=None)
    flows = {}
    for fading in (None, CosineRampDown(begin=2, end=8)):
        training = training_of(replace(recipe, motion_fading=fading), card)
        freeze_norms(training.net)
        for batch in batches(recipe, card, 2):
            with torch.no_grad():
                outputs = training(batch)
        flows[fading is None] = outputs
    assert torch.equal(flows[True].logits_BKXYZ, flows[False].logits_BKXYZ)
    features = [outputs.flow_features_BCXYZ for outputs in flows.values()]
    assert not torch.allclose(*features, atol=1e-3)


def test_the_velocity_term_is_the_error_of_the_output() -> None:
    """Over voxels with a known velocity, against the output of the network at inference."""
    card = small_card()
    recipe = small_recipe(history_from=0, depth_fading=None, motion_fading=None)
    training = training_of(recipe, card)
    freeze_norms(training.net)
    for module in training.net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    with torch.no_grad():
        training.net.flow.predict[2].bias[2 * 60] += 5.0  # changes one component
    (batch,) = batches(recipe, card, 1)
    moves = (batch.labels_BXYZ < 11) & (batch.labels_BXYZ > 1)  # bicycle, bus, car ...
    flow_BXYZ2 = torch.where(moves[..., None], torch.tensor([3.0, -7.0]), batch.flow_BXYZ2)
    batch = replace(batch, flow_BXYZ2=flow_BXYZ2)
    with torch.no_grad():
        losses = training.losses(batch, training(batch))
    training.net.eval()
    with torch.no_grad():
        output = training(batch).flow_BXYZ2
    known = moving_voxels(batch.labels_BXYZ, flow_BXYZ2, card.labels)
    assert known.sum() > 10
    error = (output - flow_BXYZ2)[known]
    assert float(losses["flow"]) == pytest.approx(float(error.square().mean()), rel=1e-3)
    swapped = (output.flip(-1) - flow_BXYZ2)[known]
    assert float(losses["flow"]) != pytest.approx(float(swapped.square().mean()), rel=1e-2)


def test_averages_follow_the_formula() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    holder = type("Holder", (), {"net": net})()
    average = WeightAverage(Averaging(most=0.9, ramp=5.0, updates_at_start=3))
    average.on_train_start(None, holder)
    expected = {name: value.clone() for name, value in float_entries(net).items()}
    for update in range(1, 4):
        with torch.no_grad():
            for value in float_entries(net).values():
                value += torch.randn(value.shape)
        average.on_train_batch_end(None, holder)
        decay = 0.9 * (1 - torch.exp(torch.tensor(-(3 + update) / 5.0)))
        for name, value in float_entries(net).items():
            expected[name] = decay * expected[name] + (1 - decay) * value
    assert "1.running_mean" in expected and "1.num_batches_tracked" not in expected
    before = {name: value.clone() for name, value in float_entries(net).items()}
    with average.applied(net):
        assert all(torch.allclose(v, expected[n]) for n, v in float_entries(net).items())
    assert all(torch.equal(v, before[n]) for n, v in float_entries(net).items())


def test_weights_of_a_checkpoint_load_into_the_model(tmp_path) -> None:
    card = small_card()
    recipe = small_recipe(steps=1, averaging=None, optimiser=Optimiser(lr=0.01))
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    weights = fit(recipe, dataset, tmp_path, card=card, accelerator="cpu", progress=False)
    report = load_checkpoint(card.build(), card, weights)
    assert report.problems == []


def test_a_run_can_start_from_matching_tensors_of_another_network(tmp_path) -> None:
    card = small_card()
    net, other = card.build(), card.build()
    file = tmp_path / "detector.pth"
    tensors = {f"module.{checkpoint_key(k, card.names)}": v for k, v in other.state_dict().items()}
    fitting = [key for key in tensors if "img_backbone" in key]
    tensors = {key: tensors[key] for key in fitting} | {"module.bbox_head.weight": torch.ones(3)}
    tensors[fitting[0]] = torch.ones(7)
    torch.save({"state_dict": tensors}, file)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    summary = load_initial_weights(net, card, file)
    assert f"{len(fitting) - 1} of {len(before)} tensors loaded" in summary
    assert "1 have another shape" in summary
    after, source = net.state_dict(), other.state_dict()
    taken = {k for k in after if checkpoint_key(k, card.names) in {f[7:] for f in fitting[1:]}}
    assert all(torch.equal(after[k], source[k] if k in taken else before[k]) for k in after)


def test_too_few_sequences_for_the_batch_are_refused(tmp_path) -> None:
    card = small_card()
    recipe = small_recipe(batch=4)
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    with pytest.raises(DatasetError, match="3 groups of frames for 4 batch slots"):
        fit(recipe, dataset, tmp_path, card=card, accelerator="cpu", progress=False)


# --- evaluation -----------------------------------------------------------------------------------


def test_shares_of_any_number_of_processes_add_up_to_the_same_scores() -> None:
    card = small_card()
    torch.manual_seed(1)
    net = card.build()
    dataset = OccupancyDataset(town_index(), card, evaluation_options(card))
    reports = []
    for processes in (1, 2, 3):
        total = Evaluation(card.label_set, None, card.grid)
        seen = []
        for share in shares(group_frames(dataset.groups_F), processes):
            part = Evaluation(card.label_set, None, card.grid)
            seen += evaluate_frames(net, card, dataset, part, torch.device("cpu"), groups=share)
            add_counters(total, {n: part.part(n).counters() for n in part.metrics})
        check_each_once(seen, len(dataset))
        reports.append(total.report().to_json())
    assert reports[0] == reports[1] == reports[2]
    assert '"frames": 9' in reports[0]


def test_validation_during_training_does_not_change_it(tmp_path) -> None:
    card, recipe = small_card(), small_recipe(steps=2, validate_every=1)
    dataset = OccupancyDataset(town_index(), card, recipe.sample_options(card))
    held_out = OccupancyDataset(town_index(drives=1), card, evaluation_options(card))
    common = {"card": card, "accelerator": "cpu", "log_every": 1, "progress": False}
    fit(recipe, dataset, tmp_path / "plain", **common)
    fit(recipe, dataset, tmp_path / "seen", validation=held_out, **common)
    assert logged(tmp_path / "plain") == logged(tmp_path / "seen")
    assert sorted(p.name for p in (tmp_path / "seen/validation").glob("*.json")) == [
        "step_0000001.json",
        "step_0000002.json",
    ]
    assert len(logged(tmp_path / "seen", "val/camera_mask/mIoU")) == 2
