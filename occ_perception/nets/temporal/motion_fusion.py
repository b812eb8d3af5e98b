"""Motion fusion: a displacement of every voxel on top of the ego motion.

Legend: B batch, C channels, X, Y, Z voxels (maps have no Z axis), A grid axes in the order
(y, x) or (y, x, z).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.temporal.feature_rows import empty_rows, project_rows
from occ_perception.nets.temporal.step import StepControl, choose
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import displacement_gradient

# Checkpoints predict (x, y) or (x, y, z); positions of voxels run in the order of the grid's axes.
_PREDICTED_TO_GRID_AXES = {2: [1, 0], 3: [1, 0, 2]}


class MotionFusionState(NamedTuple):
    """What the next frame needs of the motion field.

    Attributes:
        displacement_BYXA: refined displacement of every voxel in voxels, on the grid of the frame
            that the state was committed at; (B, Y, X, Z, A) for volumes.
    """

    displacement_BYXA: Tensor


@dataclass(frozen=True, kw_only=True)
class MotionFusionConfig:
    """How far voxels may move, and how much the past counts.

    Attributes:
        channels: width of the features.
        step_size: of the gradient step towards the stored field.
        limit: bound of the predicted displacement, in voxels, and of its gradient.
    """

    channels: int
    step_size: float = 0.1
    limit: float = 20.0

    def build(self, geometry: ViewGeometry) -> MotionFusion:
        """The module for a grid."""
        return MotionFusion(self, geometry)


class MotionFusion(nn.Module):
    """Corrects where every voxel was for things that move by themselves, and for pose errors.

    GDFusion (arXiv 2504.12959), motion fusion. A displacement u is predicted from the current
    features and takes one gradient step towards the field of the previous frame, read where the
    voxel comes from::

        u' = clamp(predict(x), +-20)                      q: voxel by the ego motion alone
        u  = u' - 0.1 clamp(dloss/du(u'), +-20)           see ops/gradient_steps.py
        voxel was at q + u

    The step is left out at the first frame of a sequence, and where ``q + u'`` lies outside the
    grid. It passes no gradient: training reaches the prediction through u' alone. The field is
    stored on its own frame's grid and not warped.
    """

    def __init__(self, config: MotionFusionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry
        self.axes = 2 if geometry.flat else 3
        self.predict = nn.Conv3d(config.channels, self.axes, 1)  # 3-D for maps too

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> MotionFusionState:
        """An empty field; it is not read before the first frame of a sequence fills it."""
        precise = torch.promote_types(dtype, torch.float32)
        dims, flat = self.geometry.grid.dims, self.geometry.flat
        return MotionFusionState(empty_rows(batch_size, dims, self.axes, device, precise, flat))

    def forward(
        self, rows_BYXC: Tensor, voxels_BYXA: Tensor, state: MotionFusionState, step: StepControl
    ) -> tuple[Tensor, MotionFusionState]:
        """Corrected positions of all voxels, and the state after this frame.

        Args:
            rows_BYXC: current features.
            voxels_BYXA: where each voxel was one frame ago if nothing but the vehicle moved.
            state: of the frame before.
            step: start flag of every slot.
        """
        order = _PREDICTED_TO_GRID_AXES[self.axes]
        predicted = project_rows(self.predict.weight, self.predict.bias, rows_BYXC)
        predicted = torch.stack([predicted[..., axis] for axis in order], dim=-1)
        predicted = predicted.to(voxels_BYXA.dtype)
        predicted = predicted.clamp(-self.config.limit, self.config.limit)
        with torch.no_grad():
            gradient = displacement_gradient(
                predicted.flatten(1, -2),
                state.displacement_BYXA.flatten(1, -2),
                voxels_BYXA.flatten(1, -2),
                tuple(voxels_BYXA.shape[1:-1]),
            ).clamp(-self.config.limit, self.config.limit)
            pull = choose(step.start_B, gradient.new_zeros(()), self.config.step_size * gradient)
        displacement = predicted - pull.view_as(predicted)
        return voxels_BYXA + displacement, MotionFusionState(displacement.detach())
