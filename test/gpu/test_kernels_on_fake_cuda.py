"""Which implementation of an operation runs on a GPU, and what exporters and compilers see."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from fake_cuda import DEVICE, NoCompilerError, register_guard
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from occ_perception.ops import backend

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.fixture(autouse=True)
def fake_gpu() -> Iterator[None]:
    """Tensors of a GPU that has shapes and no numbers."""
    try:
        register_guard()
    except NoCompilerError as reason:
        pytest.skip(str(reason))
    with FakeTensorMode(), torch.no_grad():
        yield


def on_fake_gpu(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    features, places = torch.empty(2, 1, 8, 2, 3, dtype=dtype), torch.empty(1, 2, 3, 4, 2)
    current, previous = features.to(DEVICE).unbind()
    return current, previous, places.to(DEVICE)


def operations(*arguments: Tensor) -> set[str]:
    """What torch is asked for."""
    return {str(node.target) for node in make_fx(operation)(*arguments).graph.nodes}


def operation(current: Tensor, previous: Tensor, places: Tensor) -> Tensor:
    return backend.stereo_cost(current, previous, places, 5.0)


class Network(torch.nn.Module):
    def forward(self, current: Tensor, previous: Tensor, places: Tensor) -> Tensor:
        return operation(current, previous, places)


KERNEL = "occ_perception.stereo_cost.default"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_kernel_runs_on_a_gpu(dtype: torch.dtype) -> None:
    arguments = on_fake_gpu(dtype)
    cost = operation(*arguments)
    assert (cost.shape, cost.dtype, cost.device) == ((1, 4, 2, 3), dtype, DEVICE)
    assert KERNEL in operations(*arguments)


def test_the_reference_runs_on_a_gpu_where_no_kernel_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KERNEL not in operations(*on_fake_gpu(torch.float64))
    with torch.enable_grad():
        assert KERNEL not in operations(on_fake_gpu()[0].requires_grad_(), *on_fake_gpu()[1:])
    monkeypatch.setattr(backend, "_HAS_TRITON", False)
    assert KERNEL not in operations(*on_fake_gpu())


@pytest.mark.parametrize("strict", [False, True])
def test_exporters_see_the_reference(strict: bool) -> None:
    program = torch.export.export(Network(), on_fake_gpu(), strict=strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert KERNEL not in targets
    assert not any("embedding_bag" in target for target in targets)  # other runtimes have none
    assert "aten.index.Tensor" in targets


def test_compilers_see_one_graph_with_the_kernel() -> None:
    graphs: list[str] = []

    def keep(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        graphs.append(graph.code)
        return graph

    torch.compile(operation, backend=keep, fullgraph=True, dynamic=False)(*on_fake_gpu())
    assert len(graphs) == 1 and "occ_perception.stereo_cost" in graphs[0]
