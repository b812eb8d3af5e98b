"""How a network is run: number formats and compilation.

Only convolutional parts run in half precision. What places pixels in the grid, warps or remembers
stays float32: a bfloat16 coordinate on a grid of 200 cells is off by half a cell.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from occ_perception.models.inputs import NetInputs, Outputs
from occ_perception.models.state import TemporalState

Step = Callable[[NetInputs, TemporalState], tuple[Outputs, TemporalState]]

PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
_CONVOLUTIONAL = ("image", "depth", "pre", "encoder", "height", "head")


@dataclass(frozen=True)
class Execution:
    """How a network is run.

    Attributes:
        precision: ``fp32`` is float32 throughout; ``tf32`` lets a GPU's matrix units round the
            factors of float32 products to 10 bits; ``fp16`` and ``bf16`` run the convolutional
            parts in half precision.
        compiled: whether torch compiles the network, which takes minutes at the first step.
    """

    precision: str = "fp32"
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )

    def __str__(self) -> str:
        return f"{self.precision}, {'compiled' if self.compiled else 'eager'}"


def prepared_step(net: nn.Module, device: torch.device, execution: Execution) -> Step:
    """A network's forward as ``execution`` says; inputs, outputs and state stay float32.

    Args:
        net: on ``device``, in evaluation mode; it shares its parameters with the result and is
            not changed.
        device: where it runs.
        execution: how.
    """
    dtype = _HALF.get(execution.precision)
    run: Any = net if dtype is None else _with_half_parts(net, device.type, dtype)
    if execution.compiled:
        run = torch.compile(run, dynamic=False)

    def step(inputs: NetInputs, state: TemporalState) -> tuple[Outputs, TemporalState]:
        with matrix_units(execution.precision == "tf32"):
            outputs, next_state = run(inputs, state)
        return outputs, next_state

    return step


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


def _with_half_parts(net: nn.Module, device_type: str, dtype: torch.dtype) -> nn.Module:
    """A second network over the same parameters whose convolutional parts run in ``dtype``."""
    twin = copy.copy(net)
    twin._modules = dict(net._modules)
    for name in _CONVOLUTIONAL:
        part = twin._modules.get(name)
        if part is not None:
            twin._modules[name] = _in_half(part, device_type, dtype)
    return twin


def _in_half(part: nn.Module, device_type: str, dtype: torch.dtype) -> nn.Module:
    twin = copy.copy(part)
    forward = part.forward

    def forward_in_half(*arguments: Any) -> Any:
        with torch.autocast(device_type, dtype):
            output = forward(*arguments)
        return _to_float32(output)

    twin.forward = forward_in_half
    return twin


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [_to_float32(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
