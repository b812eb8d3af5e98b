"""Parameter groups of backbones that are fine-tuned more gently than the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from occ_training.recipe import Optimiser

_SWIN_BLOCKS = (2, 2, 18, 2)
_SWIN_DECAY = 0.85
_SLOWER = 0.1

_BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"stages\.(\d+)\.downsample\.")


def swin_layer(name: str) -> int:
    """Depth of a parameter of the Swin network: 0 the patches, 25 all that follows the blocks.

    Args:
        name: of the parameter in the whole network.
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


def swin_layers(net: nn.Module, optimiser: Optimiser) -> list[dict[str, Any]]:
    """The rate falls by 0.85 per layer towards the images (BEiT, arXiv 2106.08254).

    Vectors (norms and biases) do not decay.
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


def backbone_slower(net: nn.Module, optimiser: Optimiser) -> list[dict[str, Any]]:
    """The image backbone and the sampling offsets at a tenth of the rate (SparseOcc)."""
    slow: list[nn.Parameter] = []
    fast: list[nn.Parameter] = []
    for name, parameter in net.named_parameters():
        gentle = "backbone." in name or "sampling_offset" in name
        (slow if gentle else fast).append(parameter)
    return [
        {"params": fast, "lr": optimiser.lr},
        {"params": slow, "lr": optimiser.lr * _SLOWER},
    ]
