"""Checkpoints: every key accounted for, everything wrong listed, nothing loaded half."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from occ_perception.models.checkpoint import (
    CheckpointError,
    load_checkpoint,
    match_keys,
    read_tensors,
)
from occ_perception.models.checkpoint_keys import checkpoint_key, current_key, unwrapped_key
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card

CARD = get_card("alocc_2d_mini")
GRID = {
    "view_transformer.dx": torch.tensor([0.4, 0.4, 6.4]),
    "view_transformer.bx": torch.tensor([-39.8, -39.8, 2.2]),
    "view_transformer.nx": torch.tensor([200.0, 200.0, 1.0]),
}


@pytest.fixture(scope="module")
def published():
    """What a released file holds, with weights of the recipe."""
    net = CARD.build()
    fill_random_weights(net, CARD, ":published")
    own = {checkpoint_key(key, CARD.names): value for key, value in net.state_dict().items()}
    return {**own, **GRID}


@pytest.fixture
def net():
    return CARD.build()


def saved(tmp_path, content, name="model.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def assert_filled(net, published):
    for key, value in net.state_dict().items():
        assert torch.equal(value, published[checkpoint_key(key, CARD.names)]), key


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: {"state_dict": tensors, "meta": {"epoch": 24, "time": "a date"}},
        lambda tensors: {"ema_state_dict": tensors, "state_dict": {}},
        lambda tensors: {f"module.{key}": value for key, value in tensors.items()},
        lambda tensors: {"state_dict": {f"teacher.module.{k}": v for k, v in tensors.items()}},
    ],
    ids=["bare", "state_dict", "averaged", "data parallel", "teacher"],
)
def test_every_wrapping_loads(tmp_path, net, published, wrap):
    report = load_checkpoint(net, CARD, saved(tmp_path, wrap(published)))
    assert_filled(net, published)
    assert len(report.loaded) == len(net.state_dict())
    assert report.ignored == dict.fromkeys(GRID, "grid constant, equal to the network's grid")
    assert report.renamed["final_conv.weight"] == "height.conv.weight"
    assert report.problems == []


def test_safetensors_load(tmp_path, net, published):
    path = tmp_path / "model.safetensors"
    save_file(published, path)
    load_checkpoint(net, CARD, path)
    assert_filled(net, published)


def test_everything_wrong_is_listed_and_nothing_is_loaded(tmp_path, net, published):
    before = {key: value.clone() for key, value in net.state_dict().items()}
    broken = dict(published)
    del broken["final_conv.bias"]
    broken["final_conv.gamma"] = torch.zeros(3)
    broken["alocc_head.query_feat.weight"] = torch.zeros(17, 32)
    broken["view_transformer.bx"] = torch.tensor([-49.75, -49.75, -1.0])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(net, CARD, saved(tmp_path, {"state_dict": broken}))
    message, report = str(caught.value), caught.value.report
    assert report.missing == ("final_conv.bias",)
    assert report.unexpected == ("final_conv.gamma",)
    assert report.wrong_shape == {"alocc_head.query_feat.weight": ((17, 32), (19, 32))}
    assert list(report.wrong_grid) == ["view_transformer.bx"]
    for word in (
        "4 problems",
        "missing: final_conv.bias",
        "unexpected: final_conv.gamma",
        "(17, 32), the network has (19, 32)",
        "-49.75",
        CARD.config_stem,
    ):
        assert word in message
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


def test_a_file_of_another_model_is_named_as_that(tmp_path, net):
    other = get_card("bevdetocc_gf")
    with torch.device("meta"):
        shapes = {
            checkpoint_key(key, other.names): value.shape
            for key, value in other.build().state_dict().items()
        }
    # One number in memory for each tensor: the file is small.
    path = saved(tmp_path, {key: torch.zeros(()).expand(shape) for key, shape in shapes.items()})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(net, CARD, path)
    assert str(caught.value) == (
        f"{path} does not fit model {CARD.name}: these are the keys of bevdetocc_gf. "
        f"Choose that model, or a checkpoint of {CARD.config_stem}"
    )


def test_a_file_of_the_model_without_history_does_not_fit_the_one_with_it(tmp_path, net, published):
    shorter = {k: v for k, v in published.items() if not k.startswith("history_")}
    with pytest.raises(CheckpointError, match="the keys of alocc_2d_mini_surroundocc") as caught:
        load_checkpoint(net, CARD, saved(tmp_path, shorter))
    assert "history_keyframe_time_conv.0.weight" in caught.value.report.missing


def test_tensors_that_only_a_file_has_are_ignored_with_the_reason():
    card = get_card("fbocc")
    net = card.build()
    tensors = {checkpoint_key(key, card.names): value for key, value in net.state_dict().items()}
    unused = "backward_projection.transformer.cams_embeds"
    report = match_keys(net, card, {**tensors, unused: torch.zeros(6, 80)})
    assert report.problems == []
    assert list(report.ignored) == [unused] and "multiplied by zero" in report.ignored[unused]
    assert len(report.loaded) == len(net.state_dict())
    assert match_keys(net, card, tensors).problems == []


class Bomb:
    def __reduce__(self):
        return (print, ("this must never be printed",))


def test_a_pickle_that_runs_code_is_refused(tmp_path, net, capsys):
    path = saved(tmp_path, {"state_dict": {"weight": Bomb()}})
    with pytest.raises(CheckpointError, match=r"refused.*print\), .*could run code") as refusal:
        load_checkpoint(net, CARD, path)
    assert "weights_only" not in str(refusal.value)
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.pth", b"PK\x03\x04 cut short"),
        ("text.pth", b"not a checkpoint at all"),
        ("empty.pth", b""),
        ("old.pth", pickle.dumps([1, 2, 3])),
        ("cut.safetensors", b"\x10\x00"),
    ],
)
def test_files_that_are_no_checkpoints_are_named(tmp_path, net, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(net, CARD, path)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><title>404</title>",
        b'{"error": "Unauthorized"}',
        b"",
    ],
    ids=["page", "answer", "nothing"],
)
def test_what_came_instead_of_a_checkpoint_is_shown(tmp_path, content):
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"not a checkpoint file: it starts with") as refusal:
        read_tensors(path)
    assert repr(content[:20])[:-1] in str(refusal.value)
    assert "run code" not in str(refusal.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    with pytest.raises(CheckpointError, match=r"is a Git LFS pointer .* `git lfs pull`"):
        read_tensors(path)


# A name that is cut short is another name than the allowed one.
_UNREADABLE = r"not a readable checkpoint \(.+\)|was refused: .* plain values \(\S+\)"


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_a_file_cut_anywhere_is_not_readable(tmp_path, is_zip):
    whole = tmp_path / "whole.pth"
    tensors = {f"layer.{k}": torch.arange(8.0) for k in range(20)}
    torch.save({"state_dict": tensors}, whole, _use_new_zipfile_serialization=is_zip)
    content = whole.read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(10, len(content) - 200, 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=_UNREADABLE) as refusal:
            read_tensors(path)
        assert "weights_only" not in str(refusal.value)


def test_a_checkpoint_without_tensors_says_what_it_holds(tmp_path, net):
    with pytest.raises(CheckpointError, match=r"holds no state_dict.*'epoch'"):
        load_checkpoint(net, CARD, saved(tmp_path, {"epoch": 3}))


def test_missing_file(tmp_path, net):
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*gone\.pth"):
        load_checkpoint(net, CARD, tmp_path / "gone.pth")


def test_a_name_that_is_there_twice_is_refused(tmp_path, net, published):
    key = "final_conv.weight"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    path = saved(tmp_path, {**published, f"module.{key}": published[key] + 1})
    with pytest.raises(
        CheckpointError, match=rf"1 times: {key} and module\.{key}\. It is unclear which set"
    ):
        load_checkpoint(net, CARD, path)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_one_tensor_under_two_names_may_not_have_two_values():
    card = get_card("alocc_2d")
    net = card.build()
    own = {checkpoint_key(key, card.names): value for key, value in net.state_dict().items()}
    first, second = (f"depth_net.{b}_conv.0.downsample.weight" for b in ("depth", "occ"))
    assert own[first].data_ptr() == own[second].data_ptr()
    assert match_keys(net, card, own).problems == []
    (problem,) = match_keys(net, card, {**own, second: own[second] + 1}).problems
    assert problem.startswith("different values: ") and first in problem and second in problem


def test_names_from_before_the_renaming_load(tmp_path, net, published):
    old = {k.replace("view_transformer", "forward_projection"): v for k, v in published.items()}
    old = {k.replace("alocc_head", "maskformerocc_head"): v for k, v in old.items()}
    assert old.keys() != published.keys()
    assert load_checkpoint(net, CARD, saved(tmp_path, old)).problems == []
    assert_filled(net, published)


@pytest.mark.parametrize(
    ("old", "current"),
    [
        ("module.forward_projection.dx", "view_transformer.dx"),
        ("depth_net.depth2occ_hidden_bias_net.0", "depth_net.depth2occ_inter_bias_net.0"),
        ("depth_net.depth2occ_hidden_weight_net.0", "depth_net.depth2occ_inter_weight_net.0"),
        ("ttt_layer_func_after_his.ttt_q.", "scene_his_func_after_vox_his.scene_his_q."),
    ],
)
def test_old_names_become_current(old, current):
    assert current_key(old) == current and current_key(current) == current


def test_prefixes_are_stripped_wherever_wrappers_put_them():
    assert unwrapped_key("teacher.module._orig_mod.final_conv.bias") == "final_conv.bias"
    assert unwrapped_key("final_conv.bias") == "final_conv.bias"


def test_a_module_without_a_rule_is_noticed():
    with pytest.raises(KeyError, match=r"no checkpoint key for refine\.conv\.weight"):
        checkpoint_key("refine.conv.weight")
