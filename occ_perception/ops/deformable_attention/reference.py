"""Deformable attention in plain torch.

Legend: B batch, Q queries, M heads, S samples of one query and head, C channels of one head,
h, w pixels of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.ops.linear_sampling.reference import linear_corners


def deformable_attention(value_BMChw: Tensor, place_BQMS2: Tensor, weight_BQMS: Tensor) -> Tensor:
    """Weighted sum of samples of a map, one set of places per query and head.

    The core of deformable attention on one level (Deformable DETR, arXiv 2010.04159). Samples are
    bilinear; 0 and 1 are the outer edges of the map, so that pixel i has its centre at
    ``(i + 0.5) / size``; outside there is nothing.

    Args:
        value_BMChw: the map, each head its own channels.
        place_BQMS2: (x, y) in [0, 1] over the map, elsewhere outside it.
        weight_BQMS: of each sample, not normalised here.

    Returns:
        (B, Q, M * C).
    """
    B, M, C, h, w = value_BMChw.shape
    Q, S = weight_BQMS.shape[1], weight_BQMS.shape[3]
    rows = value_BMChw.flatten(3).transpose(2, 3).reshape(-1, C)
    size = place_BQMS2.new_tensor((w, h))
    pixel_BMQS2 = (place_BQMS2 * size - 0.5).transpose(1, 2)
    corners = linear_corners(pixel_BMQS2.flip(-1).reshape(B * M, Q * S, 2), (h, w))
    share = corners.share * weight_BQMS.transpose(1, 2).reshape(-1, 1)
    sampled = F.embedding_bag(
        corners.row.view(B * M * Q, -1),
        rows,
        mode="sum",
        per_sample_weights=share.to(rows.dtype).view(B * M * Q, -1),
    )
    return sampled.view(B, M, Q, C).transpose(1, 2).flatten(2)


def sample_bins(volume_BDhw: Tensor, place_BP2: Tensor, bin_BP: Tensor) -> Tensor:
    """Bilinear samples of one channel each.

    Args:
        volume_BDhw: the map.
        place_BP2: (x, y) over the map as in :func:`deformable_attention`.
        bin_BP: int64 channel of each sample, in [0, D).

    Returns:
        (B, P).
    """
    h, w = volume_BDhw.shape[-2:]
    size = place_BP2.new_tensor((w, h))
    corners = linear_corners((place_BP2 * size - 0.5).flip(-1), (h, w))
    slot = torch.arange(len(volume_BDhw), device=volume_BDhw.device)[:, None]
    # A map's rows are counted within its slot; each slot has D maps.
    inside_BP4 = corners.row.view(*bin_BP.shape, 4) - slot[..., None] * (h * w)
    row_BP4 = (slot * volume_BDhw.shape[1] + bin_BP)[..., None] * (h * w) + inside_BP4
    share_BP4 = corners.share.view(row_BP4.shape)
    return (volume_BDhw.flatten()[row_BP4] * share_BP4).sum(dim=-1)
