"""Loading a model: one source of weights, named in every prediction; errors that say what to do."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from occ_perception.errors import OptionError
from occ_perception.models.card import ModelError
from occ_perception.models.checkpoint import CheckpointError
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card
from occ_perception.runtime.weight_files import WeightsError
from occ_perception.runtime.weights import checked_device, load_model

NAME = "alocc_2d_mini"


@pytest.fixture(autouse=True)
def nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path / "no-weights"))


def test_without_weights_the_error_names_the_published_file_and_the_way_out() -> None:
    with pytest.raises(WeightsError, match="no pretrained weights were given") as caught:
        load_model(NAME)
    message = str(caught.value)
    assert str(get_card(NAME).url) in message
    assert "--random-weights SEED" in message and "meaningless" in message
    assert f"occ weights fetch {NAME}" in message
    assert "\n" not in message


def test_two_sources_of_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="not both"):
        load_model(NAME, tmp_path / "model.pth", random_seed=1)


def test_unknown_models_missing_files_and_absent_devices_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"did you mean .*alocc_2d"):
        load_model("alocc_9d", random_seed=1)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        load_model(NAME, tmp_path / "nowhere.pth")
    with pytest.raises(OptionError, match="'warp' cannot be used"):
        load_model(NAME, random_seed=1, device="warp")
    if not torch.cuda.is_available():
        with pytest.raises(OptionError, match="'cuda:0' cannot be used"):
            checked_device("cuda:0")


def test_auto_finds_a_device_that_works() -> None:
    device = checked_device("auto")
    assert torch.ones(2, device=device).sum().item() == 2


def test_random_weights_follow_the_seed() -> None:
    first, again, other = (load_model(NAME, random_seed=seed) for seed in (1, 1, 2))
    assert first.weights_id == "random:1" and first.label == f"{NAME}@random:1"
    assert not first.net.training
    for (key, a), b, c in zip(
        first.net.state_dict().items(),
        again.net.state_dict().values(),
        other.net.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(a, b)
        if key.endswith("weight"):
            assert not torch.equal(a, c)


def test_a_file_gives_its_checksum_and_its_weights(tmp_path: Path) -> None:
    card = get_card(NAME)
    net = card.build()
    fill_random_weights(net, card, ":3")
    path = tmp_path / "mine.safetensors"
    save_file({checkpoint_key(k, card.names): t for k, t in net.state_dict().items()}, path)
    loaded, drawn = load_model(NAME, path), load_model(NAME, random_seed=3)
    assert loaded.weights_id == hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    assert loaded.report is not None and len(loaded.report.loaded) == len(net.state_dict())
    for (key, tensor), expected in zip(
        loaded.net.state_dict().items(), drawn.net.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, expected), key
