"""Deformable attention and convolution: weighted sums of samples at places that features choose.

Legend of attention: B batch, Q queries, M heads, S samples of one query and head, C channels of one
head, h, w pixels of the map. Of convolution: n images, C channels, h, w pixels, G groups of
channels, P = 9 points of the 3x3 window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.ops.sampling import linear_corners

_REACH = 1
_SIDE = 2 * _REACH + 1
POINTS = _SIDE**2


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
    pixel_BMQS2 = _nodes(place_BQMS2, h, w).transpose(1, 2)
    corners = linear_corners(pixel_BMQS2.reshape(B * M, Q * S, 2), (h, w))
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
    corners = linear_corners(_nodes(place_BP2, h, w), (h, w))
    slot = torch.arange(len(volume_BDhw), device=volume_BDhw.device)[:, None]
    # A map's rows are counted within its slot; each slot has D maps.
    inside_BP4 = corners.row.view(*bin_BP.shape, 4) - slot[..., None] * (h * w)
    row_BP4 = (slot * volume_BDhw.shape[1] + bin_BP)[..., None] * (h * w) + inside_BP4
    share_BP4 = corners.share.view(row_BP4.shape)
    return (volume_BDhw.flatten()[row_BP4] * share_BP4).sum(dim=-1)


def _nodes(place: Tensor, h: int, w: int) -> Tensor:
    """(x, y) in [0, 1] over a map to (row, column) of its pixels."""
    x, y = place.unbind(-1)
    return torch.stack([y * h, x * w], dim=-1) - 0.5


def deformable_conv(
    value_nhwC: Tensor, displacement_nhwGP2: Tensor, weight_nhwGP: Tensor
) -> Tensor:
    """Sum of nine displaced neighbours, each weighted by what its pixel asks for.

    ``out_g(p) = sum_k weight_gk(p) * value_g(p + k + displacement_gk(p))``, k over a 3x3 window,
    with values interpolated linearly and zero outside (DCNv4, arXiv 2401.06197). The weights are
    used as they are: no softmax, no sigmoid. The window runs column by column: k = 0, 1, 2 are the
    three rows of the left column.

    Args:
        value_nhwC: the groups' channels side by side.
        displacement_nhwGP2: (x, y) of each point from its place in the window, in pixels.
        weight_nhwGP: of each point.

    Returns:
        (n, h, w, C).
    """
    n, h, w, C = value_nhwC.shape
    G = weight_nhwGP.shape[3]
    reach = torch.arange(-_REACH, _REACH + 1.0, device=value_nhwC.device)
    own_x = torch.arange(w, device=value_nhwC.device)[:, None, None]
    own_y = torch.arange(h, device=value_nhwC.device)[:, None, None, None]
    window_x = reach.repeat_interleave(_SIDE)
    window_y = reach.repeat(_SIDE)
    columns = own_x + window_x + displacement_nhwGP2[..., 0]
    rows = own_y + window_y + displacement_nhwGP2[..., 1]
    places = torch.stack([rows, columns], dim=-1).permute(0, 3, 1, 2, 4, 5)
    corners = linear_corners(places.reshape(n * G, h * w * POINTS, 2), (h, w))

    weights = weight_nhwGP.permute(0, 3, 1, 2, 4).reshape(-1, 1)
    share = (corners.share * weights).to(value_nhwC.dtype)
    table = value_nhwC.reshape(n, h, w, G, C // G).permute(0, 3, 1, 2, 4).reshape(-1, C // G)
    # One bag per pixel and group: all corners of all its points.
    bag = (-1, POINTS * corners.row.shape[1])
    summed = F.embedding_bag(
        corners.row.view(bag), table, mode="sum", per_sample_weights=share.view(bag)
    )
    return summed.view(n, G, h, w, C // G).permute(0, 2, 3, 1, 4).reshape(n, h, w, C)
