"""Moving average of the weights during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from occ_training.schedules import Averaging


class WeightAverage(pl.Callback):
    """Moving average of parameters and of float buffers (batch statistics).

    Every process keeps its own average; they are equal because the weights are. Lightning's
    ``EMAWeightAveraging`` resumes as exactly, but it starts from the weights after the first step,
    where the reference code starts from the initial weights, and it leaves the averaged weights in
    the network at the end. timm's ``ModelEmaV3`` has other warm-ups of the decay.

    Args:
        schedule: of the decay.
    """

    def __init__(self, schedule: Averaging) -> None:
        self._schedule = schedule
        self._updates = 0
        self._average: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the current weights, or continue the average of a checkpoint."""
        del trainer
        current = float_entries(_network(pl_module))
        if not self._average:
            self._average = {name: value.clone() for name, value in current.items()}
        self._average = {n: self._average[n].to(value.device) for n, value in current.items()}

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """``average = decay * average + (1 - decay) * weights``."""
        del trainer
        self._updates += 1
        decay = self._schedule.decay(self._updates)
        current = float_entries(_network(pl_module))
        average = [self._average[name] for name in current]
        torch._foreach_lerp_(average, list(current.values()), 1.0 - decay)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"updates": self._updates, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._updates = state_dict["updates"]
        self._average = dict(state_dict["average"])

    @contextmanager
    def applied(self, net: nn.Module) -> Iterator[None]:
        """Context in which the network has the averaged weights."""
        current = float_entries(net)
        kept = {name: value.clone() for name, value in current.items()}
        try:
            _overwrite(current, self._average)
            yield
        finally:
            _overwrite(current, kept)


def _network(module: pl.LightningModule) -> nn.Module:
    assert isinstance(module.net, nn.Module)
    return module.net


def float_entries(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and float buffers by name, as views of the live tensors; shared ones once."""
    seen: set[int] = set()
    entries = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            entries[name] = tensor.detach()
    return entries


@torch.no_grad()
def _overwrite(target: dict[str, Tensor], source: dict[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
