"""How a network is run: number formats, recorded graphs, compilation.

Only parts that declare it run in half precision, see :class:`occ_perception.nets.part.Part`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occ_perception.errors import OptionError
from occ_perception.models.inputs import NetInputs, Outputs
from occ_perception.models.postprocess import Decoded
from occ_perception.models.state import TemporalState
from occ_perception.nets.part import Part
from occ_perception.ops.backend import references_alone
from occ_perception.runtime.graphs import GraphStep

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
MODES = ("eager", "graph", "compile", "reference")
HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
"""Half precisions by name."""


@dataclass(frozen=True)
class Execution:
    """How a network is run.

    Attributes:
        precision: ``fp32`` is float32 throughout; ``tf32`` lets a GPU's matrix units round the
            factors of float32 products to 10 bits; ``fp16`` and ``bf16`` run those parts
            in half precision that may.
        mode: ``eager`` launches the network's operations one by one; ``graph`` replays them
            as one CUDA graph; ``compile`` lets torch compile the network, which takes minutes at
            the first step; ``reference`` is eager by the readable operations alone, without twins
            in compiled loops or kernels.
    """

    precision: str = "fp32"
    mode: str = "eager"

    def __post_init__(self) -> None:
        for what, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("execution", self.mode, MODES),
        ):
            if value not in known:
                raise OptionError(f"{what} must be one of {', '.join(known)}, got {value!r}")

    def __str__(self) -> str:
        return f"{self.precision}, {self.mode}"


@dataclass(frozen=True)
class PreparedStep:
    """A network's forward that is ready to run.

    Attributes:
        run: the step.
        reuses_memory: whether a state that it returned is overwritten by the step after the next.
    """

    run: Callable[[NetInputs, TemporalState], tuple[Outputs | Decoded, TemporalState]]
    reuses_memory: bool

    def __call__(
        self, inputs: NetInputs, state: TemporalState
    ) -> tuple[Outputs | Decoded, TemporalState]:
        """Outputs, or what they say, and the next state."""
        return self.run(inputs, state)


def prepared_step(net: nn.Module, execution: Execution) -> PreparedStep:
    """A network's forward as ``execution`` says; inputs, outputs and state stay float32.

    Args:
        net: in evaluation mode; it shares its parameters with the result and is not changed.
        execution: how.

    Raises:
        OptionError: graphs, and the network is not on a CUDA device.
    """
    run: Any = net
    if execution.precision in HALF:
        run = half_twin(net, HALF[execution.precision])
    if execution.mode == "compile":
        run = torch.compile(run, dynamic=False)

    def step(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        with matrix_units(execution.precision == "tf32"):
            outputs, next_state = run(inputs, state)
        return outputs, next_state

    if execution.mode == "reference":

        def readable(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
            with references_alone():
                return step(inputs, state)

        return PreparedStep(readable, reuses_memory=False)
    if execution.mode != "graph":
        return PreparedStep(step, reuses_memory=False)
    device = next(net.parameters()).device
    if device.type != "cuda":
        raise OptionError(
            f"execution graph needs a CUDA device, and the network is on {device}; use eager"
        )
    replay = GraphStep(step)

    def on_device(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        with torch.cuda.device(device):
            return replay(inputs, state)

    return PreparedStep(on_device, reuses_memory=True)


@contextmanager
def matrix_units(tf32: bool) -> Iterator[None]:
    """Lets a GPU round the factors of float32 products, or forbids it, while it is open.

    Torch's own default is yes for convolutions and no for matrix products.
    """
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = tf32
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def run_in_half(net: nn.Module, dtype: torch.dtype) -> None:
    """Let the parts that may compute in half precision; what they give is float32 again.

    Args:
        net: the network, whose parts are changed in place; parameters stay float32.
        dtype: of :data:`HALF`.
    """
    for part in half_parts(net).values():
        part.forward = _forward_in_half(part, dtype)


def half_twin(
    net: nn.Module, dtype: torch.dtype, names: Collection[str] | None = None
) -> nn.Module:
    """A second network over the same parameters with parts in half precision.

    Args:
        net: the network; it is not changed.
        dtype: of :data:`HALF`.
        names: of the parts, see :func:`half_parts`; None = all.
    """
    twin = copy.copy(net)
    twin._modules = {name: copy.copy(part) for name, part in net._modules.items()}
    for name, part in half_parts(twin).items():
        if names is None or name in names:
            part.forward = _forward_in_half(part, dtype)
    return twin


def half_parts(net: nn.Module) -> dict[str, Part]:
    """Parts of a network that may run in half precision, by name."""
    parts = dict(net.named_children())
    return {
        name: part for name, part in parts.items() if isinstance(part, Part) and part.runs_in_half
    }


def _forward_in_half(part: nn.Module, dtype: torch.dtype) -> Callable[..., Any]:
    forward = part.forward

    def forward_in_half(*arguments: Any, **options: Any) -> Any:
        device = next(part.parameters()).device
        with torch.autocast(device.type, dtype):
            output = forward(*arguments, **options)
        return _to_float32(output)

    return forward_in_half


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [_to_float32(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
