"""Soft filling in plain torch.

Legend: B batch, N cameras, S samples along a pixel's ray, h, w feature pixels, C channels,
X, Y, Z cells; P = B * N * h * w pixels.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_splat(
    cells_BNShw3: Tensor, weights_BNShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Splat every pixel's feature trilinearly along its ray.

    A sample at cell coordinates q adds ``weight * prod_a (1 - |q_a - i_a|) * feature`` to each of
    the eight cells i around it (ALOcc, arXiv 2411.07725, soft filling). Cell i is met exactly at
    q = i, which the callers' convention makes the cell's *lower corner*. Corners outside the grid
    are dropped and the rest is not renormalised. A grid one cell high therefore gets the tent
    ``1 - |q_z|`` around its floor.

    It is a product of a sparse (cells x pixels) matrix with the (pixels x channels) features:
    only scalars exist per sample and corner.

    Args:
        cells_BNShw3: sample positions (x, y, z) in cells.
        weights_BNShw: how much of the pixel's feature each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of cells (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); cells that nothing reached are exactly zero.
    """
    B, _, C = features_BNChw.shape[:3]
    X, Y, Z = dims
    pixels_PC = features_BNChw.flatten(3).transpose(2, 3).reshape(-1, C)
    cells_SBP3 = cells_BNShw3.movedim(2, 0).flatten(2, 4)
    weights_SBP = weights_BNShw.movedim(2, 0).flatten(2, 4)
    target, share = _corners(cells_SBP3, weights_SBP, dims)

    # Sorting by target cell turns the scatter into one contiguous run of pixels per cell.
    target, order = target.flatten().sort()
    cells = torch.arange(B * Y * X * Z, dtype=target.dtype, device=target.device)
    volume = F.embedding_bag(
        order % len(pixels_PC),
        pixels_PC,
        torch.searchsorted(target, cells),
        mode="sum",
        per_sample_weights=share.flatten()[order],
    )
    return volume.view(B, Y, X, Z, C).movedim(-1, 1)


def _corners(
    cells_SBP3: Tensor, weights_SBP: Tensor, dims: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Flat target cell and weight of every corner of every sample, each (corners, S, B, P / B).

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
