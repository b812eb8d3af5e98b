"""Supervision of the depth distribution by measured depth.

Legend: B batch, N cameras, D depth bins, H, W input pixels, h, w feature pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.nets.measured_depth import measured_depth
from occ_perception.nets.view_geometry import ViewGeometry
from occ_training.losses.processes import mean_of, mean_over_processes

_LOG_FLOOR = 1e-8


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
