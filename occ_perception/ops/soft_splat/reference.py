"""Soft filling in plain torch.

Legend: B batch, N cameras, S samples along a pixel's ray, h, w feature pixels, C channels,
X, Y, Z cells; P pixels of one slot, P = N * h * w.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from occ_perception.ops.cell_sums.reference import cell_sums


def soft_splat(
    cells_BNShw3: Tensor, weights_BNShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Splat every pixel's feature trilinearly along its ray.

    A sample at cell coordinates q adds ``weight * prod_a (1 - |q_a - i_a|) * feature`` to each of
    the eight cells i around it (ALOcc, arXiv 2411.07725, soft filling). Cell i is met exactly at
    q = i, which the callers' convention makes the cell's *lower corner*. Corners outside the grid
    are dropped and the rest is not renormalised. A grid one cell high therefore gets the tent
    ``1 - |q_z|`` around its floor.

    Args:
        cells_BNShw3: sample positions (x, y, z) in cells.
        weights_BNShw: how much of the pixel's feature each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of cells (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); cells that nothing reached are exactly zero.
    """
    cells_SBP3 = cells_BNShw3.movedim(2, 0).flatten(2, 4)
    weights_SBP = weights_BNShw.movedim(2, 0).flatten(2, 4)
    target, share = corner_shares(cells_SBP3, weights_SBP, dims)
    return cell_sums(target, share, features_BNChw, dims)


def corner_shares(
    cells_SBP3: Tensor, weights_SBP: Tensor, dims: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Flat target cell and weight of every corner of every sample, each (corners, S, B, P).

    Corners outside the grid get weight zero and the nearest cell: the number of corners then
    depends on the shapes alone.
    """
    B = weights_SBP.shape[1]
    X, Y, Z = dims
    low_SBP3 = cells_SBP3.floor()
    upper_share_SBP3 = cells_SBP3 - low_SBP3
    lower_share_SBP3 = 1.0 - upper_share_SBP3

    def ends(axis: int) -> list[tuple[Tensor, Tensor]]:
        low, count = low_SBP3[..., axis], dims[axis]
        both = [(low, lower_share_SBP3[..., axis]), (low + 1.0, upper_share_SBP3[..., axis])]
        kept = [
            (index.clamp(0, count - 1).int(), share * ((index >= 0) & (index < count)))
            for index, share in both
        ]
        # A single layer of cells is both ends: one corner with the shares added is enough.
        return kept if count > 1 else [(kept[0][0], kept[0][1] + kept[1][1])]

    slot_offset = torch.arange(B, dtype=torch.int32, device=weights_SBP.device)[:, None]
    targets, shares = [], []
    for (x, share_x), (y, share_y), (z, share_z) in product(ends(0), ends(1), ends(2)):
        targets.append((y * X + x) * Z + z + slot_offset * (Y * X * Z))
        shares.append(weights_SBP * share_x * share_y * share_z)
    return torch.stack(targets), torch.stack(shares)
