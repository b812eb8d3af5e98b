"""A network rewritten for running: the same function with less arithmetic and fewer copies.

Results differ from those of the plain network by rounding alone. A rewritten network has other
parameters than a checkpoint: it can neither be trained nor be saved as one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

_NETS = "occ_perception.nets."
_CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)

# Modules that apply a norm to the output of a convolution of theirs, and to nothing else. Names
# alone would not do: some modules use the weights of a convolution without calling it.
_PAIRS = {
    "aspp.ASPP": (("conv1", "bn1"),),
    "aspp.AtrousBranch": (("atrous_conv", "bn"),),
    "backbones.resnet.Bottleneck": (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    "backbones.resnet.ResNet": (("conv1", "bn1"),),
    "pyramid_encoder.BiasedBlock3d": (("conv1", "bn1"), ("conv2", "bn2")),
    "pyramid_encoder.NormedConv3d": (("conv", "bn"),),
    "residual.ResidualBlock2d": (("conv1", "bn1"), ("conv2", "bn2")),
    "voxel_encoder.ConvNorm3d": (("conv", "bn"),),
}


def fold(net: nn.Module, device: torch.device) -> None:
    """Rewrite a network in place; networks with stereo matching stay as they are.

    Args:
        net: in evaluation mode, with its final weights.
        device: where it will run.
    """
    if net._modules.get("stereo") is not None:
        # A plane sweep enlarges the rounding of the maps it compares a hundredfold (a sum over
        # all channels, a softmax without a temperature), beyond what parity allows.
        return
    with torch.no_grad():
        fold_norms(net)
        merge_head(net)
        # The maps that a backward projection refines are steep where they are warped: the order of
        # sums that goes with channels last moves single values there beyond what parity allows.
        if device.type == "cpu" and net._modules.get("refine") is None:
            # Vector units of CPUs read channels side by side; torch reorders every map otherwise.
            put_channels_last(net)


def fold_norms(net: nn.Module) -> None:
    """Move batch norms into the convolutions before them.

    Folded are neighbours in an ``nn.Sequential`` and the pairs of the modules known here. A
    convolution that several modules share keeps its weights.
    """
    users = Counter(id(part) for _, part in net.named_modules(remove_duplicate=False))
    for parent in list(net.modules()):
        children = parent._modules
        for conv_name, norm_name in _pairs(parent):
            conv, norm = children[conv_name], children[norm_name]
            if (
                type(conv) in _CONVOLUTIONS
                and type(norm) in _NORMS
                and users[id(conv)] == users[id(norm)] == users[id(parent)]
            ):
                _fold_pair(conv, norm)
                children[norm_name] = nn.Identity()


def merge_head(net: nn.Module) -> None:
    """Let the convolution that predicts every height predict the classes, without the volume.

    Class logits are products of prototypes with the volume, which is a convolution of the map:
    one convolution with composed weights does both. Only where no other part reads the volume.
    """
    parts: dict[str, Any] = net._modules
    height, head = parts.get("height"), parts.get("head")
    if height is None or head is None or parts.get("flow") is not None:
        return
    prototypes_KC = head.voxel_embed(head.norm(head.query.weight)).double()
    channels, cells = height.shape
    conv = height.conv
    weight = torch.einsum(
        "kc,czihw->kzihw", prototypes_KC, conv.weight.double().unflatten(0, (channels, cells))
    )
    bias = prototypes_KC @ conv.bias.double().view(channels, cells)
    conv.out_channels = bias.numel()
    _set(conv, weight.flatten(0, 1), bias.flatten())
    height.shape = (len(prototypes_KC), cells)
    parts["head"] = _Merged(head)


def put_channels_last(net: nn.Module) -> None:
    """Store the weights of 2-D convolutions channels last; their outputs then are so too."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.contiguous(memory_format=torch.channels_last)


class _Merged(nn.Module):
    """In the place of a head whose work an earlier part does."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.query = head.query

    def forward(self, logits_BKYXZ: Tensor) -> Tensor:
        return logits_BKYXZ


def _pairs(parent: nn.Module) -> Iterable[tuple[str, str]]:
    if isinstance(parent, nn.Sequential):
        return pairwise(parent._modules)
    kind = type(parent)
    return _PAIRS.get(f"{kind.__module__}.{kind.__name__}".removeprefix(_NETS), ())


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
