"""How the parts of a network compute while it is trained: number format, memory against time."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from occ_perception.errors import OptionError
from occ_perception.runtime.execution import HALF, run_in_half

PRECISIONS = ("fp32", *HALF)


def recompute(net: nn.Module, names: tuple[str, ...]) -> None:
    """Let sub-modules be computed again in the backward pass instead of kept (1604.06174).

    Batch norms inside see every batch twice, and move their running statistics twice; the
    published training does the same.

    Raises:
        OptionError: the network has no sub-module of one of these names.
    """
    modules = dict(net.named_modules())
    for name in names:
        if name not in modules:
            near = ", ".join(get_close_matches(name, modules) or dict(net.named_children()))
            raise OptionError(
                f"recomputed of the recipe names {name!r}, which the network does not have; near "
                f"it there are {near}. Correct the name, or leave it out"
            )
        module = modules[name]
        module.forward = _twice(module.forward)


def compute_in(net: nn.Module, precision: str) -> None:
    """Let the parts that may compute in half precision; what they give is float32 again.

    Args:
        net: the network, changed in place; its parameters stay float32.
        precision: ``fp32``, ``bf16`` or ``fp16``.

    Raises:
        OptionError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision in HALF:
        run_in_half(net, HALF[precision])


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
