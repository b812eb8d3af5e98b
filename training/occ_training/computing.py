"""How the parts of a network compute while it is trained: number format, memory against time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = ("fp32", *HALF)

# Only these: what places pixels in the grid, warps or remembers stays float32, as at run time.
_CONVOLUTIONAL = ("image", "depth", "pre", "encoder", "height", "head")


def recompute(net: nn.Module, names: tuple[str, ...]) -> None:
    """Let sub-modules be computed again in the backward pass instead of kept (1604.06174).

    Batch norms inside see every batch twice, and move their running statistics twice; the
    published training does the same.

    Raises:
        AttributeError: the network has no sub-module of that name.
    """
    for name in names:
        module = net.get_submodule(name)
        module.forward = _twice(module.forward)


def compute_in(net: nn.Module, precision: str) -> None:
    """Let the convolutional parts compute in half precision; what they give is float32 again.

    Args:
        net: the network, changed in place; its parameters stay float32.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        ValueError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision not in HALF:
        return
    for name in _CONVOLUTIONAL:
        part = getattr(net, name, None)
        if isinstance(part, nn.Module):
            part.forward = _in_half(part, HALF[precision])


def freeze_norms(net: nn.Module) -> None:
    """Batch norms use and keep the statistics they have."""
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _twice(forward: Any) -> Any:
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return checkpointed


def _in_half(part: nn.Module, dtype: torch.dtype) -> Any:
    forward = part.forward

    def forward_in_half(*args: Any, **kwargs: Any) -> Any:
        device = next(part.parameters()).device
        with torch.autocast(device.type, dtype):
            output = forward(*args, **kwargs)
        return _float32(output)

    return forward_in_half


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [_float32(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
