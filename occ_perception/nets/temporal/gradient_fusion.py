"""Gradient-descent fusion: motion, recurrent history and scene, one after the other.

Legend: B batch, C channels, X, Y, Z voxels (maps have no Z axis).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.feature_rows import features_of, rows_of
from occ_perception.nets.temporal.motion_fusion import MotionFusionConfig, MotionFusionState
from occ_perception.nets.temporal.recurrent_history import (
    RecurrentHistoryConfig,
    RecurrentHistoryState,
)
from occ_perception.nets.temporal.scene_fusion import SceneFusionConfig, SceneFusionState
from occ_perception.nets.temporal.step import GridMotion, StepControl
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import moved_voxels


class GradientFusionState(NamedTuple):
    """What the next frame needs of the past.

    Attributes:
        motion, history, scene: of each stage.
        augmentation_B33: grid augmentation of the frame that the state was committed at.
    """

    motion: MotionFusionState
    history: RecurrentHistoryState
    scene: SceneFusionState
    augmentation_B33: Tensor


@dataclass(frozen=True, kw_only=True)
class GradientFusionConfig:
    """The three stages that work on the grid.

    Attributes:
        motion: where every voxel was.
        history: what it was like there.
        scene: what all voxels of the scene have in common.
    """

    motion: MotionFusionConfig
    history: RecurrentHistoryConfig
    scene: SceneFusionConfig

    @classmethod
    def of_width(cls, channels: int) -> GradientFusionConfig:
        """As in the reference code, for features of a width."""
        return cls(
            motion=MotionFusionConfig(channels=channels),
            history=RecurrentHistoryConfig(channels=channels),
            scene=SceneFusionConfig(channels=channels),
        )

    @property
    def frames(self) -> int:
        """Past frames that are remembered one by one."""
        return 1

    def build(self, geometry: ViewGeometry) -> GradientFusion:
        """The module for a grid."""
        return GradientFusion(self, geometry)


class GradientFusion(nn.Module):
    """GDFusion (arXiv 2504.12959) on the grid; its fourth stage, geometry, acts before the lift.

    Maps (B, C, Y, X) or volumes (B, C, Y, X, Z) in and out.
    """

    def __init__(self, config: GradientFusionConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        self.geometry = geometry
        self.grid_motion = GridMotion(geometry)
        self.motion = config.motion.build(geometry)
        self.history = config.history.build(geometry)
        self.scene = config.scene.build()

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> GradientFusionState:
        """Empty state of all stages."""
        return GradientFusionState(
            motion=self.motion.initial_state(batch_size, device, dtype),
            history=self.history.initial_state(batch_size, device, dtype),
            scene=self.scene.initial_state(batch_size, device, dtype),
            augmentation_B33=torch.eye(3, device=device).expand(batch_size, 3, 3).contiguous(),
        )

    def forward(
        self,
        features_BCYX: Tensor,
        state: GradientFusionState,
        step: StepControl,
        augmentation: GridAugmentation,
    ) -> tuple[Tensor, GradientFusionState]:
        rows = rows_of(features_BCYX)
        ego_motion = self.grid_motion(step, augmentation, state.augmentation_B33)
        precise = torch.promote_types(rows.dtype, torch.float32)
        voxels = moved_voxels(ego_motion, self.geometry.grid.dims, self.geometry.flat, precise)

        voxels, motion = self.motion(rows, voxels, state.motion, step)
        rows, history = self.history(rows, voxels, state.history, step)
        rows, scene = self.scene(rows, state.scene, step)
        following = GradientFusionState(motion, history, scene, augmentation.matrix_B33.clone())
        return features_of(rows), following
