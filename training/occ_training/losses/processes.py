"""Averages over data-parallel processes.

Gradients are averaged over processes, so a loss that is a sum divided by a count gives the same
step on any number of processes if the count is the *average* count of the processes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_over_processes(value: Tensor) -> Tensor:
    """The average of ``value`` over all processes, without gradient."""
    value = value.detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value /= torch.distributed.get_world_size()
    return value


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """``total / count`` over the global batch; zero with zero gradient if count is 0.

    Args:
        total: () sum over this process's samples.
        count: () number of terms in it.
    """
    average = mean_over_processes(count.to(total.dtype))
    return total / torch.where(average > 0, average, 1.0)
