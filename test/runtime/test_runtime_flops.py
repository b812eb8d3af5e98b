"""Arithmetic counted on shapes: against the reference code's, by hand, and without numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from small_networks import small_network
from torch import nn

from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.flops import multiply_accumulates, network_without_data

USUAL = {"alocc_2d_mini", "alocc_3d"}
WHOLE_ZOO = [
    pytest.param(name, marks=() if name in USUAL else pytest.mark.slow)
    for name in MODELS
    if not name.endswith("_nomask")
]


PUBLISHED = Path(__file__).resolve().parents[2] / "benchmarks/reference_code_cpu.yaml"


def published_gmac(stem):
    figures = yaml.safe_load(PUBLISHED.read_text())["models"].get(stem)
    return figures["GMAC"] if figures else pytest.skip(f"nothing was measured for {stem}")


@pytest.mark.parametrize("name", WHOLE_ZOO)
def test_no_network_computes_more_than_the_published_code(name):
    card = get_card(name)
    gmac = multiply_accumulates(network_without_data(card))["total"] / 1e9
    assert gmac > 10
    published = published_gmac(card.config_stem)
    assert 0.8 * published < gmac < 1.01 * published


def test_history_is_counted_as_its_layers():
    """Gradient-descent fusion by hand: 1x1 layers over all voxels, and the scene's matrices."""
    net = small_network(get_card("alocc_3d_gf"))
    counted = multiply_accumulates(net)["temporal"]
    X, Y, Z = net.config.geometry.grid.dims
    C, voxels = 32, X * Y * Z
    motion, project, fuse = 3 * C, 2 * C * C, 2 * C * C
    scene = 3 * C * C + 2 * C * C  # three products for the gradient, two with the query
    assert counted == pytest.approx(voxels * (motion + project + fuse + scene), rel=0.05)


def test_a_network_without_data_has_the_sizes_of_the_real_one():
    card = get_card("alocc_2d_mini")
    shapes = network_without_data(card)
    assert all(tensor.is_meta for tensor in shapes.state_dict().values())
    assert {k: t.shape for k, t in shapes.state_dict().items()} == {
        k: t.shape for k, t in card.build().state_dict().items()
    }


def test_counting_changes_nothing():
    net = small_network(get_card("alocc_2d_mini"))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    counts = multiply_accumulates(net)
    assert counts["total"] == pytest.approx(sum(v for k, v in counts.items() if k != "total"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert isinstance(net.image.backbone.conv1.weight, nn.Parameter)
    assert not net.image.backbone.conv1.weight.is_meta
