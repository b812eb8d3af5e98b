"""From what a network gives to the class map that evaluation and messages use.

Legend: B batch, K classes with the leading dummy class, X, Y, Z voxels; P voxels in memory order.
Of sparse networks: Q masks, V voxels in the list, K classes without free space.
"""

from __future__ import annotations

import math
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


def labels_of(outputs: Outputs, card: ModelCard) -> Tensor:
    """Most likely class id of every voxel, uint8 (B, X, Y, Z), contiguous, of any network.

    Raises:
        NotFiniteError: a voxel's scores are NaN.
    """
    if isinstance(outputs, SparseOutputs):
        return sparse_class_map(outputs, card)
    assert outputs.logits_BKXYZ is not None, "inputs of training have no class map"
    return class_map(outputs.logits_BKXYZ, card)


def flow_of(outputs: Outputs) -> Tensor | None:
    """Velocity of every voxel, m/s (B, X, Y, Z, 2); None of a network without flow.

    Raises:
        NotFiniteError: a velocity is NaN.
    """
    if outputs.flow_BXYZ2 is not None and outputs.flow_BXYZ2.sum().isnan():
        raise NotFiniteError("velocities")
    return outputs.flow_BXYZ2


def class_map(logits_BKXYZ: Tensor, card: ModelCard) -> Tensor:
    """Most likely class id of every voxel, uint8 (B, X, Y, Z), contiguous.

    The dummy class is dropped first. Where the card's scores are ``sigmoid``, the arg-max is taken
    after a float32 sigmoid, as in the reference code: logits above about 17 saturate to exactly 1
    and the lowest id wins such ties. A ``softmax`` keeps the order of the logits and is left out.

    Raises:
        NotFiniteError: a voxel's scores are NaN.
    """
    logits_BKXYZ = logits_BKXYZ[:, 1:].detach()
    score = _SCORES[card.class_scores]
    if logits_BKXYZ.device.type == "cpu":
        return _class_map_by_planes(logits_BKXYZ, card.excluded_class, score)
    scores = score(logits_BKXYZ)
    if card.excluded_class is not None:
        scores[:, card.excluded_class] = -math.inf
    _require_numbers(scores.amax(dim=1))
    return scores.argmax(dim=1).to(torch.uint8)


def _require_numbers(best: Tensor) -> None:
    """Refuse winning scores that are NaN: one NaN among a voxel's scores makes them so."""
    if best.sum().isnan():  # a sum costs a tenth of looking at each of them
        raise NotFiniteError("class scores")


def sparse_class_map(outputs: SparseOutputs, card: ModelCard) -> Tensor:
    """Most likely class id of every voxel, uint8 (B, X, Y, Z), contiguous.

    A voxel's score for a class is the sum over all masks of mask times class probability. Voxels
    that the network did not list are free, and so are those that no class wants.

    Raises:
        NotFiniteError: a voxel's scores are NaN.
    """
    prediction = outputs.predictions[-1]
    classes_BQK = prediction.class_logits_BQK.detach().float().sigmoid()
    sure_BQ1 = classes_BQK.amax(dim=-1, keepdim=True) > _SURE_MASK
    masks_BQV = prediction.mask_logits_BQV.detach().float().sigmoid()
    best_BV, labels_BV = (masks_BQV.mT @ (classes_BQK * sure_BQ1)).max(dim=-1)
    _require_numbers(best_BV)
    labels_BV = torch.where(best_BV < _SURE_VOXEL, card.labels.empty_class, labels_BV)

    X, Y, Z = outputs.dims
    x, y, z = outputs.levels[-1].corner_BV3.unbind(-1)
    voxels = labels_BV.new_full((len(labels_BV), X * Y * Z), card.labels.empty_class)
    return voxels.scatter(1, (x * Y + y) * Z + z, labels_BV).to(torch.uint8).view(-1, X, Y, Z)


def _saturating(logits: Tensor, out: Tensor | None = None) -> Tensor:
    return torch.sigmoid(logits.float(), out=out)


def _unchanged(logits: Tensor, out: Tensor | None = None) -> Tensor:
    return logits.to(torch.float32, copy=True) if out is None else out.copy_(logits)


_SCORES: dict[str, _Score] = {"sigmoid": _saturating, "softmax": _unchanged}


def _class_map_by_planes(logits_BKXYZ: Tensor, excluded_class: int | None, score: _Score) -> Tensor:
    """One class after the other against the best so far.

    On a CPU an arg-max across planes costs seven times as much, and a copy of all scores.
    """
    # Networks give views with other axes outermost; memory order makes every plane one run.
    spatial = sorted((2, 3, 4), key=lambda axis: logits_BKXYZ.stride()[axis], reverse=True)
    in_memory_order = logits_BKXYZ.permute(0, 1, *spatial)
    logits_BKP = in_memory_order.flatten(2)
    labels_BP = torch.zeros_like(logits_BKP[:, 0], dtype=torch.uint8)
    classes = [k for k in range(logits_BKP.shape[1]) if k != excluded_class]
    for labels_P, logits_KP in zip(labels_BP, logits_BKP, strict=True):
        for first in range(0, labels_P.numel(), _VOXELS_AT_ONCE):
            part = slice(first, first + _VOXELS_AT_ONCE)
            _label_voxels(logits_KP[:, part], classes, score, labels_P[part])
    back = [1 + spatial.index(axis) for axis in (2, 3, 4)]
    labels = labels_BP.unflatten(1, in_memory_order.shape[2:]).permute(0, *back)
    return labels.contiguous()


def _label_voxels(logits_KP: Tensor, classes: list[int], score: _Score, labels_P: Tensor) -> None:
    """Write the class of every voxel into ``labels_P``, which holds zeros."""
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
    _require_numbers(best_P)
