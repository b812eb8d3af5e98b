"""Losses over every supervised voxel.

Legend: B batch, K classes with the leading dummy class, X, Y, Z voxels, V supervised voxels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS
from occ_training.losses.processes import mean_of

_FOCUS, _POSITIVE_SHARE, _FOCAL_WEIGHT = 2.0, 0.25, 100.0
_RATIO_FLOOR = 1e-5


def supervised(logits_BKXYZ: Tensor, targets_BXYZ: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (V, K) float32 and targets (V,) of the voxels that have a label.

    Logits that are not finite are set to zero, as in the reference code, so that an overflow in
    half precision does not end a long run.
    """
    has_label = targets_BXYZ != UNKNOWN_CLASS
    logits_VK = logits_BKXYZ.movedim(1, -1)[has_label].float()
    return torch.where(logits_VK.isfinite(), logits_VK, 0.0), targets_BXYZ[has_label]


def cross_entropy(
    logits_VK: Tensor, targets_V: Tensor, class_weights_K: Tensor | None = None
) -> Tensor:
    """Mean cross entropy (BEVDetOcc): the sum with class weights over the number of voxels."""
    total = F.cross_entropy(logits_VK, targets_V, class_weights_K, reduction="sum")
    return mean_of(total, torch.tensor(float(len(targets_V)), device=total.device))


def radial_weights(voxels: tuple[int, int]) -> Tensor:
    """(X, Y) weights ``1 + r / r_max`` by distance r from the grid's middle, in voxels."""
    x, y = (torch.arange(count, dtype=torch.float32) - count // 2 for count in voxels)
    distance = torch.hypot(x[:, None], y[None, :])
    return 1.0 + distance / distance.max()


def focal(
    logits_VK: Tensor, targets_V: Tensor, class_weights_K: Tensor, voxel_weights_V: Tensor
) -> Tensor:
    """Sigmoid focal loss (1708.02002), summed over classes, mean over voxels, times 100 (FB-Occ).

    Args:
        logits_VK: finite.
        targets_V: head classes.
        class_weights_K: of each column.
        voxel_weights_V: of each voxel, see :func:`radial_weights`.
    """
    hit_VK = F.one_hot(targets_V, logits_VK.shape[1]).to(logits_VK.dtype)
    p = logits_VK.sigmoid()
    entropy_VK = F.binary_cross_entropy_with_logits(logits_VK, hit_VK, reduction="none")
    modulation_VK = ((1 - p) * hit_VK + p * (1 - hit_VK)) ** _FOCUS
    share_VK = _POSITIVE_SHARE * hit_VK + (1 - _POSITIVE_SHARE) * (1 - hit_VK)
    terms_VK = share_VK * modulation_VK * entropy_VK * class_weights_K
    total = (terms_VK.sum(dim=1) * voxel_weights_V).sum()
    count = torch.tensor(float(len(targets_V)), device=total.device)
    return _FOCAL_WEIGHT * mean_of(total, count)


def semantic_scale(logits_VK: Tensor, targets_V: Tensor, first_class: int = 1) -> Tensor:
    """Scene-class affinity over classes (MonoScene, arXiv 2112.00726).

    ``-ln`` of soft precision, recall and specificity of every class that occurs, from
    ``first_class`` (the dummy class left out) up to free space, the last one, which is left out
    too; summed, and averaged over these classes.
    """
    probabilities_VK = logits_VK.softmax(dim=1)
    losses = [
        _affinity(probabilities_VK[:, k], (targets_V == k).to(logits_VK.dtype))
        for k in range(first_class, logits_VK.shape[1] - 1)
        if bool((targets_V == k).any())
    ]
    return torch.stack(losses).mean() if losses else logits_VK.sum() * 0.0


def geometric_scale(logits_VK: Tensor, targets_V: Tensor) -> Tensor:
    """Scene-class affinity of being occupied; free space is the last class."""
    free = logits_VK.shape[1] - 1
    occupied_V = 1.0 - logits_VK.softmax(dim=1)[:, free]
    return _affinity(occupied_V, (targets_V != free).to(logits_VK.dtype))


def _affinity(chance_V: Tensor, truth_V: Tensor) -> Tensor:
    overlap = (chance_V * truth_V).sum()
    precision = overlap / (chance_V.sum() + _RATIO_FLOOR)
    recall = overlap / (truth_V.sum() + _RATIO_FLOOR)
    absent_V = 1.0 - truth_V
    specificity = ((1.0 - chance_V) * absent_V).sum() / (absent_V.sum() + _RATIO_FLOOR)
    return -torch.log(
        torch.stack([away_from_ends(r) for r in (precision, recall, specificity)])
    ).sum()


def away_from_ends(ratio: Tensor) -> Tensor:
    """Ratios moved into [1e-5, 1 - 1e-5) by steps of 1e-5; unlike a clamp it keeps the gradient."""
    step, upper = _RATIO_FLOOR, 1.0 - _RATIO_FLOOR
    value = ratio.detach()
    above = torch.where(value >= upper, ((value - upper) / step).floor() + 1.0, 0.0)
    below = torch.where(value < step, ((step - value) / step).ceil(), 0.0)
    return ratio + (below - above) * step


def lovasz_softmax(logits_VK: Tensor, targets_V: Tensor) -> Tensor:
    """Lovász extension of the Jaccard loss (arXiv 1705.08790), mean over classes that occur."""
    probabilities_VK = logits_VK.softmax(dim=1)
    losses = [
        _lovasz(probabilities_VK[:, k], (targets_V == k).to(logits_VK.dtype))
        for k in torch.unique(targets_V)
    ]
    return torch.stack(losses).mean() if losses else logits_VK.sum() * 0.0


def lovasz_occupied(logits_VK: Tensor, targets_V: Tensor) -> Tensor:
    """The same loss for being occupied, whatever the class; free space is the last class."""
    free = logits_VK.shape[1] - 1
    occupied_V = 1.0 - logits_VK.softmax(dim=1)[:, free]
    return _lovasz(occupied_V, (targets_V != free).to(logits_VK.dtype))


def _lovasz(chance_V: Tensor, truth_V: Tensor) -> Tensor:
    errors_V, order = (truth_V - chance_V).abs().sort(descending=True)
    return torch.dot(errors_V, _jaccard_steps(truth_V[order]))


def _jaccard_steps(truth_V: Tensor) -> Tensor:
    """Increase of the Jaccard loss as wrong voxels are added one by one."""
    intersection_V = truth_V.sum() - truth_V.cumsum(0)
    union_V = truth_V.sum() + (1.0 - truth_V).cumsum(0)
    loss_V = 1.0 - intersection_V / union_V
    return torch.cat([loss_V[:1], loss_V[1:] - loss_V[:-1]])
