"""Which implementation of an operation runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from occ_perception.ops import backend, stereo_cost_numba
from occ_perception.ops.stereo_cost import stereo_cost as reference


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every call of the compiled loops."""
    calls: list[str] = []

    def count(*arguments: Tensor | float, **named: float) -> Tensor:
        calls.append("stereo_cost")
        return reference(*arguments, **named)

    monkeypatch.setattr(stereo_cost_numba, "stereo_cost", count)
    return calls


def example(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    current, previous = torch.rand(2, 1, 8, 2, 3, generator=generator)
    places = 2 * torch.rand(1, 2, 3, 4, 2, generator=generator)
    return current.to(dtype), previous.to(dtype), places.to(dtype)


def test_compiled_loops_run_in_single_precision_on_a_cpu(compiled_calls: list[str]) -> None:
    backend.stereo_cost(*example(), 5.0)
    backend.stereo_cost(*example(), outside_cost=5.0)
    assert len(compiled_calls) == 2


def test_the_reference_runs_where_they_cannot_read_the_tensors(compiled_calls: list[str]) -> None:
    class Traced(Tensor):
        pass

    current, previous, places = example()
    backend.stereo_cost(*example(torch.float64), 5.0)
    backend.stereo_cost(current.as_subclass(Traced), previous, places, 5.0)
    backend.stereo_cost(*(tensor.to("meta") for tensor in (current, previous, places)), 5.0)
    assert compiled_calls == []


def test_the_reference_runs_where_a_gradient_is_wanted(compiled_calls: list[str]) -> None:
    current, previous, places = example()
    current.requires_grad_()
    cost = backend.stereo_cost(current, previous, places, 5.0)
    assert cost.requires_grad and compiled_calls == []
    with torch.no_grad():
        backend.stereo_cost(current, previous, places, 5.0)
    assert len(compiled_calls) == 1


def test_without_numba_the_reference_runs(
    compiled_calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_HAS_NUMBA", False)
    assert torch.equal(backend.stereo_cost(*example(), 5.0), reference(*example(), 5.0))
    assert compiled_calls == []


def test_the_choice_leaves_a_graph_whole() -> None:
    """Where the reference runs, as on a GPU, torch.compile sees one graph."""
    arguments = example(torch.float64)
    compiled = torch.compile(backend.stereo_cost, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*arguments, 5.0), reference(*arguments, 5.0))


def test_it_is_documented_as_its_reference() -> None:
    assert backend.stereo_cost.__doc__ == reference.__doc__
