"""A network rewritten for running: the same function with less arithmetic and fewer copies.

Results differ from those of the plain network by rounding alone. A rewritten network has other
parameters than a checkpoint: it can neither be trained nor be saved as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from occ_perception.models.network import Network
from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.nets.occupancy_heads import SoftmaxPrototypeHead
from occ_perception.nets.part import Part

_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True, kw_only=True)
class Rewriting:
    """What was done to a network.

    Attributes:
        norms: how many batch norms went into the convolutions before them.
        head_merged: whether one convolution predicts the classes of every height.
        channels_last: whether 2-D maps are stored so.
        kept: what a part of the network says against more.
    """

    norms: int = 0
    head_merged: bool = False
    channels_last: bool = False
    kept: str = ""


def fold(net: Network, device: torch.device) -> Rewriting:
    """Rewrite a network in place, as far as its parts allow; see :class:`Part`.

    Args:
        net: in evaluation mode, with its final weights.
        device: where it will run.
    """
    parts = [part for part in net.modules() if isinstance(part, Part)]
    kept = next((part.keeps_weights for part in parts if part.keeps_weights), "")
    if kept:
        return Rewriting(kept=kept)
    kept = next((part.keeps_memory_order for part in parts if part.keeps_memory_order), "")
    # Vector units of CPUs read channels side by side; torch reorders every map otherwise.
    channels_last = device.type == "cpu" and not kept
    with torch.no_grad():
        norms, head_merged = fold_norms(net), merge_head(net)
        if channels_last:
            put_channels_last(net)
    return Rewriting(norms=norms, head_merged=head_merged, channels_last=channels_last, kept=kept)


def fold_norms(net: nn.Module) -> int:
    """Move batch norms into the convolutions before them; returns how many.

    Folded are neighbours in an ``nn.Sequential`` and what a :class:`Part` declares. A convolution
    that several modules share keeps its weights.
    """
    users = Counter(id(part) for _, part in net.named_modules(remove_duplicate=False))
    folded = 0
    for parent in list(net.modules()):
        for conv_name, norm_name in _pairs(parent):
            conv, norm = parent.get_submodule(conv_name), parent.get_submodule(norm_name)
            if (
                type(conv) in _CONVOLUTIONS
                and type(norm) in _NORMS
                and users[id(conv)] == users[id(norm)] == users[id(parent)]
            ):
                _fold_pair(conv, norm)
                setattr(parent, norm_name, nn.Identity())
                folded += 1
    return folded


def merge_head(net: Network) -> bool:
    """Let the convolution that predicts every height predict the classes, without the volume.

    Class logits are products of prototypes with the volume, which is a convolution of the map:
    one convolution with composed weights does both. Returns whether the network has such a head.
    """
    if not isinstance(net, OccupancyNet) or net.linear_head is None:
        return False
    height, head = net.linear_head
    prototypes_KC = head.prototypes().double()
    (channels, voxels), conv = height.shape, cast(Any, height.conv)
    per_channel = voxels * height.upscale**2
    weight = torch.einsum(
        "kc,czihw->kzihw", prototypes_KC, conv.weight.double().unflatten(0, (channels, per_channel))
    )
    bias = prototypes_KC @ conv.bias.double().view(channels, per_channel)
    if isinstance(head, SoftmaxPrototypeHead):
        bias = bias + head.bias.double()[:, None]
    conv.out_channels = bias.numel()
    _set(conv, weight.flatten(0, 1), bias.flatten())
    height.shape = (len(prototypes_KC), voxels)
    net.head = nn.Identity()
    return True


def put_channels_last(net: nn.Module) -> None:
    """Store the weights of 2-D convolutions channels last; their outputs then are so too."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.contiguous(memory_format=torch.channels_last)


def _pairs(parent: nn.Module) -> Iterable[tuple[str, str]]:
    if isinstance(parent, nn.Sequential):
        return pairwise(parent._modules)
    return parent.folds if isinstance(parent, Part) else ()


def _fold_pair(conv: Any, norm: Any) -> None:
    """In float64, so that folding itself rounds once."""
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = norm.bias.double() - norm.running_mean.double() * gain
    if conv.bias is not None:
        bias += conv.bias.double() * gain
    _set(conv, conv.weight.double() * gain.view(-1, *[1] * (conv.weight.dim() - 1)), bias)


def _set(conv: Any, weight: Tensor, bias: Tensor) -> None:
    dtype = conv.weight.dtype
    conv.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
