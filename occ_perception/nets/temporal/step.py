"""What the host decides about one step of a stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import VoxelFrame, voxel_frame, voxel_motion


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


class GridMotion(nn.Module):
    """Motion between the grids of two frames in voxels, (B, 4, 4) float64.

    ``M = F^-1 A' E A^-1 F``: undo this frame's grid augmentation A, move by the ego motion E,
    apply the augmentation A' the state was made with; F maps voxel indices to metres.

    Args:
        geometry: names the grid.
    """

    metres_T_voxels_44: Tensor
    voxels_T_metres_44: Tensor

    def __init__(self, geometry: ViewGeometry) -> None:
        super().__init__()
        frame = voxel_frame(geometry.grid.lower, geometry.grid.voxel_size, geometry.flat)
        self.register_buffer("metres_T_voxels_44", frame.metres_T_voxels_44, persistent=False)
        self.register_buffer("voxels_T_metres_44", frame.voxels_T_metres_44, persistent=False)

    def forward(
        self,
        step: StepControl,
        augmentation: GridAugmentation,
        previous_augmentation_B33: Tensor,
    ) -> Tensor:
        previous_B33 = choose(step.start_B, augmentation.matrix_B33, previous_augmentation_B33)
        previous_B33 = previous_B33.double()
        E = step.previous_T_current_B44.double()
        rotation = previous_B33 @ E[:, :3, :3] @ augmentation.inverse_B33
        shift = previous_B33 @ E[:, :3, 3:]
        motion = torch.cat([torch.cat([rotation, shift], dim=2), E[:, 3:]], dim=1)
        # A network that was made float32 altogether has rounded its constants, too.
        frame = (self.metres_T_voxels_44.double(), self.voxels_T_metres_44.double())
        return voxel_motion(motion, VoxelFrame(*frame))
