"""Adaptive mixing against one query and group at a time in float64."""

from __future__ import annotations

import pytest
import torch

from occ_perception.ops import adaptive_mixing as family
from occ_perception.ops.backend import LinearMap, adaptive_mixing

E, G, P, C, MIXED = 12, 2, 5, 3, 4


def drawn(n: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    numbers = G * (C * C + MIXED * P)
    generate = LinearMap(draw(numbers, E), draw(numbers))
    return draw(n, G, P, C), draw(n, E), generate, LinearMap(draw(E, G * MIXED * C), draw(E))


def normalised(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()


def one_at_a_time(samples, query, generate, merge):
    samples, query = samples.double(), query.double()
    rows = []
    for x_GPC, q in zip(samples, query, strict=True):
        numbers = (generate.weight.double() @ q + generate.bias.double()).chunk(G)
        mixed = []
        for x, own in zip(x_GPC, numbers, strict=True):
            x = normalised(x @ own[: C * C].view(C, C)).relu()
            x = normalised(own[C * C :].view(MIXED, P) @ x).relu()
            mixed.append(x.flatten())
        rows.append(merge.weight.double() @ torch.cat(mixed) + merge.bias.double())
    return torch.stack(rows).float()


def test_result_is_that_of_single_queries_and_groups() -> None:
    arguments = drawn(7)
    torch.testing.assert_close(
        adaptive_mixing(*arguments), one_at_a_time(*arguments), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("at_once", [1, 3, 7, 100])
def test_blocks_do_not_show(monkeypatch, at_once: int) -> None:
    arguments = drawn(7)
    whole = adaptive_mixing(*arguments)
    monkeypatch.setitem(family._QUERIES_AT_ONCE, "cpu", at_once)
    torch.testing.assert_close(adaptive_mixing(*arguments), whole)


def test_gradients_reach_samples_queries_and_weights() -> None:
    samples, query, generate, merge = drawn(2)
    leaves = [t.double().requires_grad_() for t in (samples, query, *generate, *merge)]

    def op(samples, query, gw, gb, mw, mb):
        return adaptive_mixing(samples, query, LinearMap(gw, gb), LinearMap(mw, mb))

    assert torch.autograd.gradcheck(op, leaves)
