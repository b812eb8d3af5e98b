"""Losses of networks that list voxels and predict masks over them (SparseOcc, arXiv 2312.17118).

Legend: V voxels of a list, s voxels of the output along a listed voxel, C = s^3 of them, K classes
with free space last, Q masks, M classes that occur.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS
from occ_training.losses.processes import mean_over_processes
from occ_training.losses.voxels import geometric_scale, lovasz_softmax, semantic_scale

_POSITIVE_SHARE, _FOCUS = 0.25, 2.0
_MASK_WEIGHT, _DICE_WEIGHT = 5.0, 5.0
_CLASS_WEIGHT = 4.0  # of costs and of losses: product of two weights of 2 in the reference code


class MatchedLosses(NamedTuple):
    """Sums over a sample's matched masks, to be divided by the number of matches.

    Attributes:
        mask: binary cross entropy, mean over voxels, of each matched mask.
        dice: one minus the soft Dice coefficient of each.
        classes: focal loss of every mask's class; masks without a match have none.
        matches: how many there are.
    """

    mask: Tensor
    dice: Tensor
    classes: Tensor
    matches: Tensor


def covered_labels(corner_V3: Tensor, side: int, labels_XYZ: Tensor) -> Tensor:
    """(V, C) class ids of the output voxels inside each listed voxel.

    Args:
        corner_V3: int64 index of the voxel's lower corner in the output grid.
        side: voxels of the output grid along one of the list.
        labels_XYZ: class ids.
    """
    steps = torch.arange(side, device=corner_V3.device)
    offsets_C3 = torch.cartesian_prod(steps, steps, steps).view(-1, 3)
    x, y, z = (corner_V3[:, None] + offsets_C3).unbind(-1)
    return labels_XYZ[x, y, z].long()


def listed_voxel_loss(logits_VK: Tensor, labels_VC: Tensor, class_weights_K: Tensor) -> Tensor:
    """Lovász, both scale losses and weighted cross entropy of one level, of weight 1 each.

    Every output voxel inside a listed one is compared with that one's logits.

    Args:
        logits_VK: free space last.
        labels_VC: of :func:`covered_labels`, 255 = not supervised.
        class_weights_K: of the cross entropy.
    """
    known_VC = labels_VC != UNKNOWN_CLASS
    logits = logits_VK[:, None].expand(*labels_VC.shape, -1)[known_VC].float()
    targets = labels_VC[known_VC]
    if not len(targets):
        return logits_VK.sum() * 0.0
    return (
        lovasz_softmax(logits, targets)
        + geometric_scale(logits, targets)
        + semantic_scale(logits, targets, first_class=0)
        + F.cross_entropy(logits, targets, weight=class_weights_K)
    )


def matched_losses(
    class_logits_QK: Tensor, mask_logits_QV: Tensor, labels_V: Tensor
) -> MatchedLosses:
    """Losses of one sample's masks; each class that occurs is matched with one mask.

    Args:
        class_logits_QK: of the classes without free space.
        mask_logits_QV: over the listed voxels.
        labels_V: class ids of these voxels; free space and 255 belong to no mask.
    """
    classes_M = labels_V.unique()
    classes_M = classes_M[classes_M < class_logits_QK.shape[1]]
    truth_MV = (labels_V == classes_M[:, None]).float()
    logits_QK, masks_QV = class_logits_QK.float(), mask_logits_QV.float()
    costs_QM = matching_costs(logits_QK.detach(), masks_QV.detach(), classes_M, truth_MV)
    rows, columns = (torch.as_tensor(i) for i in linear_sum_assignment(costs_QM.cpu().numpy()))
    rows, columns = rows.to(labels_V.device), columns.to(labels_V.device)
    matched, truth = masks_QV[rows], truth_MV[columns]
    entropy = F.binary_cross_entropy_with_logits(matched, truth, reduction="none").mean(1)
    chance = matched.sigmoid()
    dice = 1 - (2 * (chance * truth).sum(1) + 1) / (chance.sum(1) + truth.sum(1) + 1)
    wanted_QK = torch.zeros_like(logits_QK)
    wanted_QK[rows, classes_M[columns]] = 1.0
    p = logits_QK.sigmoid()
    share = _POSITIVE_SHARE * wanted_QK + (1 - _POSITIVE_SHARE) * (1 - wanted_QK)
    miss = (1 - p) * wanted_QK + p * (1 - wanted_QK)
    focal = F.binary_cross_entropy_with_logits(logits_QK, wanted_QK, reduction="none")
    return MatchedLosses(
        mask=_MASK_WEIGHT * entropy.sum(),
        dice=_DICE_WEIGHT * dice.sum(),
        classes=_CLASS_WEIGHT * (share * miss**_FOCUS * focal).sum(),
        matches=torch.tensor(float(len(rows)), device=labels_V.device),
    )


def matching_costs(
    class_logits_QK: Tensor, mask_logits_QV: Tensor, classes_M: Tensor, truth_MV: Tensor
) -> Tensor:
    """(Q, M) cost of matching a class with a mask: the losses themselves, for every pair."""
    voxels = mask_logits_QV.shape[1]
    outside, inside = F.softplus(mask_logits_QV), F.softplus(-mask_logits_QV)
    entropy_QM = (inside @ truth_MV.T + outside @ (1 - truth_MV).T) / voxels
    chance_QV = mask_logits_QV.sigmoid()
    overlap_QM = chance_QV @ truth_MV.T
    dice_QM = 1 - (2 * overlap_QM + 1) / (chance_QV.sum(1)[:, None] + truth_MV.sum(1) + 1)
    p = class_logits_QK.sigmoid()[:, classes_M]
    yes = -torch.log(p + 1e-12) * _POSITIVE_SHARE * (1 - p) ** _FOCUS
    no = -torch.log(1 - p + 1e-12) * (1 - _POSITIVE_SHARE) * p**_FOCUS
    return _MASK_WEIGHT * entropy_QM + _DICE_WEIGHT * dice_QM + _CLASS_WEIGHT * (yes - no)


def average_matches(counts: list[Tensor]) -> Tensor:
    """Matches in the batch, averaged over processes; at least 1."""
    return mean_over_processes(torch.stack(counts).sum()).clamp(min=1.0)
