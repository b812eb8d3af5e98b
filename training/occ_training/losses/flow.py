"""Velocity losses of ALOcc-Flow (arXiv 2411.07725), section on flow.

Legend: B batch, K velocity bins, X, Y, Z voxels, V voxels whose velocity is known; components
(vx, vy) along the grid's axes, m/s.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS, LabelSet
from occ_perception.nets.flow_head import BIN_WIDTH, BINS, SLOWEST_BIN, expected_velocity
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


def at_voxels(features_BCXYZ: Tensor, chosen_BXYZ: Tensor) -> Tensor:
    """(V, C) features of the chosen voxels; the cells may be coarser by whole factors."""
    places = chosen_BXYZ.nonzero().unbind(1)
    sides = (
        voxels // cells
        for voxels, cells in zip(chosen_BXYZ.shape[1:], features_BCXYZ.shape[2:], strict=True)
    )
    x, y, z = (place // side for place, side in zip(places[1:], sides, strict=True))
    return features_BCXYZ.movedim(1, -1)[places[0], x, y, z]


def flow_losses(bins_VK2: Tensor, truth_V2: Tensor) -> FlowLosses:
    """All three terms over the voxels of :func:`moving_voxels`; zero if there are none.

    Args:
        bins_VK2: logits over the bins of each component.
        truth_V2: true velocity, components in the same order, m/s.
    """
    bins_VK2, truth_V2 = bins_VK2.float(), truth_V2.float()
    flow_V2 = expected_velocity(bins_VK2)
    voxels = torch.tensor(float(len(flow_V2)), device=flow_V2.device)
    bin_V2 = ((truth_V2 - SLOWEST_BIN) / BIN_WIDTH).round().clamp(0, BINS - 1).long()
    entropy = F.cross_entropy(bins_VK2, bin_V2, reduction="sum")
    squared = (flow_V2 - truth_V2).square().sum()
    cosine = F.cosine_similarity(flow_V2, truth_V2, dim=1).sum()
    return FlowLosses(
        mean_of(entropy, 2 * voxels), mean_of(squared, 2 * voxels), -mean_of(cosine, voxels)
    )
