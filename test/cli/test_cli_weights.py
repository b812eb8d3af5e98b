"""``occ weights``: reports about a file's keys, and conversion to safetensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_streams import SMALL_MODEL, small_card
from typer.testing import CliRunner

from occ_perception.cli import app
from occ_perception.models.checkpoint import load_checkpoint
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.weight_files import WeightsError, file_checksum
from occ_perception.runtime.weights import load_model

NAME = "alocc_2d_mini"
CARD = get_card(NAME)


def occ(*arguments: object):
    return CliRunner().invoke(app, ["weights", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """The content of a released file, with random weights."""
    net = CARD.build()
    fill_random_weights(net, CARD, ":published")
    own = {checkpoint_key(key, CARD.names): value for key, value in net.state_dict().items()}
    return {**own, "view_transformer.dx": torch.tensor([0.4, 0.4, 6.4])}


@pytest.fixture
def file(tensors, tmp_path: Path) -> Path:
    path = tmp_path / "epoch_24_ema.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in tensors.items()}, "meta": {}}, path)
    return path


def test_every_key_of_a_file_that_fits_is_counted(file: Path, tensors) -> None:
    result = occ("check", file, "-m", NAME)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].split() == ["loaded", str(len(tensors) - 1)]
    assert "ignored: view_transformer.dx: grid constant, equal to the network's grid" in lines
    assert lines[-1] == f"{file} fits {NAME}"
    every = occ("check", file, "-m", NAME, "--all").output.splitlines()
    loaded = [line for line in every if line.startswith("loaded: ")]
    assert len(loaded) == len(tensors) - 1
    assert "loaded: img_backbone.conv1.weight -> image.backbone.conv1.weight" in loaded


def test_keys_that_do_not_fit_are_named_and_the_exit_code_is_1(tensors, tmp_path: Path):
    wrong = dict(tensors)
    del wrong["final_conv.conv.bias" if "final_conv.conv.bias" in wrong else "final_conv.bias"]
    wrong["extra.weight"] = torch.zeros(3)
    wrong["img_backbone.conv1.weight"] = torch.zeros(64, 3, 5, 5)
    torch.save(wrong, tmp_path / "wrong.pth")
    result = occ("check", tmp_path / "wrong.pth", "-m", NAME)
    assert result.exit_code == 1
    assert "missing: final_conv." in result.output
    assert "unexpected: extra.weight" in result.output
    assert "wrong shape: img_backbone.conv1.weight is (64, 3, 5, 5)" in result.output
    refused = occ("convert", tmp_path / "wrong.pth", "-m", NAME, "-o", tmp_path / "x.safetensors")
    assert refused.exit_code == 2 and "does not fit model" in refused.output
    assert not (tmp_path / "x.safetensors").exists()


def test_the_converted_file_is_the_same_network(file: Path, tensors, tmp_path: Path) -> None:
    out = tmp_path / "new" / "mini.safetensors"
    result = occ("convert", file, "-m", NAME, "-o", out)
    assert result.exit_code == 0, result.output
    stored = load_file(out)
    assert stored.keys() == tensors.keys()
    assert all(torch.equal(stored[key], tensors[key]) for key in tensors)
    with safe_open(out, framework="pt") as opened:
        assert opened.metadata()["model"] == NAME
    load_checkpoint(CARD.build(), CARD, out)
    again = occ("convert", file, "-m", NAME, "-o", out)
    assert again.exit_code == 2 and "nothing is overwritten" in again.output
    odd = occ("convert", file, "-m", NAME, "-o", tmp_path / "mini.pth")
    assert odd.exit_code == 2 and "ending in .safetensors" in odd.output


def test_a_kept_file_is_used_without_being_named_and_refused_when_changed(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path / "kept"))
    kept = tmp_path / "kept" / f"{CARD.config_stem}.pth"
    kept.parent.mkdir()
    kept.write_bytes(file.read_bytes())
    fetched = occ("fetch", NAME)  # the file exists, so there is no download
    assert fetched.exit_code == 0 and fetched.output.startswith(f"{kept}: already there, sha256 ")
    model = load_model(NAME)
    assert fetched.output.split()[-1].startswith(model.weights_id)
    with kept.open("ab") as stream:
        stream.write(b"!")
    with pytest.raises(WeightsError, match=r"recorded here.*fetch it again"):
        load_model(NAME)


def test_unreachable_hubs_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("OCC_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    result = occ("fetch", NAME)
    assert result.exit_code == 2 and len(result.output.splitlines()) == 1
    assert f"fetch {CARD.url} by hand and put it at {tmp_path / CARD.config_stem}.pth" in (
        result.output
    )


def test_a_file_without_a_name_is_recognised_by_its_keys(file: Path, tmp_path: Path) -> None:
    result = occ("check", file)
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(f"{file} has the keys of {NAME}")
    assert f"sha256 {file_checksum(file)}" in lines
    torch.save({"some.weight": torch.zeros(3)}, tmp_path / "other.pth")
    result = occ("check", tmp_path / "other.pth")
    assert result.exit_code == 1
    assert "has the keys of no model; --model NAME lists what differs" in result.output


def test_labels_of_a_frame_tell_whether_weights_have_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = small_card(rename=SMALL_MODEL)
    monkeypatch.setitem(MODELS, SMALL_MODEL, card)
    net = card.build()
    fill_random_weights(net, card, ":4")
    weights = {checkpoint_key(key, card.names): value for key, value in net.state_dict().items()}
    save_file(weights, tmp_path / "random.safetensors")
    result = occ("check", tmp_path / "random.safetensors", "-m", SMALL_MODEL, "--run")
    assert result.exit_code == 1
    assert "these labels are degenerate; expected 0.1 to 50 % occupied" in result.output
