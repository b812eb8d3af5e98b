"""Long history by concatenation.

Legend: B batch, T remembered frames, C channels, X, Y, Z cells (maps have no Z axis).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.temporal.step import StepControl, choose, grid_motion
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import moved_cells, sample_cells


class ConcatHistoryState(NamedTuple):
    """What the next frame needs of the past.

    Attributes:
        slots_BTCYX: features of the last T frames, newest first, each in the grid of the frame
            that the state was committed at; (B, T, C, Y, X, Z) for volumes.
        augmentation_B33: grid augmentation of that frame.
    """

    slots_BTCYX: Tensor
    augmentation_B33: Tensor


@dataclass(frozen=True, kw_only=True)
class ConcatHistoryConfig:
    """How much is remembered.

    Attributes:
        channels: width of the features.
        frames: number T of remembered frames.
        seconds_per_frame: what one frame of age means to the time channel. Checkpoints hold the
            constant 0.5 for every data set; it is not the real frame spacing.
    """

    channels: int
    frames: int = 16
    seconds_per_frame: float = 0.5

    def build(self, geometry: ViewGeometry) -> ConcatHistory:
        """The module for a grid."""
        return ConcatHistory(self, geometry)


class ConcatHistory(nn.Module):
    """Sixteen past maps beside the current one (SOLOFusion, arXiv 2210.02443).

    With F_0 the current feature and F_k the k-th past one warped into the current grid::

        U_k = relu(bn(time_conv([F_k, 0.5 * age_k])))         k = 0..T, shared weights
        y   = relu(bn(cat_conv([U_0 .. U_T])))

    The *warped* maps are what is stored: a map of age n has been resampled n times. At a start
    every slot holds the current feature, so that ``age_k = min(k, frames since the start)``.
    """

    def __init__(self, config: ConcatHistoryConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C, T = config.channels, config.frames
        self.config = config
        self.geometry = geometry
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if geometry.flat else (nn.Conv3d, nn.BatchNorm3d)
        self.warp = WarpSlots()
        self.project = ProjectSlots(conv(C + 1, C, 1), norm(C))
        self.fuse = nn.Sequential(conv((T + 1) * C, C, 1), norm(C), nn.ReLU(inplace=True))

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> ConcatHistoryState:
        """Empty slots; their content is not read before a start fills them."""
        X, Y, Z = self.geometry.grid.dims
        cells = (Y, X) if self.geometry.flat else (Y, X, Z)
        shape = (batch_size, self.config.frames, self.config.channels, *cells)
        return ConcatHistoryState(
            slots_BTCYX=torch.zeros(shape, device=device, dtype=dtype),
            augmentation_B33=torch.eye(3, device=device).expand(batch_size, 3, 3).contiguous(),
        )

    def forward(
        self,
        features_BCYX: Tensor,
        state: ConcatHistoryState,
        step: StepControl,
        bev_augmentation_B33: Tensor,
    ) -> tuple[Tensor, ConcatHistoryState]:
        T = self.config.frames
        motion = grid_motion(step, bev_augmentation_B33, state.augmentation_B33, self.geometry)
        precise = torch.promote_types(features_BCYX.dtype, torch.float32)
        cells = moved_cells(motion, self.geometry.grid.dims, self.geometry.flat, precise)
        past = choose(step.start_B, features_BCYX.detach()[:, None], state.slots_BTCYX.detach())
        slots = torch.cat([features_BCYX[:, None], self.warp(past, cells)], dim=1)

        seconds = self.config.seconds_per_frame * self._ages(step).to(slots.dtype)
        fused = self.fuse(self.project(slots, seconds).flatten(1, 2))
        return fused, ConcatHistoryState(slots[:, :T].detach(), bev_augmentation_B33.clone())

    def _ages(self, step: StepControl) -> Tensor:
        """(B, T + 1) age in frames: 0 for the current one, none older than the sequence."""
        slots = torch.arange(self.config.frames + 1, device=step.position_B.device)
        since_start = choose(step.start_B, torch.zeros_like(step.position_B), step.position_B)
        return torch.minimum(slots, since_start[:, None])


class ProjectSlots(nn.Module):
    """``relu(norm(conv([slot, seconds])))`` of every slot (B, T, C, ...), seconds (B, T).

    The time channel is constant over a slot, so it enters as a bias per slot and output channel
    instead of as a plane.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, slots: Tensor, seconds: Tensor) -> Tensor:
        C = self.conv.out_channels
        weight, time_weight = self.conv.weight[:, :C], self.conv.weight[:, C].flatten()
        time_bias = (seconds.flatten()[:, None] * time_weight).view(-1, C, *[1] * (slots.dim() - 3))
        convolve = F.conv2d if slots.dim() == 5 else F.conv3d
        projected = convolve(slots.flatten(0, 1), weight, self.conv.bias) + time_bias
        return F.relu(self.norm(projected), inplace=True).unflatten(0, slots.shape[:2])


class WarpSlots(nn.Module):
    """Samples all slots (B, T, C, ...) at the places where the current cells were."""

    def forward(self, slots: Tensor, cells: Tensor) -> Tensor:
        T = slots.shape[1]
        shared = cells[:, None].expand(-1, T, *cells.shape[1:])
        return sample_cells(slots.flatten(0, 1), shared.flatten(0, 1)).unflatten(0, slots.shape[:2])
