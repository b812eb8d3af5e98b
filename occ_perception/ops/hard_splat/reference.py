"""Hard assignment in plain torch.

Legend: B batch, N cameras, S samples along a pixel's ray, h, w feature pixels, C channels,
X, Y, Z cells, P = N * h * w pixels of a slot.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.ops.cell_sums.reference import cell_sums


def hard_splat(
    cells_BNShw3: Tensor, weights_BNShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Give every sample of a ray to one cell (voxel pooling of Lift-Splat, arXiv 2008.05711).

    A sample at cell coordinates q adds ``weight * feature`` to cell trunc(q). Truncation goes
    *toward zero*, as published: what lies up to one cell below the grid, on any axis, counts to
    the grid's first cells, which therefore collect from twice their volume. Samples elsewhere
    outside are dropped. Positions get no gradient.

    Args:
        cells_BNShw3: sample positions (x, y, z) in cells.
        weights_BNShw: how much of the pixel's feature each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of cells (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); cells that nothing reached are exactly zero.
    """
    B = len(cells_BNShw3)
    X, Y, Z = dims
    index_SBP3 = cells_BNShw3.detach().movedim(2, 0).flatten(2, 4).trunc()
    sizes = index_SBP3.new_tensor(dims)
    inside_SBP = ((index_SBP3 >= 0) & (index_SBP3 < sizes)).all(dim=-1)
    # Samples outside get weight zero and the nearest cell: the number of samples then depends on
    # the shapes alone.
    x, y, z = index_SBP3.clamp(min=0).minimum(sizes - 1).int().unbind(-1)
    slot = torch.arange(B, dtype=torch.int32, device=x.device)[:, None]
    target_SBP = ((slot * Y + y) * X + x) * Z + z
    share_SBP = weights_BNShw.movedim(2, 0).flatten(2, 4) * inside_SBP
    return cell_sums(target_SBP, share_SBP, features_BNChw, dims)
