"""Which occupied voxels a mask looks from.

Legend: B batch, Q queries (one per mask), V voxels, P picks per query.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Draws(NamedTuple):
    """Numbers in [0, 1) that decide about picks.

    Attributes:
        within_BQP: which of a mask's voxels.
        anywhere_BQP3: which place of the grid, for masks without a voxel.
    """

    within_BQP: Tensor
    anywhere_BQP3: Tensor


class FixedDraws(nn.Module):
    """The same numbers in every frame.

    Args:
        numbers_RQP4: per round of picking; the last axis is one number ``within`` and three
            ``anywhere``.
    """

    numbers_RQP4: Tensor

    def __init__(self, numbers_RQP4: Tensor) -> None:
        super().__init__()
        self.register_buffer("numbers_RQP4", numbers_RQP4, persistent=False)

    def forward(self, round_number: int, batch_size: int) -> Draws:
        """Numbers of one round of picking."""
        numbers = self.numbers_RQP4[round_number].expand(batch_size, -1, -1, -1)
        return Draws(numbers[..., 0], numbers[..., 1:])


class SeededDraws(FixedDraws):
    """Uniform random numbers; drawn once for inference, anew in every step while training.

    The reference code draws anew in every frame from the process's generator, so that the same
    frame twice gives two results. Here every frame meets the same numbers.
    """

    def forward(self, round_number: int, batch_size: int) -> Draws:
        """Numbers of one round of picking."""
        if not self.training:
            return super().forward(round_number, batch_size)
        shape = (batch_size, *self.numbers_RQP4.shape[1:])
        numbers = torch.rand(shape, device=self.numbers_RQP4.device)
        return Draws(numbers[..., 0], numbers[..., 1:])


@dataclass(frozen=True, kw_only=True)
class SeededDrawsConfig:
    """Uniform random numbers, as the network was trained with.

    Attributes:
        seed: of the numbers that inference uses.
    """

    seed: int = 0

    def build(self, rounds: int, queries: int, picks: int) -> FixedDraws:
        """The module."""
        generator = torch.Generator().manual_seed(self.seed)
        return SeededDraws(torch.rand(rounds, queries, picks, 4, generator=generator))


@dataclass(frozen=True)
class EvenDrawsConfig:
    """Nothing is random, neither at inference nor in training.

    Each mask picks at equal steps through its voxels, from the most to the least probably occupied;
    masks without a voxel look from the points of a Sobol sequence.
    """

    def build(self, rounds: int, queries: int, picks: int) -> FixedDraws:
        """The module."""
        steps_P = (torch.arange(picks) + 0.5) / picks
        spread = torch.quasirandom.SobolEngine(3).draw(rounds * queries * picks)
        spread_RQP3 = spread.view(rounds, queries, picks, 3).to(steps_P.device)
        within_RQP1 = steps_P[:, None].expand(rounds, queries, -1, 1)
        return FixedDraws(torch.cat([within_RQP1, spread_RQP3], dim=-1))


DrawsConfig = SeededDrawsConfig | EvenDrawsConfig


def pick_voxels(inside_BQV: Tensor, corner_BV3: Tensor, draws: Draws, dims_3: Tensor) -> Tensor:
    """Places each mask looks from, (B, Q, P, 3) in voxels of the output grid.

    Of the n voxels of a mask the ``floor(draw * n)``-th is picked, by its lower corner. A mask
    without voxels gets places anywhere in the grid; where no mask of a slot has any, the published
    code forgets to scale them and all lie in the first voxel, which is kept.

    Args:
        inside_BQV: bool, the voxels of each mask.
        corner_BV3: index (x, y, z) of each voxel.
        draws: what decides; the i-th empty mask takes the i-th row of ``anywhere_BQP3``.
        dims_3: of the output grid.
    """
    rank_BQV = inside_BQV.cumsum(dim=-1, dtype=torch.int32)
    count_BQ1 = rank_BQV[..., -1:]
    wanted_BQP = (draws.within_BQP * count_BQ1).int().minimum(count_BQ1 - 1) + 1
    index_BQP = torch.searchsorted(rank_BQV, wanted_BQP)
    picked = corner_BV3.gather(1, index_BQP.flatten(1)[..., None].expand(-1, -1, 3))
    picked_BQP3 = picked.view(*index_BQP.shape, 3).to(draws.anywhere_BQP3.dtype)

    empty_BQ = count_BQ1[..., 0] == 0
    row_BQ = (empty_BQ.cumsum(dim=1) - 1).clamp(min=0)[..., None, None]
    elsewhere = draws.anywhere_BQP3.gather(1, row_BQ.expand_as(draws.anywhere_BQP3))
    scale_B113 = torch.where(empty_BQ.all(dim=1)[:, None], 1, dims_3)[:, None, None]
    return torch.where(empty_BQ[..., None, None], elsewhere * scale_B113, picked_BQP3)
