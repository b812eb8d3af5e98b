"""Queries look into the images: where, and at which resolution, each decides for itself.

Legend: B batch, T frames, Q queries, G channel groups, P places per group, L levels, E width of a
query, C = E / G channels of a group.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from occ_perception.nets.sparse.frame_history import Frames
from occ_perception.nets.sparse.geometry import SparseGeometry
from occ_perception.nets.sparse.pyramid import STRIDES
from occ_perception.ops.backend import LinearMap, adaptive_mixing, first_views, sample_views


@dataclass(frozen=True, kw_only=True)
class LookConfig:
    """What one decoder layer takes from the images.

    Attributes:
        points: places per channel group.
        mixed_points: rows the sampled places are mixed to.
        groups: channel groups; each looks at places of its own.
        frames: frames looked at, the current one included.
    """

    points: int
    mixed_points: int
    groups: int = 4
    frames: int = 8


class FrameSampling(nn.Module):
    """Features at places around an anchor, in all frames (SparseBEV, arXiv 2308.09244).

    The reference code orders features by (frame, group) and the levels' weights by (group,
    frame), and takes one for the other: what frame t shows to group g is weighed with the weights
    of group ``(t G + g) // T``. With 8 frames and 4 groups that is ``t // 2``, whatever g is.
    """

    def __init__(self, width: int, config: LookConfig, geometry: SparseGeometry) -> None:
        super().__init__()
        self.config = config
        self.input_size = geometry.input_size
        G, P, T = config.groups, config.points, config.frames
        self.offset = nn.Linear(width, G * P * 3)
        self.level_weights = nn.Linear(width, G * P * len(STRIDES))
        mixed_up = (torch.arange(T)[:, None] * G + torch.arange(G)) // T
        self.register_buffer("weights_of_TG", mixed_up, persistent=False)

    def forward(
        self, query_BQE: Tensor, anchor_BQGP3: Tensor, unit_3: Tensor, frames: Frames
    ) -> Tensor:
        """Sampled features (B, Q, G, T * P, C), frame by frame.

        Args:
            query_BQE: decides about places and levels.
            anchor_BQGP3: metres; shapes that broadcast will do.
            unit_3: metres that an offset of 1 means along x, y, z.
            frames: what is looked at.
        """
        G, P = self.config.groups, self.config.points
        offset = self.offset(query_BQE).unflatten(-1, (G, P, 3))
        places_BQGP3 = anchor_BQGP3 + unit_3 * offset
        share = self.level_weights(query_BQE).unflatten(-1, (G, P, len(STRIDES))).softmax(dim=-1)
        share_BTQGPL = share[:, :, self.weights_of_TG].transpose(1, 2)
        views = first_views(places_BQGP3, frames.pixel_T_grid_BTN44, self.input_size)
        sampled_BQGTPC = sample_views(frames.maps, frames.frame_BT, views, share_BTQGPL)
        return sampled_BQGTPC.flatten(3, 4)


class Mixing(nn.Module):
    """Query plus what the sampled features tell it; see :func:`adaptive_mixing`."""

    def __init__(self, width: int, config: LookConfig) -> None:
        super().__init__()
        G, P = config.groups, config.points * config.frames
        C = width // G
        self.generate = nn.Linear(width, G * (C * C + config.mixed_points * P))
        self.merge = nn.Linear(G * config.mixed_points * C, width)

    def forward(self, samples_BQGPC: Tensor, query_BQE: Tensor) -> Tensor:
        mixed = adaptive_mixing(
            samples_BQGPC.flatten(0, 1),
            query_BQE.flatten(0, 1),
            LinearMap(self.generate.weight, self.generate.bias),
            LinearMap(self.merge.weight, self.merge.bias),
        )
        return query_BQE + mixed.view_as(query_BQE)


class FeedForward(nn.Module):
    """``x + W2 relu(W1 x)``."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.drop(torch.relu(self.widen(x)))
        return x + self.drop(self.narrow(inner))
