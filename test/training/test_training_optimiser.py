"""Muon against the singular value decomposition and torch's AdamW; who gets which step."""

from __future__ import annotations

import copy

import pytest

pytest.importorskip("lightning.pytorch")

import torch
from occ_training.muon import ORTHOGONAL, Muon, orthogonalised
from occ_training.optimiser import Optimiser, hidden_orthogonal
from occ_training.recipes import RECIPES
from torch import nn

from occ_perception.models.zoo import get_card


def kernels(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 40, 1), nn.Conv2d(40, 3, 1))


@pytest.mark.parametrize("shape", [(24, 100), (100, 24), (32, 32)])
def test_a_matrix_becomes_orthogonal_and_keeps_its_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    got = orthogonalised(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = left @ right
    # A square random matrix has singular values near 0, which five iterations do not bring to 1.
    if shape[0] != shape[1]:
        values = torch.linalg.svdvals(got)
        assert values.min() > 0.6 and values.max() < 1.25
    assert nn.functional.cosine_similarity(got.flatten(), exact.flatten(), dim=0) > 0.95
    torch.testing.assert_close(orthogonalised(1e-3 * matrix), got, rtol=1e-3, atol=1e-4)


def test_a_gradient_of_zeros_stays_zero() -> None:
    assert not orthogonalised(torch.zeros(3, 5)).any()


def take_steps(net: nn.Module, optimiser: torch.optim.Optimizer, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for parameter in net.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimiser.step()


def test_other_parameters_take_the_steps_of_adamw() -> None:
    ours, theirs = kernels(), kernels()
    take_steps(ours, Muon(ours.parameters(), lr=1e-2, weight_decay=0.1), 5, 2)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1, foreach=False)
    take_steps(theirs, reference, 5, 2)
    for got, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_an_orthogonal_step_is_as_long_as_one_of_adamw() -> None:
    weight = nn.Parameter(torch.zeros(40, 10, 3, 3))
    optimiser = Muon([{"params": [weight], ORTHOGONAL: True}], lr=1.0)
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    optimiser.step()
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2, rel=0.15)
    # Downhill.
    assert (weight.detach() * weight.grad).sum() < 0


def test_a_restored_optimiser_goes_on_as_the_first_would_have() -> None:
    nets = kernels(), kernels(seed=9)

    def muon(net: nn.Module) -> Muon:
        first, *rest = net.parameters()
        return Muon([{"params": [first], ORTHOGONAL: True}, {"params": rest}], lr=1e-2)

    first, second = (muon(net) for net in nets)
    take_steps(nets[0], first, 3, 4)
    nets[1].load_state_dict(nets[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for net, optimiser in zip(nets, (first, second), strict=True):
        take_steps(net, optimiser, 2, 5)
    for got, expected in zip(nets[1].parameters(), nets[0].parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_the_town_network_takes_orthogonal_steps_between_its_ends() -> None:
    net = get_card("alocc_town").build()
    recipe = RECIPES["alocc_town"]()
    optimiser = recipe.optimiser.build(net)
    assert isinstance(optimiser, Muon)
    names = {parameter: name for name, parameter in net.named_parameters()}
    hidden, rest = (
        [names[p] for p in group["params"]] for group in hidden_orthogonal(net, recipe.optimiser)
    )
    assert len(hidden) + len(rest) == len(names) and not set(hidden) & set(rest)
    assert "image.backbone.conv.weight" in hidden and "height.conv.weight" in hidden
    for end in ("depth.depth_logits.weight", "depth.heights.heights.weight", "flow.bins.weight"):
        assert end in rest
    assert [g["lr"] for g in optimiser.param_groups] == [5e-3, 2.5e-3]


def test_without_orthogonal_groups_it_is_adamw() -> None:
    assert isinstance(Optimiser().build(kernels()), torch.optim.AdamW)
    assert isinstance(RECIPES["sparseocc_even"]().optimiser.build(kernels()), torch.optim.AdamW)
