"""From fine voxels to masks with a class each.

Legend: B batch, Q queries (one per mask), V voxels, E width of a query, K classes without free
space, G channel groups, P places per group.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.sparse.frame_history import Frames
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.mask_points import DrawsConfig, SeededDrawsConfig, pick_voxels
from occ_perception.nets.sparse.sampling import FeedForward, FrameSampling, LookConfig, Mixing
from occ_perception.nets.sparse.voxel_decoder import VoxelLevel


class MaskPrediction(NamedTuple):
    """Masks over the voxels of the finest level.

    Attributes:
        class_logits_BQK: class of each mask; none means none of them.
        mask_logits_BQV: voxel by voxel.
    """

    class_logits_BQK: Tensor
    mask_logits_BQV: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskDecoderConfig:
    """Queries and how often they look.

    Attributes:
        look: what a query takes from the images.
        draws: how the voxels that it looks from are chosen.
        queries: number of masks.
        rounds: how often the one layer is applied.
        classes: without free space.
        width: of a query.
        hidden: width inside the feed-forward part.
        heads: attention heads among the queries.
    """

    look: LookConfig
    draws: DrawsConfig = field(default_factory=SeededDrawsConfig)
    queries: int = 100
    rounds: int = 2
    classes: int = 17
    width: int = 256
    hidden: int = 512
    heads: int = 8

    def build(self, geometry: SparseGeometry) -> MaskDecoder:
        """The module for a grid."""
        return MaskDecoder(self, geometry)


class MaskDecoder(nn.Module):
    """Voxels and frames to masks, guided by the masks before (SparseOcc, arXiv 2312.17118,
    section 3.3). One layer is applied in every round; the first prediction comes before it."""

    dims_3: Tensor

    def __init__(self, config: MaskDecoderConfig, geometry: SparseGeometry) -> None:
        super().__init__()
        self.config = config
        self.query = nn.Embedding(config.queries, config.width)
        self.place = nn.Embedding(config.queries, config.width)
        self.layer = MaskLayer(config, geometry)
        picks = config.look.groups * config.look.points
        self.draws = config.draws.build(config.rounds, config.queries, picks)
        self.register_buffer("dims_3", torch.tensor(geometry.grid.dims), persistent=False)

    def forward(self, voxels: VoxelLevel, frames: Frames) -> tuple[MaskPrediction, ...]:
        """One prediction before the first round and one after each."""
        B = voxels.corner_BV3.shape[0]
        query_BQE = self.query.weight.expand(B, -1, -1)
        predictions = [self.layer.predict(query_BQE, voxels)]
        for round_number in range(self.config.rounds):
            inside_BQV = predictions[-1].mask_logits_BQV.detach() > 0
            draws = self.draws(round_number, B)
            picks = pick_voxels(inside_BQV, voxels.corner_BV3, draws, self.dims_3)
            query_BQE = self.layer(query_BQE, self.place.weight, picks, frames)
            predictions.append(self.layer.predict(query_BQE, voxels))
        return tuple(predictions)


class MaskLayer(nn.Module):
    """Queries look at each other, then into the images from the voxels of their masks."""

    lower_3: Tensor
    voxel_3: Tensor

    def __init__(self, config: MaskDecoderConfig, geometry: SparseGeometry) -> None:
        super().__init__()
        E = config.width
        self.config = config
        grid = geometry.grid
        self.attend = nn.MultiheadAttention(E, config.heads, batch_first=True)
        self.norm1 = nn.LayerNorm(E)
        self.sampling = FrameSampling(E, config.look, geometry)
        self.mixing = Mixing(E, config.look)
        self.norm2 = nn.LayerNorm(E)
        self.feed_forward = FeedForward(E, config.hidden)
        self.norm3 = nn.LayerNorm(E)
        self.mask = nn.Linear(E, E)
        self.classify = nn.Linear(E, config.classes)
        self.register_buffer("lower_3", torch.tensor(grid.lower), persistent=False)
        self.register_buffer("voxel_3", torch.tensor(grid.voxel_size), persistent=False)

    def predict(self, query_BQE: Tensor, voxels: VoxelLevel) -> MaskPrediction:
        """Class and mask of every query."""
        mask_BQV = self.mask(query_BQE) @ voxels.features_BVE.mT
        return MaskPrediction(self.classify(query_BQE), mask_BQV)

    def forward(
        self, query_BQE: Tensor, place_QE: Tensor, picks_BQP3: Tensor, frames: Frames
    ) -> Tensor:
        """Queries after one round; ``picks_BQP3`` in voxels, group by group."""
        placed = query_BQE + place_QE
        heard = self.attend(placed, placed, query_BQE, need_weights=False)[0]
        query_BQE = self.norm1(query_BQE + heard)
        groups = (self.config.look.groups, self.config.look.points)
        anchor_BQGP3 = self.lower_3 + self.voxel_3 * picks_BQP3.unflatten(2, groups)
        samples = self.sampling(query_BQE, anchor_BQGP3, self.voxel_3, frames)
        query_BQE = self.norm2(self.mixing(samples, query_BQE))
        return self.norm3(self.feed_forward(query_BQE))
