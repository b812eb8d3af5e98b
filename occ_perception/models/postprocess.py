"""From what a network gives to the class map that evaluation and messages use.

Legend: B batch, K classes with the leading dummy class, X, Y, Z voxels; P voxels in memory order.
Of sparse networks: Q masks, V voxels in the list, K classes without free space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from occ_perception.errors import OccError
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import Outputs, SparseOutputs

# Voxels looked at together on a CPU: their working planes stay in its cache.
_VOXELS_AT_ONCE = 1 << 16

# Masks that are no class with more than this probability are left out, and voxels whose score is
# below the second are free (SparseOcc, arXiv 2312.17118).
_SURE_MASK = 0.3
_SURE_VOXEL = 0.01


class NotFiniteError(OccError):
    """An output of a network has values that are NaN, so that it means nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the network's {what} are not numbers (NaN). Check the weights with `occ weights "
            "check`; if they are sound, run in fp32"
        )


class _Score(Protocol):
    """From logits to what is compared between classes, float32."""

    def __call__(self, logits: Tensor, out: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a network says, where its outputs are; nothing of it has been looked at.

    Attributes:
        labels_BXYZ: uint8 class ids, contiguous.
        flow_BXYZ2: velocities, m/s; None of a network without flow.
        sums: (2,) sums of the winning class scores and of the velocities: NaN if one of them is.
    """

    labels_BXYZ: Tensor
    flow_BXYZ2: Tensor | None
    sums: Tensor

    def require_numbers(self) -> None:
        """Look at the sums.

        Raises:
            NotFiniteError: a voxel's scores or a velocity are NaN.
        """
        for what, total in zip(("class scores", "velocities"), self.sums.tolist(), strict=True):
            if math.isnan(total):
                raise NotFiniteError(what)


def decode(outputs: Outputs | Decoded, card: ModelCard) -> Decoded:
    """Labels and velocities of any network; a GPU is not waited for. What is decoded stays so."""
    if isinstance(outputs, Decoded):
        return outputs
    if isinstance(outputs, SparseOutputs):
        labels_BXYZ, scores = _sparse_class_map(outputs, card)
    else:
        assert outputs.logits_BKXYZ is not None, "inputs of training have no class map"
        labels_BXYZ, scores = _class_map(outputs.logits_BKXYZ, card)
    flow_BXYZ2 = outputs.flow_BXYZ2
    velocities = torch.zeros_like(scores) if flow_BXYZ2 is None else flow_BXYZ2.sum().float()
    return Decoded(labels_BXYZ, flow_BXYZ2, torch.stack([scores, velocities]))


def _class_map(logits_BKXYZ: Tensor, card: ModelCard) -> tuple[Tensor, Tensor]:
    """Most likely class id of every voxel, uint8 (B, X, Y, Z), and the sum of their scores.

    The dummy class is dropped first. Where the card's scores are ``sigmoid``, the arg-max is taken
    after a float32 sigmoid, as in the reference code: logits above about 17 saturate to exactly 1
    and the lowest id wins such ties. A ``softmax`` keeps the order of the logits and is left out.

    One NaN among a voxel's scores makes its winning score NaN, and so the sum.
    """
    logits_BKXYZ = logits_BKXYZ[:, 1:].detach()
    score = _SCORES[card.class_scores]
    if logits_BKXYZ.device.type == "cpu" and not torch.compiler.is_exporting():
        return _class_map_by_planes(logits_BKXYZ, card.excluded_class, score)
    scores = score(logits_BKXYZ)
    if card.excluded_class is not None:
        scores[:, card.excluded_class] = -math.inf
    return scores.argmax(dim=1).to(torch.uint8), scores.amax(dim=1).sum()


def _sparse_class_map(outputs: SparseOutputs, card: ModelCard) -> tuple[Tensor, Tensor]:
    """Most likely class id of every voxel, uint8 (B, X, Y, Z), and the sum of their scores.

    A voxel's score for a class is the sum over all masks of mask times class probability. Voxels
    that the network did not list are free, and so are those that no class wants.
    """
    prediction = outputs.predictions[-1]
    classes_BQK = prediction.class_logits_BQK.detach().float().sigmoid()
    sure_BQ1 = classes_BQK.amax(dim=-1, keepdim=True) > _SURE_MASK
    masks_BQV = prediction.mask_logits_BQV.detach().float().sigmoid()
    best_BV, labels_BV = (masks_BQV.mT @ (classes_BQK * sure_BQ1)).max(dim=-1)
    labels_BV = torch.where(best_BV < _SURE_VOXEL, card.labels.empty_class, labels_BV)

    X, Y, Z = outputs.dims
    x, y, z = outputs.levels[-1].corner_BV3.unbind(-1)
    voxels = labels_BV.new_full((len(labels_BV), X * Y * Z), card.labels.empty_class)
    labels_BP = voxels.scatter(1, (x * Y + y) * Z + z, labels_BV).to(torch.uint8)
    return labels_BP.view(-1, X, Y, Z), best_BV.sum()


def _saturating(logits: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.sigmoid(logits.float(), out=out)


def _unchanged(logits: Tensor, out: Tensor | None = None) -> Tensor:
    return logits.to(torch.float32, copy=True) if out is None else out.copy_(logits)


_SCORES: dict[str, _Score] = {"sigmoid": _saturating, "softmax": _unchanged}


def _class_map_by_planes(
    logits_BKXYZ: Tensor, excluded_class: int | None, score: _Score
) -> tuple[Tensor, Tensor]:
    """One class after the other against the best so far.

    On a CPU an arg-max across planes costs seven times as much, and a copy of all scores.
    """
    # Networks give views with other axes outermost; memory order makes every plane one run.
    spatial = sorted((2, 3, 4), key=lambda axis: logits_BKXYZ.stride()[axis], reverse=True)
    in_memory_order = logits_BKXYZ.permute(0, 1, *spatial)
    logits_BKP = in_memory_order.flatten(2)
    labels_BP = torch.zeros_like(logits_BKP[:, 0], dtype=torch.uint8)
    classes = [k for k in range(logits_BKP.shape[1]) if k != excluded_class]
    total = logits_BKP.new_zeros((), dtype=torch.float32)
    for labels_P, logits_KP in zip(labels_BP, logits_BKP, strict=True):
        for first in range(0, labels_P.numel(), _VOXELS_AT_ONCE):
            part = slice(first, first + _VOXELS_AT_ONCE)
            total += _label_voxels(logits_KP[:, part], classes, score, labels_P[part])
    back = [1 + spatial.index(axis) for axis in (2, 3, 4)]
    labels = labels_BP.unflatten(1, in_memory_order.shape[2:]).permute(0, *back)
    return labels.contiguous(), total


def _label_voxels(logits_KP: Tensor, classes: list[int], score: _Score, labels_P: Tensor) -> Tensor:
    """Write the class of every voxel into ``labels_P``, which holds zeros; the sum of scores."""
    best_P = torch.full_like(labels_P, -math.inf, dtype=torch.float32)
    score_P = torch.empty_like(best_P)
    better_P = torch.empty_like(labels_P, dtype=torch.bool)
    candidate_P = better_P.view(torch.uint8)
    for k in classes:
        score(logits_KP[k], out=score_P)
        torch.gt(score_P, best_P, out=better_P)
        torch.maximum(best_P, score_P, out=best_P)
        # Classes come in ascending order, so the last better one is also the highest id.
        torch.maximum(labels_P, candidate_P.mul_(k), out=labels_P)
    return best_P.sum()
