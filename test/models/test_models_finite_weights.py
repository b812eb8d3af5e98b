"""Weights that are NaN or infinite are refused by name; counters that no network reads may lack."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from occ_training.initial_weights import load_initial_weights
from safetensors.torch import save_file
from typer.testing import CliRunner

from occ_perception.cli import app
from occ_perception.models.checkpoint import (
    CheckpointError,
    checkpoint_report,
    convert_checkpoint,
    load_checkpoint,
)
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card
from occ_perception.runtime.weights import load_model

CARD = get_card("alocc_2d_mini")
COUNTER = "num_batches_tracked"


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    net = CARD.build()
    fill_random_weights(net, CARD, ":published")
    return {checkpoint_key(key, CARD.names): value for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def diverged(published, tmp_path_factory) -> Path:
    """Two tensors with values that are no numbers, one of them a statistic of a norm."""
    tensors = {key: value.clone() for key, value in published.items()}
    tensors["img_backbone.conv1.weight"][0, 0, 0, :2] = math.nan
    tensors["img_backbone.bn1.running_var"][3] = -math.inf
    path = tmp_path_factory.mktemp("diverged") / "model.safetensors"
    save_file(tensors, path)
    return path


def test_every_tensor_that_is_not_finite_is_named(diverged: Path) -> None:
    report = checkpoint_report(CARD, diverged)
    counts = {"img_backbone.conv1.weight": 2, "img_backbone.bn1.running_var": 1}
    assert report.not_finite == counts
    assert len(report.problems) == 2


def test_such_a_file_is_refused_wherever_weights_are_read(diverged: Path, tmp_path: Path) -> None:
    net = CARD.build()
    kept = {key: value.clone() for key, value in net.state_dict().items()}
    says = r"img_backbone\.conv1\.weight has 2 values that are NaN or infinite"
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(net, CARD, diverged)
    with pytest.raises(CheckpointError, match=says):
        load_initial_weights(net, CARD, diverged)
    assert all(torch.equal(value, kept[key]) for key, value in net.state_dict().items())
    with pytest.raises(CheckpointError, match=says):
        convert_checkpoint(CARD, diverged, tmp_path / "converted.safetensors")
    assert not list(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match=says):
        load_model(CARD.name, diverged)
    result = CliRunner().invoke(app, ["weights", "check", str(diverged), "--model", CARD.name])
    assert result.exit_code == 1 and "not finite: img_backbone.conv1.weight" in result.output


def test_a_file_without_the_counters_of_norms_loads(published, tmp_path: Path) -> None:
    bare = {key: value for key, value in published.items() if not key.endswith(COUNTER)}
    assert len(bare) < len(published)
    save_file(bare, tmp_path / "model.safetensors")
    net = CARD.build()
    report = load_checkpoint(net, CARD, tmp_path / "model.safetensors")
    assert report.missing == () and len(report.loaded) == len(bare)
    own = net.state_dict()
    ours = {checkpoint_key(key, CARD.names): key for key in own}
    assert all(torch.equal(own[ours[key]], value) for key, value in bare.items())
    del bare["img_backbone.bn1.running_mean"]
    save_file(bare, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing: img_backbone\.bn1\.running_mean"):
        load_checkpoint(net, CARD, tmp_path / "model.safetensors")
