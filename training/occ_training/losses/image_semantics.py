"""Semantic labels of feature pixels, from lidar points seen by the cameras.

Legend: B batch, N cameras, C channels, K classes with the dummy class, H, W input pixels,
h, w feature pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.nets.view_geometry import FEATURE_STRIDE

_FAR = 1e5


def nearest_point_labels(depth_BNHW: Tensor, labels_BNHW: Tensor) -> Tensor:
    """(B, N, h, w) int64 label of the nearest point in each feature pixel's 16 x 16 pixels.

    Args:
        depth_BNHW: metres, 0 = no point.
        labels_BNHW: class id at the points, 255 elsewhere.
    """
    distance = _patches(torch.where(depth_BNHW > 0, depth_BNHW, _FAR))
    nearest = distance.argmin(dim=-1, keepdim=True)
    return _patches(labels_BNHW.long()).gather(-1, nearest)[..., 0]


def image_logits(context_BNChw: Tensor, prototypes_KC: Tensor) -> Tensor:
    """(B, K, N, h, w) class logits of the lifted context: products with the image prototypes."""
    return torch.einsum("kc,bnchw->bknhw", prototypes_KC.float(), context_BNChw.float())


def _patches(maps_BNHW: Tensor) -> Tensor:
    """(B, N, h, w, 256): the input pixels of each feature pixel, row by row."""
    s = FEATURE_STRIDE
    blocks: Tensor = maps_BNHW.unflatten(3, (-1, s)).unflatten(2, (-1, s))
    return blocks.transpose(3, 4).flatten(-2)
