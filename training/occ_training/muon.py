"""Muon: weights take steps whose singular values are all one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

ORTHOGONAL = "orthogonal"
"""Key of parameter groups that take orthogonal steps; the others take those of AdamW."""

# Odd polynomial a x + b x^3 + c x^5 that drives singular values towards 1 (Jordan et al. 2024).
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# An orthogonal step has about the root mean square of one of AdamW (arXiv 2502.16982, section 2.2).
_ADAMW_RMS = 0.2


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for weights, AdamW for everything else.

    Muon (Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024), with
    Nesterov momentum, decoupled weight decay, and steps scaled to those of AdamW (arXiv
    2502.16982), so that one learning rate suits both. The kernel of a convolution is the matrix
    (out, in * height * width). Torch and timm have the same optimiser; theirs computes in bfloat16,
    which takes ten times as long on a CPU without instructions for it.

    Args:
        groups: parameter groups with ``params``, and ``lr``, ``weight_decay`` or ``orthogonal``
            where they differ from the defaults. Parameters of orthogonal groups have at least two
            dimensions.
        lr: learning rate.
        weight_decay: times the learning rate.
        momentum: of orthogonal steps.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        groups: Iterable[Any],
        lr: float,
        weight_decay: float = 1e-2,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "betas": betas,
            "eps": eps,
            ORTHOGONAL: False,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; parameters without a gradient stay."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._orthogonal_update if group[ORTHOGONAL] else self._adamw_update
            for weight in group["params"]:
                if weight.grad is not None:
                    change = update(weight, weight.grad, group)
                    weight.mul_(1.0 - group["lr"] * group["weight_decay"])
                    weight.add_(change, alpha=-group["lr"])
        return loss

    def _orthogonal_update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        average: Tensor = state["momentum"].lerp_(grad, 1.0 - group["momentum"])
        matrix = grad.lerp(average, group["momentum"]).flatten(1)
        scale = _ADAMW_RMS * math.sqrt(max(matrix.shape))
        return scale * orthogonalised(matrix).view_as(weight)

    def _adamw_update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[weight]
        if not state:
            state["steps"] = 0
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["steps"] += 1
        first, second = group["betas"]
        mean: Tensor = state["mean"].lerp_(grad, 1.0 - first)
        square: Tensor = state["square"].mul_(second).addcmul_(grad, grad, value=1.0 - second)
        mean = mean / (1.0 - first ** state["steps"])
        square = square / (1.0 - second ** state["steps"])
        change: Tensor = mean / (square.sqrt() + group["eps"])
        return change


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values of one, roughly: they end between 0.7 and 1.2.

    Args:
        matrix: (rows, columns) float32.
    """
    is_tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = matrix.mT if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    return x.mT if is_tall else x
