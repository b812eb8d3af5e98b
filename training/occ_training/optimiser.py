"""The optimiser of a run, and parameter groups with their own rate or kind of step."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from occ_training.muon import ORTHOGONAL, Muon
from occ_training.schedules import LearningRate

ParameterGroups = list[dict[str, Any]]

_SWIN_BLOCKS = (2, 2, 18, 2)
_SWIN_DECAY = 0.85
_SLOWER = 0.1

# Convolutions that end a part: their rows are classes, bins or values that others read as they are.
_ENDS = ("depth_logits", "heights.heights", "context_head", "flow.bins", "head.")
_FASTER = 2.0

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.")


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW, or Muon where ``groups`` sorts out parameters that take orthogonal steps.

    Attributes:
        lr: base learning rate.
        weight_decay: of all parameters, norms and biases included, as in the reference code.
        groups: sorts the parameters into groups with their own rate and decay; None = one group
            with the values above.
        clip_norm: gradients are scaled down to this L2 norm.
        schedule: of the learning rate.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-2
    groups: Callable[[nn.Module, Optimiser], ParameterGroups] | None = None
    clip_norm: float = 5.0
    schedule: LearningRate = field(default_factory=LearningRate)

    def build(self, net: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network's parameters."""
        groups: Any = net.parameters() if self.groups is None else list(self.groups(net, self))
        has_orthogonal = self.groups is not None and any(g.get(ORTHOGONAL) for g in groups)
        kind: Any = Muon if has_orthogonal else torch.optim.AdamW
        optimiser: torch.optim.Optimizer = kind(groups, lr=self.lr, weight_decay=self.weight_decay)
        return optimiser


def swin_layer(name: str) -> int:
    """Layer of a parameter of the Swin network: 0 the patches, 25 everything after the blocks.

    Args:
        name: of the parameter in the network.
    """
    last = sum(_SWIN_BLOCKS) + 1
    if not name.startswith("image.backbone."):
        return last
    if "patch_embed" in name or "absolute_pos_embed" in name:
        return 0
    block, downsample = _BLOCK.search(name), _DOWNSAMPLE.search(name)
    if block:
        return sum(_SWIN_BLOCKS[: int(block[1])]) + int(block[2]) + 1
    if downsample:
        return sum(_SWIN_BLOCKS[: int(downsample[1]) + 1])
    return last


def swin_layers(net: nn.Module, optimiser: Optimiser) -> ParameterGroups:
    """Groups whose rate falls by 0.85 per layer towards the images (BEiT, arXiv 2106.08254).

    Vectors (norms and biases) have no weight decay.
    """
    last = sum(_SWIN_BLOCKS) + 1
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        layer, decays = swin_layer(name), parameter.dim() > 1 and not name.endswith(".bias")
        group = groups.setdefault(
            (layer, decays),
            {
                "params": [],
                "lr": optimiser.lr * _SWIN_DECAY ** (last - layer),
                "weight_decay": optimiser.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


def backbone_slower(net: nn.Module, optimiser: Optimiser) -> ParameterGroups:
    """Groups with image backbone and sampling offsets at a tenth of the rate (SparseOcc)."""
    slow: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        gentle = "backbone." in name or "sampling_offset" in name
        (slow if gentle else fast).append(parameter)
    return [
        {"params": fast, "lr": optimiser.lr},
        {"params": slow, "lr": optimiser.lr * _SLOWER},
    ]


def hidden_orthogonal(net: nn.Module, optimiser: Optimiser) -> ParameterGroups:
    """Groups for Muon: weights between a network's ends take orthogonal steps of twice the rate."""
    hidden: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        is_hidden = parameter.dim() > 1 and not any(end in name for end in _ENDS)
        (hidden if is_hidden else rest).append(parameter)
    return [
        {"params": hidden, "lr": _FASTER * optimiser.lr, ORTHOGONAL: True},
        {"params": rest, "lr": optimiser.lr},
    ]
