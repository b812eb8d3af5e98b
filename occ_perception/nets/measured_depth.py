"""Depth measured from outside, on the frustum: which bin each feature pixel's nearest point is in.

Legend: B batch, N cameras, D depth bins, H, W input pixels, h, w feature pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.nets.view_geometry import ViewGeometry


class MeasuredDepth(NamedTuple):
    """Measurements as the depth net would put them.

    Attributes:
        surface_BNDhw: one-hot over the bins, all zero where nothing was measured.
        known_BN1hw: bool, whether something was.
    """

    surface_BNDhw: Tensor
    known_BN1hw: Tensor


def measured_depth(depth_BNHW: Tensor, geometry: ViewGeometry) -> MeasuredDepth:
    """The bin of the nearest measurement in each feature pixel's input pixels.

    Args:
        depth_BNHW: metres along the optical axis at input resolution, 0 = none.
        geometry: bins; measurements before the first or behind the last count as none.
    """
    nothing = float("inf")
    depth = torch.where(depth_BNHW > 0, depth_BNHW, nothing)
    nearest_BNhw = -F.max_pool2d(-depth, geometry.feature_stride)
    bins = geometry.depth
    bin_BNhw = ((nearest_BNhw - (bins.lower - bins.step)) / bins.step).floor() - 1.0
    number_D = torch.arange(bins.count, device=depth.device)[:, None, None]
    surface = bin_BNhw[:, :, None] == number_D
    known = surface.any(dim=2, keepdim=True)
    return MeasuredDepth(surface.to(depth_BNHW.dtype), known)
