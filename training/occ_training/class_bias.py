"""Class biases that fit the scores: which class wins where several are likely.

The class of largest probability makes the fewest errors. The intersection over union of a class is
best where the class already wins with a probability of ``IoU / (1 + IoU)``: rare classes, and
everything occupied, come short otherwise. A bias per class, chosen on frames that the network was
not trained on, puts that right.

Legend: P points, C classes of an annotation set (without the dummy class).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS, LabelSet
from occ_perception.metrics import VoxelIoU
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import NetOutputs
from occ_perception.models.network import Network
from occ_training.data.dataset import OccupancyDataset
from occ_training.evaluate import frame_order, predict_frames

_ROUNDS = 3
_CANDIDATES = torch.linspace(-2.0, 2.0, 41)


@dataclass(frozen=True, eq=False)
class DrawnLogits:
    """What a network predicts at voxels drawn from many frames.

    Attributes:
        logits_PC: float32.
        labels_P: int64 class ids.
    """

    logits_PC: Tensor
    labels_P: Tensor


def draw_logits(
    net: Network, card: ModelCard, dataset: OccupancyDataset, points: int, seed: int = 0
) -> DrawnLogits:
    """Logits at ``points`` voxels of every frame, drawn among those with a label.

    Args:
        net: in evaluation mode; not rewritten for running.
        card: its model.
        dataset: frames without augmentation; what its options leave unseen has no label.
        points: voxels per frame.
        seed: of the draws.
    """
    device = next(net.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    logits, labels = [], []
    for batch, outputs in predict_frames(net, card, dataset, frame_order(dataset), device):
        assert batch.labels_BXYZ is not None
        assert isinstance(outputs, NetOutputs) and outputs.logits_BKXYZ is not None
        truth_V = batch.labels_BXYZ[0].flatten()
        known = (truth_V != UNKNOWN_CLASS).nonzero().flatten()
        if not len(known):
            continue
        pick = known[torch.randint(len(known), (points,), generator=generator)]
        of_classes = outputs.logits_BKXYZ[0, 1:].cpu()  # the first one is the dummy
        logits.append(of_classes.reshape(len(of_classes), -1)[:, pick].T.float())
        labels.append(truth_V[pick].long())
    return DrawnLogits(torch.cat(logits), torch.cat(labels))


def mean_score(predicted_P: Tensor, labels_P: Tensor, label_set: LabelSet) -> float:
    """Mean of mIoU and IoU, see :class:`occ_perception.metrics.VoxelIoU`."""
    metric = VoxelIoU(label_set)
    metric.update(predicted_P.view(1, -1, 1, 1), labels_P.view(1, -1, 1, 1))
    scores = metric.compute()
    return float(0.5 * (scores["mIoU"] + scores["IoU"]))


def fit_class_bias(drawn: DrawnLogits, label_set: LabelSet) -> Tensor:
    """(C,) biases that maximise :func:`mean_score`, by one class after the other.

    A class without a voxel among the labels keeps the bias zero.
    """
    logits_PC, labels_P = drawn.logits_PC, drawn.labels_P
    bias_C = torch.zeros(logits_PC.shape[1])
    best = mean_score(logits_PC.argmax(dim=1), labels_P, label_set)
    for _ in range(_ROUNDS):
        before = best
        for k in labels_P.unique().tolist():
            biased_PC = logits_PC + bias_C
            biased_PC[:, k] = -torch.inf
            rival_P, winner_P = biased_PC.max(dim=1)
            lead_P = logits_PC[:, k] - rival_P
            for bias in (bias_C[k] + _CANDIDATES).tolist():
                predicted_P = torch.where(lead_P + bias > 0, k, winner_P)
                score = mean_score(predicted_P, labels_P, label_set)
                if score > best:
                    best, bias_C[k] = score, bias
        if best - before < 1e-4:
            break
    return bias_C
