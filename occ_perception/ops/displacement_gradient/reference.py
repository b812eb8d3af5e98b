"""Displacement gradient in plain torch.

Legend: B batch, n = Y * X (* Z) cells, A grid axes (2 or 3) in the order of the flattened table.
"""

from __future__ import annotations

import torch
from torch import Tensor


def displacement_gradient(
    displacement_BnA: Tensor, stored_BnA: Tensor, cells_BnA: Tensor, sizes: tuple[int, ...]
) -> Tensor:
    """Gradient, in every cell, of the disagreement between a motion field and the stored one.

    A cell that comes from ``q = cells + u`` should move like the content it shows moved before
    (GDFusion, arXiv 2504.12959, motion fusion)::

        loss(u)     = 1/A sum_i (S_i(cells + u) - u_i)^2          S: stored field, interpolated
        dloss/du_c  = 2/A [sum_i (S_i - u_i) dS_i/dq_c - (S_c - u_c)]

    The first term moves the cell along the slope of the stored field, the second pulls its own
    value. Linear interpolation has one slope per box between nodes; the box of ``floor(q)`` is
    taken.

    Args:
        displacement_BnA: the predicted field u, in cells.
        stored_BnA: the field of the previous frame on the previous grid.
        cells_BnA: where the ego motion says that each cell was, in cells.
        sizes: of the grid's axes, their product is n.

    Returns:
        (B, n, A); zero where q lies outside the grid.
    """
    place_BnA = cells_BnA + displacement_BnA
    last = torch.tensor([size - 1 for size in sizes], device=place_BnA.device)
    inside_Bn1 = ((place_BnA >= 0) & (place_BnA <= last)).all(dim=-1, keepdim=True)
    place_BnA = torch.where(inside_Bn1, place_BnA, 0.0)  # any valid place will do there

    low_BnA = place_BnA.floor()
    ends = torch.stack([low_BnA, torch.minimum(low_BnA + 1.0, last)]).int()
    shares = [(place_BnA - low_BnA)[..., axis, None] for axis in range(len(sizes))]
    field_BnA, slopes = _interpolate(stored_BnA, ends, sizes, shares)

    mismatch_BnA = field_BnA - displacement_BnA
    along = [(mismatch_BnA * slope).sum(dim=-1) for slope in slopes]
    gradient = (torch.stack(along, dim=-1) - mismatch_BnA) * (2.0 / len(sizes))
    return torch.where(inside_Bn1, gradient, 0.0)


def _interpolate(
    table_BnA: Tensor, ends_2BnA: Tensor, sizes: tuple[int, ...], shares: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Values between nodes, and their slope along each axis."""
    B = len(table_BnA)
    rows = table_BnA.reshape(-1, table_BnA.shape[-1])
    first_row = torch.arange(B, device=rows.device, dtype=torch.int32)[:, None]

    def halves(index: Tensor, axis: int) -> tuple[Tensor, list[Tensor]]:
        if axis == len(sizes):
            return rows[index], []
        low, low_slopes = halves(index * sizes[axis] + ends_2BnA[0, ..., axis], axis + 1)
        high, high_slopes = halves(index * sizes[axis] + ends_2BnA[1, ..., axis], axis + 1)
        share, rise = shares[axis], high - low
        across = [a + share * (b - a) for a, b in zip(low_slopes, high_slopes, strict=True)]
        return low + share * rise, [rise, *across]

    return halves(first_row, 0)
