"""Intersection over union of voxels: mIoU, mIoU_D and IoU in the two published conventions.

Counts are summed over the whole data set before ratios are computed; a score is never a mean over
frames. Legend: B frames, X Y Z voxels, C classes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from occ_perception.labels import LabelSet
from occ_perception.metrics.counting import (
    CountingMetric,
    class_ids,
    intersection_over_union,
    per_class,
    same_shape,
)

# Keeps an absent class at 0 instead of NaN in the SurroundOcc evaluation, as in the reference code.
_SURROUNDOCC_EPSILON = 1e-8


class VoxelIoU(CountingMetric):
    """mIoU, mIoU_D and IoU as the Occ3D benchmark counts them (nuScenes and Waymo).

    With ``H[g, p]`` the number of counted voxels of ground truth g and prediction p::

        IoU[k] = H[k, k] / (sum_p H[k, p] + sum_g H[g, k] - H[k, k])   NaN if k is in neither
        mIoU   = mean over classes but free space, NaN skipped
        mIoU_D = the same over the moving classes of the label set
        IoU    = the same ratio for "occupied" against "free"

    A voxel whose ground truth is 255 (unlabelled) is not part of ``H``, but counts as occupied in
    the binary IoU. The reference code does the same; it matters only without a mask. Source: Occ3D
    (Tian et al., NeurIPS 2023); mIoU_D: ALOcc (arXiv 2411.07725).

    Attributes:
        confusion: (C, C) int64, ``H``.
        occupancy: (2, 2) int64, ``[truth, prediction]`` with 0 = occupied, 1 = free.
    """

    confusion: Tensor
    occupancy: Tensor

    def __init__(self, label_set: LabelSet) -> None:
        super().__init__(label_set)
        self.add_counter("confusion", (label_set.num_classes, label_set.num_classes))
        self.add_counter("occupancy", (2, 2))

    def update(self, preds: Any, target: Any, mask: Any = None) -> None:
        """Count a batch.

        Args:
            preds: (B, X, Y, Z) predicted class ids.
            target: (B, X, Y, Z) true class ids, 255 where unlabelled.
            mask: (B, X, Y, Z) bool or 0/1, voxels to count (e.g. those a camera sees); None = all.

        Raises:
            MetricsError: shapes differ, or an id is not in the label set.
        """
        pred_BXYZ = class_ids(preds, "prediction", self.label_set, self.device, False)
        true_BXYZ = class_ids(target, "ground truth", self.label_set, self.device, True)
        same_shape(pred_BXYZ, true_BXYZ, "ground truth")
        if mask is None:
            pred, true = pred_BXYZ.reshape(-1), true_BXYZ.reshape(-1)
        else:
            mask_BXYZ = torch.as_tensor(mask).to(self.device).bool()
            same_shape(pred_BXYZ, mask_BXYZ, "mask")
            pred, true = pred_BXYZ[mask_BXYZ], true_BXYZ[mask_BXYZ]
        free, classes = self.label_set.empty_class, self.label_set.num_classes
        occupancy = 2 * (true == free).long() + (pred == free).long()
        self.occupancy += torch.bincount(occupancy, minlength=4).reshape(2, 2)
        labelled = true < classes
        voxels = true[labelled] * classes + pred[labelled]
        self.confusion += torch.bincount(voxels, minlength=classes**2).reshape(classes, classes)
        self.frames += len(pred_BXYZ)

    def scores(self, counters: dict[str, Tensor]) -> dict[str, Tensor]:
        """``mIoU``, ``mIoU_D``, ``IoU`` and ``IoU[class]`` for every class, free space included."""
        confusion, occupancy = counters["confusion"], counters["occupancy"]
        ratios = intersection_over_union(confusion.diagonal(), confusion.sum(1), confusion.sum(0))
        binary = intersection_over_union(occupancy.diagonal(), occupancy.sum(1), occupancy.sum(0))
        return {
            "mIoU": ratios[semantic_ids(self.label_set)].nanmean(),
            "mIoU_D": ratios[list(self.label_set.moving_ids())].nanmean(),
            "IoU": binary[0],
            **per_class("IoU", self.label_set.class_names, ratios),
        }


class SurroundOccIoU(VoxelIoU):
    """mIoU, mIoU_D and IoU as the SurroundOcc and OpenOccupancy evaluations count them.

    Differs from :class:`VoxelIoU` in three ways: id 0 ("others" or "noise") has no score and is not
    part of the means; a class that never occurs scores 0 instead of being skipped; an unlabelled
    voxel (255) is skipped in the binary IoU too. There is no visibility mask. In the ground truth
    the free class must be set for empty voxels. Source: SurroundOcc (arXiv 2303.09551).
    """

    def update(self, preds: Any, target: Any) -> None:  # type: ignore[override]
        """Count a batch of (B, X, Y, Z) class ids, see :meth:`VoxelIoU.update`."""
        super().update(preds, target)

    def scores(self, counters: dict[str, Tensor]) -> dict[str, Tensor]:
        """``mIoU``, ``mIoU_D``, ``IoU`` and ``IoU[class]`` for every class but id 0."""
        confusion = counters["confusion"].double()
        free = self.label_set.empty_class
        occupied = [k for k in range(self.label_set.num_classes) if k != free]
        true_sum, pred_sum, both = confusion.sum(1), confusion.sum(0), confusion.diagonal()
        ratios = both / (true_sum + pred_sum - both + _SURROUNDOCC_EPSILON)
        true_occupied, pred_occupied = true_sum[occupied].sum(), pred_sum[occupied].sum()
        both_occupied = confusion[occupied][:, occupied].sum()
        union = true_occupied + pred_occupied - both_occupied + _SURROUNDOCC_EPSILON
        return {
            "mIoU": ratios[[k for k in occupied if k != 0]].mean(),
            "mIoU_D": ratios[list(self.label_set.moving_ids())].mean(),
            "IoU": both_occupied / union,
            **per_class("IoU", self.label_set.class_names[1:], ratios[1:]),
        }


def semantic_ids(label_set: LabelSet) -> list[int]:
    """Every class id but free space."""
    return [k for k in range(label_set.num_classes) if k != label_set.empty_class]
