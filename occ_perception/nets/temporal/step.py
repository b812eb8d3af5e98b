"""What the host decides about one step of a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import voxel_motion


@dataclass(frozen=True)
class StepControl:
    """What the host decides about one step, for every batch slot; on the network's device.

    Attributes:
        start_B: bool, this frame begins a sequence: the slot's state is not read.
        previous_T_current_B44: **float64**, points of the current ego frame to the ego frame of
            the frame that the state was committed at (identity at the first frame of a sequence).
        position_B: int64, number of frames committed since the start (0 at the first frame).
        previous_cam_T_cam_BN44: **float64**, each camera now to the same camera then; only models
            that match images across time read it, others may leave it None.
    """

    start_B: Tensor
    previous_T_current_B44: Tensor
    position_B: Tensor
    previous_cam_T_cam_BN44: Tensor | None = None


def choose(start_B: Tensor, fresh: Tensor, carried: Tensor) -> Tensor:
    """``fresh`` for slots that start, ``carried`` for the others; shapes broadcast after B.

    The result may be one of the two: it is not to be written into.
    """
    on_host = type(start_B) is Tensor and start_B.device.type == "cpu"
    if on_host and fresh.shape == carried.shape and len(start_B) == 1:
        return fresh if start_B.item() else carried  # spares a copy of what may be a volume
    rank = max(fresh.dim(), carried.dim())
    return torch.where(start_B.view(-1, *[1] * (rank - 1)), fresh, carried)


def grid_motion(
    step: StepControl,
    bev_augmentation_B33: Tensor,
    previous_augmentation_B33: Tensor,
    geometry: ViewGeometry,
) -> Tensor:
    """Motion between the grids of two frames in voxels, (B, 4, 4) float64.

    ``M = F^-1 A' E A^-1 F``: undo this frame's grid augmentation A, move by the ego motion E,
    apply the augmentation A' the state was made with; F maps voxel indices to metres.
    """
    previous_B33 = choose(step.start_B, bev_augmentation_B33, previous_augmentation_B33).double()
    undo_B33 = torch.linalg.inv_ex(bev_augmentation_B33.double()).inverse
    E = step.previous_T_current_B44.double()
    motion = torch.zeros_like(E)
    motion[:, :3, :3] = previous_B33 @ E[:, :3, :3] @ undo_B33
    motion[:, :3, 3:] = previous_B33 @ E[:, :3, 3:]
    motion[:, 3, 3] = 1.0
    return voxel_motion(motion, geometry.grid.lower, geometry.grid.voxel_size, geometry.flat)
