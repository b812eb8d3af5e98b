"""Losses of the image branch, at the pixels that lidar points fall into: depth and classes.

Legend: B batch, N cameras, C channels, D depth bins, K classes with the dummy class, H, W input
pixels, h, w feature pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.nets.measured_depth import measured_depth
from occ_perception.nets.view_geometry import ViewGeometry
from occ_training.losses.processes import mean_of, mean_over_processes

_LOG_FLOOR = 1e-8
_FAR = 1e5


def depth_cross_entropy(
    surface_BNDhw: Tensor, depth_BNHW: Tensor, geometry: ViewGeometry
) -> Tensor:
    """Mean of ``-ln(p + 1e-8)`` of the measured bin over pixels with a measurement.

    ALOcc (arXiv 2411.07725). The distribution is the one before any denoising or transfer.
    """
    truth = measured_depth(depth_BNHW, geometry)
    # A product instead of an index: pixels without a measurement add nothing.
    chance_BNhw = (surface_BNDhw.float() * truth.surface_BNDhw).sum(dim=2)
    known_BNhw = truth.known_BN1hw[:, :, 0]
    surprise_BNhw = -torch.log(chance_BNhw + _LOG_FLOOR)
    total = torch.where(known_BNhw, surprise_BNhw, 0.0).sum()
    return mean_of(total, known_BNhw.sum())


def depth_binary_cross_entropy(
    surface_BNDhw: Tensor, depth_BNHW: Tensor, geometry: ViewGeometry
) -> Tensor:
    """Binary cross entropy against the one-hot bin, summed over bins, mean over measured pixels.

    BEVDepth (arXiv 2206.10092), used by BEVDetOcc and FB-Occ.
    """
    truth = measured_depth(depth_BNHW, geometry)
    with torch.autocast(surface_BNDhw.device.type, enabled=False):
        terms_BNDhw = F.binary_cross_entropy(
            surface_BNDhw.float(), truth.surface_BNDhw.float(), reduction="none"
        )
    total = (terms_BNDhw * truth.known_BN1hw).sum()
    pixels = mean_over_processes(truth.known_BN1hw.sum().float())
    return total / pixels.clamp(min=1.0)


def nearest_point_labels(depth_BNHW: Tensor, labels_BNHW: Tensor, stride: int) -> Tensor:
    """(B, N, h, w) int64 label of the nearest point among each feature pixel's input pixels.

    Args:
        depth_BNHW: metres, 0 = no point.
        labels_BNHW: class id at the points, 255 elsewhere.
        stride: input pixels per feature pixel, along each axis.
    """
    distance = _patches(torch.where(depth_BNHW > 0, depth_BNHW, _FAR), stride)
    nearest = distance.argmin(dim=-1, keepdim=True)
    return _patches(labels_BNHW.long(), stride).gather(-1, nearest)[..., 0]


def image_logits(context_BNChw: Tensor, prototypes_KC: Tensor) -> Tensor:
    """(B, K, N, h, w) class logits of the lifted context: products with the image prototypes."""
    return torch.einsum("kc,bnchw->bknhw", prototypes_KC.float(), context_BNChw.float())


def _patches(maps_BNHW: Tensor, s: int) -> Tensor:
    """(B, N, h, w, s * s): the input pixels of each feature pixel, row by row."""
    blocks: Tensor = maps_BNHW.unflatten(3, (-1, s)).unflatten(2, (-1, s))
    return blocks.transpose(3, 4).flatten(-2)
