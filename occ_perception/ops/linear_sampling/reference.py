"""Linear sampling in plain torch.

Legend: B batch, P sampled places, A axes of the table (2 or 3), C channels.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_ROWS_AT_ONCE = 65536


class Corners(NamedTuple):
    """Where sampled places get their values from.

    Attributes:
        row: (B * P, 2^A) int32, into the flattened table.
        share: (B * P, 2^A), zero for corners outside the table.
    """

    row: Tensor
    share: Tensor


def linear_corners(position_BPA: Tensor, sizes: tuple[int, ...]) -> Corners:
    """The nodes around each place; node i is met exactly at position i.

    The corners are found once and serve every table of the same sizes. Corners outside count as
    zero and the rest is not renormalised (``grid_sample`` with zero padding, aligned corners).

    Args:
        position_BPA: in nodes, one coordinate per axis of the table, in the table's axis order.
        sizes: of the table's axes.
    """
    low_BPA = position_BPA.floor()
    upper_BPA = position_BPA - low_BPA
    ends = []
    for axis, count in enumerate(sizes):
        low, upper = low_BPA[..., axis], upper_BPA[..., axis]
        both = ((low, 1.0 - upper), (low + 1.0, upper))
        inside = [(node >= 0) & (node < count) for node, _ in both]
        ends.append(
            [
                (torch.where(ok, node, 0).int(), torch.where(ok, share, 0))
                for ok, (node, share) in zip(inside, both, strict=True)
            ]
        )
    nodes_per_slot = 1
    for count in sizes:
        nodes_per_slot *= count
    slots = torch.arange(len(position_BPA), dtype=torch.int32, device=position_BPA.device)
    indices, weights = [], []
    for corner in product(*ends):
        index, weight = slots[:, None], torch.ones_like(position_BPA[..., 0])
        for count, (node, share) in zip(sizes, corner, strict=True):
            index, weight = index * count + node, weight * share
        indices.append(index.flatten())
        weights.append(weight.flatten())
    return Corners(torch.stack(indices, dim=-1), torch.stack(weights, dim=-1))


def sample_rows(table_BNC: Tensor, corners: Corners, out_BPC: Tensor | None = None) -> Tensor:
    """Interpolated rows (B, P, C) of a table whose axes are flattened to N.

    A weighted bag of 4 or 8 rows per place, with the channels contiguous.

    Args:
        table_BNC: the table.
        corners: of the places.
        out_BPC: where to write, without gradients; a new tensor unless given.
    """
    B, _, C = table_BNC.shape
    share = corners.share.to(table_BNC.dtype)
    rows = table_BNC.reshape(-1, C)
    if out_BPC is None:
        return _bags(corners.row, rows, share).view(B, -1, C)
    P = out_BPC.shape[1]
    for slot, out in enumerate(out_BPC):
        for part in row_parts(P, out.device):
            places = slice(slot * P + part.start, slot * P + part.stop)
            out[part] = _bags(corners.row[places], rows, share[places])
    return out_BPC


def row_parts(count: int, device: torch.device) -> list[slice]:
    """Slices that cover ``count`` rows: on a CPU small enough that what is computed of them in
    between stays in the cache, elsewhere all rows at once.
    """
    at_once = _ROWS_AT_ONCE if device.type == "cpu" else max(count, 1)
    return [slice(first, min(first + at_once, count)) for first in range(0, count, at_once)]


def _bags(row: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    return F.embedding_bag(row, rows, mode="sum", per_sample_weights=share)
