"""Class masks: one binary mask per class that occurs, compared at points drawn by class.

Source: ALOcc (arXiv 2411.07725), semantic prototypes; point sampling and the pair of losses are
those of MaskFormer and PointRend (arXiv 2107.06278, 1912.08193). Legend: B batch, K classes with
the leading dummy class, P voxels or pixels, M masks (classes that occur in a sample), S points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS
from occ_training.losses.classes import mask_weights, sampling_weights
from occ_training.losses.processes import mean_over_processes


class MaskLosses(NamedTuple):
    """Both losses, weighted.

    Attributes:
        mask: binary cross entropy.
        dice: one minus the soft Dice coefficient.
    """

    mask: Tensor
    dice: Tensor


@dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """Number and selection of the points, and the weight of the losses.

    Attributes:
        points: per mask; at most the number of voxels.
        oversample: candidates per point.
        important: share of the points at the least certain predictions.
        weight: of each of the two losses.
    """

    points: int = 25088
    oversample: float = 3.0
    important: float = 0.75
    weight: float = 5.0


class MaskLoss:
    """Mask and Dice loss of class logits.

    Args:
        label_set: its class frequencies weight the masks and the drawing of points.
        config: parameters.
    """

    def __init__(self, label_set: str, config: MaskLossConfig | None = None) -> None:
        self.config = config or MaskLossConfig()
        self._mask_weights_K = mask_weights(label_set)
        self._sampling_weights_K = sampling_weights(label_set)

    def __call__(
        self, logits_BKP: Tensor, targets_BP: Tensor, generators: Sequence[torch.Generator]
    ) -> MaskLosses:
        """Losses over the global batch.

        Args:
            logits_BKP: over voxels or pixels.
            targets_BP: head class of each position, 255 = not supervised.
            generators: one per sample, on the logits' device. Points that depend on the sample
                alone make a step independent of how the batch is spread over processes.
        """
        sums = [
            self._sample_sums(logits_KP.float(), targets_P, generator)
            for logits_KP, targets_P, generator in zip(
                logits_BKP, targets_BP, generators, strict=True
            )
        ]
        mask, dice, weights = (torch.stack(column).sum() for column in zip(*sums, strict=True))
        normaliser = mean_over_processes(weights) + torch.finfo(torch.float32).eps
        weight = self.config.weight
        return MaskLosses(weight * mask / normaliser, weight * dice / normaliser)

    def _sample_sums(
        self, logits_KP: Tensor, targets_P: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weighted sums of both losses over one sample's masks, and the sum of their weights."""
        weights_K = self._mask_weights_K.to(logits_KP.device)
        occurs_K = torch.bincount(targets_P, minlength=UNKNOWN_CLASS + 1)[: len(logits_KP)] > 0
        classes_M = torch.nonzero(occurs_K & (weights_K > 0)).flatten()
        logits_MP = logits_KP[classes_M]
        points_MS = self.draw_points(logits_MP.detach(), targets_P, generator)
        drawn_MS = logits_MP.gather(1, points_MS)
        inside_MS = (targets_P[points_MS] == classes_M[:, None]).float()
        weights_M = weights_K[classes_M]

        probability_MS = drawn_MS.sigmoid()
        overlap_M = (probability_MS * inside_MS).sum(1)
        dice_M = 1.0 - (2.0 * overlap_M + 1.0) / (probability_MS.sum(1) + inside_MS.sum(1) + 1.0)
        cross_entropy = F.binary_cross_entropy_with_logits(drawn_MS, inside_MS, reduction="none")
        mask_M = cross_entropy.mean(1) if points_MS.numel() else cross_entropy.sum(1)
        return (weights_M * mask_M).sum(), (weights_M * dice_M).sum(), weights_M.sum()

    @torch.no_grad()
    def draw_points(
        self, logits_MP: Tensor, targets_P: Tensor, generator: torch.Generator
    ) -> Tensor:
        """(M, S) positions at which each mask is compared.

        Candidates are drawn without replacement by class weight. Those whose logit is nearest to
        zero are kept, and the rest is drawn uniformly from all supervised positions. If there are
        fewer supervised positions than draws, the others fill up and count as outside of every
        mask. The reference code does the same; for images this is the usual case.
        """
        config, (masks, voxels) = self.config, logits_MP.shape
        points = min(config.points, voxels)
        important = int(config.important * points)
        supervised_P = targets_P < UNKNOWN_CLASS
        by_class_P = torch.zeros_like(targets_P, dtype=torch.float32)
        weights_K = self._sampling_weights_K.to(targets_P.device)
        by_class_P[supervised_P] = weights_K[targets_P[supervised_P]]
        candidates = min(int(config.oversample * points), voxels)
        drawn_MS = race(by_class_P.expand(masks, -1), candidates, generator)
        uncertain = logits_MP.gather(1, drawn_MS).abs().neg().topk(important, dim=1).indices
        anywhere = race(supervised_P.float().expand(masks, -1), points - important, generator)
        return torch.cat([drawn_MS.gather(1, uncertain), anywhere], dim=1)


def race(weights_MP: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` positions per row without replacement, with chances proportional to the weights.

    An exponential race; voxels of weight zero come last, where there are not enough others.
    """
    times = torch.empty(weights_MP.shape, device=weights_MP.device)
    times.exponential_(generator=generator)
    return (weights_MP / times).topk(count, dim=1).indices
