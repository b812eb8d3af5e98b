"""SparseOcc with every weight of the full one on 64x96 images, 32 x 32 x 16 voxels, few kept."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from small_networks import INPUT_SIZE

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import ModelCard
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.sparseocc.net import SparseOcc, SparseOccConfig
from occ_perception.models.zoo import get_card
from occ_perception.nets.sparse.mask_points import DrawsConfig

GRID = VoxelGrid((-6.4, -6.4, -1.0), (0.4, 0.4, 0.4), (32, 32, 16))
KEEP = (64, 128, 256)


def small_config(name: str = "sparseocc", draws: DrawsConfig | None = None) -> SparseOccConfig:
    """The recipe's parts at small size."""
    config = get_card(name).resized(INPUT_SIZE, GRID).config
    layers = tuple(
        replace(layer, keep=keep, keep_in_training=2 * keep)
        for layer, keep in zip(config.voxels.layers, KEEP, strict=True)
    )
    return replace(
        config,
        voxels=replace(config.voxels, layers=layers),
        masks=replace(config.masks, draws=draws or config.masks.draws),
    )


def small_sparse_card(name: str = "sparseocc") -> ModelCard:
    """The card of the small network."""
    return replace(get_card(name), config=small_config(name))


def small_sparse(name: str = "sparseocc", draws: DrawsConfig | None = None) -> SparseOcc:
    """The network with recipe weights, without gradients."""
    net = small_config(name, draws).build().eval().requires_grad_(False)
    net.load_state_dict(_weights())
    return net


@cache
def _weights() -> dict[str, torch.Tensor]:
    """Drawn once: 80 million numbers take seconds."""
    net = small_config().build()
    fill_random_weights(net, get_card("sparseocc"))
    return net.state_dict()
