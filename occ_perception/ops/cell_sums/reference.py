"""Sums over cells in plain torch.

Legend: B batch, N cameras, C channels, h, w feature pixels, X, Y, Z cells, S samples of a pixel,
P = N * h * w pixels of a slot, R = B * P.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cell_sums(
    target_SBP: Tensor, share_SBP: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Sum ``share * feature`` over all samples of a cell.

    It is a product of a sparse (cells x pixels) matrix with the (pixels x channels) features:
    only scalars exist per sample.

    Args:
        target_SBP: int32 flat cell (slot, y, x, z) of each sample, (..., B, P).
        share_SBP: its weight, of the same shape.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of cells (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); cells that nothing reached are exactly zero.
    """
    B, _, C = features_BNChw.shape[:3]
    X, Y, Z = dims
    pixels_RC = features_BNChw.flatten(3).transpose(2, 3).reshape(-1, C)
    # Sorting by target cell turns the scatter into one contiguous run of pixels per cell.
    target, order = target_SBP.flatten().sort()
    cells = torch.arange(B * Y * X * Z, dtype=target.dtype, device=target.device)
    volume = F.embedding_bag(
        order % len(pixels_RC),
        pixels_RC,
        torch.searchsorted(target, cells),
        mode="sum",
        per_sample_weights=share_SBP.flatten()[order],
    )
    return volume.view(B, Y, X, Z, C).movedim(-1, 1)
