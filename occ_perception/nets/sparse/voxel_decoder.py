"""From coarse blocks to the fine voxels that are probably occupied, level by level.

Legend: B batch, Q queries (one per voxel of a level), V children that are kept, E width of a query,
K classes with free space last, G channel groups, P places per group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.sparse.frame_history import Frames
from occ_perception.nets.sparse.geometry import COARSEST_VOXEL, SparseGeometry
from occ_perception.nets.sparse.sampling import FeedForward, FrameSampling, LookConfig, Mixing

# Corners of the eight halves of a voxel, in the order that files have their channels in.
_CHILDREN = (
    (0, 0, 0),
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 1, 0),
    (1, 0, 1),
    (0, 1, 1),
    (1, 1, 1),
)


class VoxelLevel(NamedTuple):
    """Voxels of one size that are probably occupied, the most probable first.

    Attributes:
        corner_BV3: int64, index (x, y, z) of the voxel's lower corner in the output grid.
        logits_BVK: class logits, free space last.
        features_BVE: of the voxels.
    """

    corner_BV3: Tensor
    logits_BVK: Tensor
    features_BVE: Tensor


@dataclass(frozen=True, kw_only=True)
class VoxelLayerConfig:
    """One level of the decoder.

    Attributes:
        look: what it takes from the images.
        keep: children that survive.
        keep_in_training: the same while training.
        heads: attention heads among the voxels; None for a level without attention.
    """

    look: LookConfig
    keep: int
    keep_in_training: int
    heads: int | None = 8


@dataclass(frozen=True, kw_only=True)
class VoxelDecoderConfig:
    """The levels, coarsest first; each halves the voxels.

    Attributes:
        layers: three, for voxels of 8, 4 and 2 voxels of the output grid.
        classes: number of classes, free space included.
        width: of a query.
        hidden: width inside the feed-forward part.
    """

    layers: tuple[VoxelLayerConfig, ...]
    classes: int = 18
    width: int = 256
    hidden: int = 512

    def build(self, geometry: SparseGeometry) -> VoxelDecoder:
        """The module for a grid."""
        return VoxelDecoder(self, geometry)


class VoxelDecoder(nn.Module):
    """Frames to levels of voxels, coarse to fine (SparseOcc, arXiv 2312.17118, section 3.2).

    Free space is pruned: of the eight children of every voxel only the most probably occupied
    ones over the whole grid go on. No gradient passes from a level to the one before.
    """

    start_Q3: Tensor
    children_83: Tensor

    def __init__(self, config: VoxelDecoderConfig, geometry: SparseGeometry) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(VoxelLayer(c, config, geometry) for c in config.layers)
        E = config.width
        self.lift = nn.ModuleList(nn.Linear(E, len(_CHILDREN) * E) for _ in config.layers)
        self.classify = nn.ModuleList(nn.Linear(E, config.classes) for _ in config.layers)
        X, Y, Z = geometry.coarsest_dims
        start = torch.cartesian_prod(torch.arange(X), torch.arange(Y), torch.arange(Z))
        self.register_buffer("start_Q3", start * COARSEST_VOXEL, persistent=False)
        self.register_buffer("children_83", torch.tensor(_CHILDREN), persistent=False)

    def forward(self, frames: Frames) -> tuple[VoxelLevel, ...]:
        B, E = frames.frame_BT.shape[0], self.config.width
        corner_BQ3 = self.start_Q3.expand(B, -1, -1)
        query_BQE = frames.pixel_T_grid_BTN44.new_zeros(B, corner_BQ3.shape[1], E)
        levels = []
        size = COARSEST_VOXEL
        for number, layer in enumerate(self.layers):
            query_BQE = layer(query_BQE, corner_BQ3, size, frames)
            size //= 2
            level = self._survivors(number, query_BQE, corner_BQ3, size)
            levels.append(level)
            corner_BQ3, query_BQE = level.corner_BV3, level.features_BVE.detach()
        return tuple(levels)

    def _survivors(
        self, number: int, query_BQE: Tensor, corner_BQ3: Tensor, size: int
    ) -> VoxelLevel:
        """The most probably occupied children; ``size`` is theirs."""
        E = self.config.width
        lifted = torch.relu(self.lift[number](query_BQE))
        features = lifted.unflatten(-1, (len(_CHILDREN), E)).flatten(1, 2)
        corner = (corner_BQ3[:, :, None] + size * self.children_83).flatten(1, 2)
        logits = self.classify[number](features)
        occupied = 1.0 - logits.detach().softmax(dim=-1)[..., -1]
        layer = self.config.layers[number]
        keep = layer.keep_in_training if self.training else layer.keep
        kept = occupied.topk(min(keep, occupied.shape[1]), dim=1).indices[..., None]
        return VoxelLevel(
            corner_BV3=corner.gather(1, kept.expand(-1, -1, 3)),
            logits_BVK=logits.gather(1, kept.expand(-1, -1, logits.shape[-1])),
            features_BVE=features.gather(1, kept.expand(-1, -1, E)),
        )


class VoxelLayer(nn.Module):
    """Voxels of one size look at each other and into the images."""

    lower_3: Tensor
    voxel_3: Tensor
    dims_3: Tensor

    def __init__(
        self, config: VoxelLayerConfig, decoder: VoxelDecoderConfig, geometry: SparseGeometry
    ) -> None:
        super().__init__()
        E = decoder.width
        # Positions are those of lower corners, in shares of the grid.
        self.position = nn.Sequential(
            nn.Linear(3, E), nn.LayerNorm(E), nn.ReLU(), nn.Linear(E, E), nn.LayerNorm(E), nn.ReLU()
        )
        self.attention: DistanceAttention | None = None
        if config.heads is not None:
            self.attention = DistanceAttention(E, config.heads)
            self.norm1 = nn.LayerNorm(E)
        self.sampling = FrameSampling(E, config.look, geometry)
        self.mixing = Mixing(E, config.look)
        self.norm2 = nn.LayerNorm(E)
        self.feed_forward = FeedForward(E, decoder.hidden)
        self.norm3 = nn.LayerNorm(E)
        grid = geometry.grid
        self.register_buffer("lower_3", torch.tensor(grid.lower), persistent=False)
        self.register_buffer("voxel_3", torch.tensor(grid.voxel_size), persistent=False)
        self.register_buffer("dims_3", torch.tensor(grid.dims), persistent=False)

    def forward(self, query_BQE: Tensor, corner_BQ3: Tensor, size: int, frames: Frames) -> Tensor:
        metres_BQ3 = self.lower_3 + self.voxel_3 * corner_BQ3
        side_3 = self.voxel_3 * size
        query_BQE = query_BQE + self.position(corner_BQ3 / self.dims_3)
        if self.attention is not None:
            query_BQE = self.norm1(query_BQE + self.attention(query_BQE, metres_BQ3[..., :2]))
        centre_BQ113 = (metres_BQ3 + side_3 / 2)[:, :, None, None]
        samples = self.sampling(query_BQE, centre_BQ113, side_3, frames)
        query_BQE = self.norm2(self.mixing(samples, query_BQE))
        return self.norm3(self.feed_forward(query_BQE))


class DistanceAttention(nn.Module):
    """Self-attention that fades with the distance in the plane, how fast each query decides
    (SparseBEV, arXiv 2308.09244, scale-adaptive self-attention)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.fading = nn.Linear(width, heads)

    def forward(self, query_BQE: Tensor, place_BQ2: Tensor) -> Tensor:
        """Attention's output, without the residual; places in metres."""
        distance_BQQ = (place_BQ2[:, :, None] - place_BQ2[:, None]).norm(dim=-1)
        fading_BhQ1 = self.fading(query_BQE).mT[..., None]
        mask = -distance_BQQ[:, None] * fading_BhQ1
        output: Tensor = self.attend(
            query_BQE, query_BQE, query_BQE, attn_mask=mask.flatten(0, 1), need_weights=False
        )[0]
        return output
