"""Deterministic weights for trying and testing a network without its checkpoint.

Each tensor is drawn from a generator seeded with its checkpoint key, so that any implementation
with the same names gets the same network; reference numbers are made with such weights.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import checkpoint_key

# The running variance of the camera code is scaled to the size of the raw numbers (focal lengths
# and principal point in pixels, crop offset), so that the normalised code stays near one.
_CAMERA_CODE_VARIANCE = np.array([1e6, 1e6, 1e6, 2.5e5, 1, 1, 1, 1, 1, 1e4] + [1] * 17)


def fill_random_weights(
    net: nn.Module, card: ModelCard, suffix: str = "", scale: Mapping[str, float] | None = None
) -> None:
    """Overwrite every parameter and every batch-norm statistic.

    Args:
        net: built from ``card``.
        card: gives the checkpoint keys.
        suffix: appended to each name before seeding; another suffix is another network.
        scale: checkpoint key -> factor on that tensor; names the net lacks are ignored.
    """
    factors = scale or {}
    parameters = dict(net.named_parameters(remove_duplicate=False))
    drawn: set[tuple[int, torch.Size]] = set()
    for our_key, tensor in net.state_dict(keep_vars=True).items():
        tied = (tensor.data_ptr(), tensor.shape)
        if our_key in parameters and tied in drawn:
            continue  # the first name of a shared tensor decides
        drawn.add(tied)
        name = checkpoint_key(our_key, card.names)
        value = _draw(name, tuple(tensor.shape), our_key in parameters, suffix)
        if value is None:
            continue
        value = value * factors.get(name, 1.0)
        if name == "depth_net.bn.running_var":
            value = value * _CAMERA_CODE_VARIANCE
        with torch.no_grad():
            tensor.copy_(torch.from_numpy(np.asarray(value)).to(tensor.dtype))


def _draw(
    name: str, shape: tuple[int, ...], is_parameter: bool, suffix: str
) -> np.ndarray | float | None:
    """The float64 value of one tensor before scaling, None for buffers that are constants."""
    rng = np.random.default_rng(zlib.crc32((name + suffix).encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "running_mean":
        return 0.1 * rng.standard_normal(shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape)
    if not is_parameter:
        return None
    if leaf in ("weight", "in_proj_weight") and len(shape) >= 2:
        return rng.standard_normal(shape) * math.sqrt(1 / np.prod(shape[1:]))
    if leaf == "weight":
        return rng.uniform(0.5, 1.5, shape)
    if leaf in ("bias", "in_proj_bias"):
        return 0.1 * rng.standard_normal(shape)
    return 0.5 * rng.standard_normal(shape)
