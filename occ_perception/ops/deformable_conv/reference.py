"""Deformable convolution v4 in plain torch.

Legend: n pictures, C channels, h, w pixels, G groups of channels, P = 9 points of the 3x3 window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.ops.linear_sampling.reference import linear_corners

_REACH = (-1.0, 0.0, 1.0)
POINTS = len(_REACH) ** 2


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
    window = torch.tensor([(x, y) for x in _REACH for y in _REACH], device=value_nhwC.device)
    own_x = torch.arange(w, device=value_nhwC.device)[:, None, None]
    own_y = torch.arange(h, device=value_nhwC.device)[:, None, None, None]
    columns = own_x + window[:, 0] + displacement_nhwGP2[..., 0]
    rows = own_y + window[:, 1] + displacement_nhwGP2[..., 1]
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
