"""Velocity losses of ALOcc-Flow (arXiv 2411.07725), section on flow.

Legend: B batch, K velocity bins, X, Y, Z cells, V voxels whose velocity is known; components
(vx, vy) along the grid's axes, m/s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS, LabelSet
from occ_perception.nets.flow_head import BIN_WIDTH, BINS, SLOWEST_BIN
from occ_training.losses.processes import mean_of


class FlowLosses(NamedTuple):
    """The three terms, each of weight 1.

    Attributes:
        bins: cross entropy of the velocity bin.
        squared: mean squared error of the components.
        cosine: minus the mean cosine between velocities; standing objects add zero.
    """

    bins: Tensor
    squared: Tensor
    cosine: Tensor


def moving_voxels(labels_BXYZ: Tensor, flow_BXYZ2: Tensor, label_set: LabelSet) -> Tensor:
    """(B, X, Y, Z) bool: a supervised voxel of a class that moves, with a finite velocity."""
    moving = torch.zeros(UNKNOWN_CLASS + 1, dtype=torch.bool, device=labels_BXYZ.device)
    moving[list(label_set.moving_ids())] = True
    return moving[labels_BXYZ.long()] & flow_BXYZ2.isfinite().all(dim=-1)


def flow_losses(
    bins_BK2XYZ: Tensor, flow_BXYZ2: Tensor, truth_BXYZ2: Tensor, known_BXYZ: Tensor
) -> FlowLosses:
    """All three terms over the voxels of :func:`moving_voxels`; zero where there are none.

    Args:
        bins_BK2XYZ: logits over the bins of each component.
        flow_BXYZ2: predicted velocity, the expectation over the bins.
        truth_BXYZ2: true velocity.
        known_BXYZ: bool, the voxels that count.
    """
    bins_VK2 = bins_BK2XYZ.permute(0, 3, 4, 5, 1, 2)[known_BXYZ].float()
    flow_V2, truth_V2 = flow_BXYZ2[known_BXYZ].float(), truth_BXYZ2[known_BXYZ].float()
    voxels = torch.tensor(float(len(flow_V2)), device=flow_V2.device)
    bin_V2 = ((truth_V2 - SLOWEST_BIN) / BIN_WIDTH).round().clamp(0, BINS - 1).long()
    entropy = F.cross_entropy(bins_VK2, bin_V2, reduction="sum")
    squared = (flow_V2 - truth_V2).square().sum()
    cosine = F.cosine_similarity(flow_V2, truth_V2, dim=1).sum()
    return FlowLosses(
        mean_of(entropy, 2 * voxels), mean_of(squared, 2 * voxels), -mean_of(cosine, voxels)
    )
