"""The checker end to end, on the trimmed reference file and on files made here."""

from __future__ import annotations

import json
from pathlib import Path

import check
import numpy as np
import pytest
import torch
from golden_file import GoldenFile, synthetic_image
from taps import tapped

from occ_perception.models.postprocess import decode

GOLDEN = Path(__file__).parent / "golden"
MINI = GOLDEN / "alocc_2d_mini_r50_256x704_bevdet_preatrain_16f.npz"


def test_alocc_2d_mini_reproduces_the_reference_numbers(capsys):
    assert check.main([str(MINI)]) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = [line for line in lines if "equal" in line]
    assert len(labels) == 5 and all(" ok   labels " in line for line in labels)
    assert any(line.startswith("  f2 ok   history_warped") for line in lines)
    assert lines[-1].strip() == "passed"


def arrays_of(path):
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def single_frame(arrays, **meta):
    """The arrays of frame 0 only, so that a check takes one forward."""
    kept = {name: a for name, a in arrays.items() if name.startswith("f0/")}
    described = {**json.loads(str(arrays["meta"])), "sequence": [0], **meta}
    return {**kept, "meta": np.array(json.dumps(described))}


def test_wrong_labels_and_a_wrong_intermediate_give_status_one(tmp_path, capsys):
    arrays = single_frame(arrays_of(MINI))
    arrays["f0/labels"] = arrays["f0/labels"].transpose(1, 0, 2)
    arrays["f0/view_transformer|v"] = arrays["f0/view_transformer|v"].copy()
    arrays["f0/view_transformer|v"][3] += 1.0
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)
    assert check.main([str(path)]) == 1
    failed = [line.split()[2] for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert failed[:2] == ["view_transformer", "labels"]


def test_an_intermediate_that_nothing_gives_is_not_passed_over(tmp_path, capsys):
    arrays = single_frame(arrays_of(MINI))
    for part in "vis":
        arrays[f"f0/new_module|{part}"] = arrays[f"f0/img_neck.0|{part}"]
    arrays["f0/new_module|shape"] = arrays["f0/img_neck.0|shape"]
    path = tmp_path / "unknown.npz"
    np.savez(path, **arrays)
    assert check.main([str(path)]) == 1
    assert "add a row to taps.py" in capsys.readouterr().out


def test_a_configuration_outside_the_zoo_is_refused_by_name(tmp_path, capsys):
    path = tmp_path / "other.npz"
    np.savez(path, **single_frame(arrays_of(MINI), config="some_other_net"))
    assert check.main([str(path)]) == 2
    message = capsys.readouterr().err
    assert "'some_other_net' is of no model in the zoo" in message
    assert "alocc_2d_mini_r50" in message


def test_files_that_are_missing_or_something_else_are_named(tmp_path, capsys):
    text, arrays = tmp_path / "text.npz", tmp_path / "arrays.npz"
    text.write_text("no archive")
    np.savez(arrays, a=np.zeros(3))
    for path in ("no/such.npz", str(text), str(arrays)):
        assert check.main([path]) == 2
        assert f"{path} is no golden file" in capsys.readouterr().err


def recorded(path, meta, template):
    """Write a golden file of our own network for the sizes and weights of ``meta``."""
    arrays = {name: a for name, a in template.items() if "/in/" in name}
    images = np.stack(
        [synthetic_image(meta["seed"], 0, 0, c, *meta["input_size"]) for c in range(meta["n_cams"])]
    )
    arrays["f0/in/img_check"] = np.array(
        [images.mean(), images.std(), images[0, 0, 5, 7], images[-1, 2, -3, -9]]
    )
    arrays["meta"] = np.array(json.dumps(meta))
    np.savez(path, **arrays)
    golden = GoldenFile(path)
    net = golden.build()
    with torch.no_grad(), tapped(net) as caught:
        outputs, _ = net(golden.inputs(0, torch.device("cpu")), net.initial_state(1))
    logits_KYXZ = outputs.logits_BKXYZ[0].transpose(1, 2)
    index = np.array([3, 7, 300, logits_KYXZ[0].numel()])
    at = (index[0] + index[1] * np.arange(index[2])) % index[3]
    arrays["f0/logits|v"] = logits_KYXZ.flatten(1)[:, at].numpy()
    arrays["f0/logits|i"] = index
    arrays["f0/logits|shape"] = np.array(logits_KYXZ.shape)
    arrays["f0/labels"] = decode(outputs, golden.card).labels_BXYZ[0].numpy()
    for name, tensor in caught.items():
        flat = tensor.double().flatten()
        arrays[f"f0/{name}|v"] = tensor.flatten()[::3].numpy()
        arrays[f"f0/{name}|i"] = np.array([0, 3, len(tensor.flatten()[::3]), flat.numel()])
        arrays[f"f0/{name}|s"] = np.array([flat.mean(), flat.std(), flat.abs().max()])
        arrays[f"f0/{name}|shape"] = np.array(tensor.shape)
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def other_sizes():
    template = single_frame(arrays_of(MINI))
    meta = json.loads(str(template["meta"]))
    meta.update(
        input_size=[64, 96],
        grid_x=[-20.0, 12.0, 1.0],
        grid_y=[-8.0, 8.0, 1.0],
        seed=5,
        weight_suffix=":other",
    )
    return template, meta


def test_non_square_grids_and_other_weights_are_checked(tmp_path, other_sizes, capsys):
    template, meta = other_sizes
    path = tmp_path / "other.npz"
    arrays = recorded(path, meta, template)
    assert arrays["f0/labels"].shape == (32, 16, 16)
    assert check.main([str(path)]) == 0
    meta["weight_suffix"] = ""
    np.savez(path, **{**arrays, "meta": np.array(json.dumps(meta))})
    assert check.main([str(path)]) == 1
    assert "FAIL img_backbone.0" in capsys.readouterr().out
