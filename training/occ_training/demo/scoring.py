"""What the demonstration model scores on towns it has not seen, with and without its history."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.metrics.voxel_iou import VoxelIoU
from occ_perception.models.labels_from_logits import labels_of
from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.models.zoo import ModelCard
from occ_training.demo.batches import BatchMaker, Slot
from occ_training.demo.pool import FramePool


@dataclass(frozen=True)
class TownScores:
    """Scores under the camera mask.

    Attributes:
        frames: how many were looked at.
        mean_iou: over the 17 classes, a fraction of 1.
        geometry_iou: of "occupied" against "free".
        class_iou: by class name, NaN where a class occurs nowhere.
        velocity_error: mean length of the error over cells that truly move, m/s.
        standing_error: the same for "nothing moves", what an answer of zero would score.
    """

    frames: int
    mean_iou: float
    geometry_iou: float
    class_iou: dict[str, float]
    velocity_error: float
    standing_error: float


@torch.no_grad()
def score(
    net: OccupancyNet,
    card: ModelCard,
    pool: FramePool,
    device: torch.device,
    with_history: bool = True,
) -> TownScores:
    """Stream every clip of a pool through a network, one after the other.

    Args:
        net: in evaluation mode.
        card: of the network.
        pool: clips; waited for.
        device: of the network.
        with_history: False starts anew at every frame.
    """
    batches = BatchMaker(card, device)
    voxels = VoxelIoU(card.labels).to(device)
    errors = torch.zeros(3, dtype=torch.float64, device=device)
    for number in range(len(pool.clips)):
        pool.wait_for(number + 1)
        state = net.initial_state(1, device)
        frames = pool.ready(number)
        for position, frame in enumerate(frames):
            start = position == 0 or not with_history
            batch = batches([Slot(frame, None if start else frames[position - 1])])
            position_B = torch.tensor([0 if start else position], device=device)
            outputs, state = net(batch.inputs(position_B), state)
            seen = batch.camera_mask_BXYZ
            assert seen is not None and batch.flow_BXYZ2 is not None
            voxels.update(labels_of(outputs, card), batch.labels_BXYZ, seen)
            if outputs.flow_BXYZ2 is not None:
                errors += _flow_errors(outputs.flow_BXYZ2, batch.flow_BXYZ2, seen)
    result = {name: float(value) for name, value in voxels.compute().items()}
    moving = float(errors[2]) or float("nan")
    return TownScores(
        frames=int(result["frames"]),
        mean_iou=result["mIoU"],
        geometry_iou=result["IoU"],
        class_iou={
            name: result[f"IoU[{name}]"]
            for number, name in enumerate(card.labels.class_names)
            if number != card.labels.empty_class
        },
        velocity_error=float(errors[0]) / moving,
        standing_error=float(errors[1]) / moving,
    )


def _flow_errors(predicted: Tensor, true: Tensor, seen: Tensor) -> Tensor:
    """Summed error, summed true speed, and number of the visible cells that move."""
    moves = seen & (true != 0.0).any(dim=-1)
    error = (predicted.float() - true)[moves].norm(dim=-1).sum()
    return torch.stack([error, true[moves].norm(dim=-1).sum(), moves.sum()]).double()
