"""Recurrent history: one fused feature per voxel instead of sixteen remembered ones.

Legend: B batch, C channels, X, Y, Z voxels (maps have no Z axis), A grid axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.temporal.feature_rows import (
    empty_rows,
    normalise_rows,
    pointwise,
    project_rows,
)
from occ_perception.nets.temporal.step import StepControl, choose
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import linear_corners, sample_rows

_LONGEST_PERIOD = 10000.0


class RecurrentHistoryState(NamedTuple):
    """What the next frame needs of the past.

    Attributes:
        fused_BYXC: fused features on the grid of the frame that the state was committed at;
            (B, Y, X, Z, C) for volumes.
    """

    fused_BYXC: Tensor


@dataclass(frozen=True, kw_only=True)
class RecurrentHistoryConfig:
    """The recurrence over voxels.

    Attributes:
        channels: width of the features.
        seconds_per_frame: what one frame means to the time code. Checkpoints hold the constant
            0.5 for every data set; it is not the real frame spacing.
    """

    channels: int
    seconds_per_frame: float = 0.5

    def build(self, geometry: ViewGeometry) -> RecurrentHistory:
        """The module for a grid."""
        return RecurrentHistory(self, geometry)


class RecurrentHistory(nn.Module):
    """Fuses the current features with the fused ones of the frame before.

    GDFusion (arXiv 2504.12959), voxel-level fusion: a linear recurrence ``h = A h' + B x`` is one
    gradient step on the mismatch of state and input; here with learned layers in place of the
    matrices. With H the warped state, n the number of frames since the start, e(n) its code::

        u_x = relu(bn(project(x + e(n))))      u_h = relu(bn(project(H + e(max(n - 1, 0)))))
        f   = relu(bn(fuse([u_x, u_h])))

    The code counts frames within the sequence, not age; it is added after warping, to voxels that
    came from outside the grid as well. At the first frame of a sequence H is x itself, warped all
    the same; f is stored, but x is what goes on. Codes enter as a bias per slot, the concatenation
    as a sum.
    """

    def __init__(self, config: RecurrentHistoryConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C = config.channels
        self.config = config
        self.geometry = geometry
        self.warp = WarpRows()
        self.time_code = nn.Sequential(nn.Linear(C, 2 * C), nn.ReLU(), nn.Linear(2 * C, C))
        self.project = ProjectPair(*pointwise(geometry.flat, C, C))
        self.fuse = FusePair(*pointwise(geometry.flat, 2 * C, C))

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> RecurrentHistoryState:
        """Empty features; they are not read before the first frame of a sequence fills them."""
        dims, flat = self.geometry.grid.dims, self.geometry.flat
        rows = empty_rows(batch_size, dims, self.config.channels, device, dtype, flat)
        return RecurrentHistoryState(rows)

    def forward(
        self,
        rows_BYXC: Tensor,
        voxels_BYXA: Tensor,
        state: RecurrentHistoryState,
        step: StepControl,
    ) -> tuple[Tensor, RecurrentHistoryState]:
        """Fused features, and the state after this frame.

        Args:
            rows_BYXC: current features.
            voxels_BYXA: where each voxel was one frame ago, in voxels.
            state: of the frame before.
            step: start flags and frame numbers.
        """
        past = choose(step.start_B, rows_BYXC.detach(), state.fused_BYXC.detach())
        warped = self.warp(past, voxels_BYXA)
        code_now, code_past = self.time_code(self._waves(step)).to(rows_BYXC.dtype).chunk(2)
        fused = self.fuse(*self.project(rows_BYXC, warped, code_now, code_past))
        return choose(step.start_B, rows_BYXC, fused), RecurrentHistoryState(fused.detach())

    def _waves(self, step: StepControl) -> Tensor:
        """(2B, C) sine and cosine of the frame number now, and of the one before (slots inside)."""
        dtype = self.fuse.conv.weight.dtype
        precise = torch.promote_types(dtype, torch.float32)
        n = choose(step.start_B, torch.zeros_like(step.position_B), step.position_B)
        seconds = self.config.seconds_per_frame * torch.cat([n, (n - 1).clamp(min=0)]).to(precise)
        C = self.config.channels
        even = torch.arange(0, C, 2, device=n.device, dtype=precise)
        phase = seconds[:, None] * torch.exp(even * (-math.log(_LONGEST_PERIOD) / C))
        return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(1).to(dtype)


class WarpRows(nn.Module):
    """Samples features (B, Y, X, C) at the places (B, Y, X, A) where the current voxels were."""

    def forward(self, rows: Tensor, voxels: Tensor) -> Tensor:
        corners = linear_corners(voxels.flatten(1, -2), tuple(rows.shape[1:-1]))
        return sample_rows(rows.flatten(1, -2), corners).view(rows.shape)


class ProjectPair(nn.Module):
    """``relu(norm(conv(rows + code)))`` of the current and of the past features."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(
        self, now: Tensor, past: Tensor, code_now_BC: Tensor, code_past_BC: Tensor
    ) -> tuple[Tensor, Tensor]:
        pair = self._linear(now, code_now_BC), self._linear(past, code_past_BC)
        if self.training:  # the batch statistics are those of both
            normal_now, normal_past = normalise_rows(self.norm, torch.cat(pair)).chunk(2)
        else:
            normal_now, normal_past = (normalise_rows(self.norm, rows) for rows in pair)
        return F.relu(normal_now), F.relu(normal_past)

    def _linear(self, rows: Tensor, code_BC: Tensor) -> Tensor:
        """The layer is linear, so the code's share is a bias per slot."""
        bias_BC = project_rows(self.conv.weight, self.conv.bias, code_BC)
        bias = bias_BC.view(len(rows), *[1] * (rows.dim() - 2), -1)
        return project_rows(self.conv.weight, None, rows).add_(bias)


class FusePair(nn.Module):
    """``relu(norm(conv([now, past])))``, the convolution as a sum of two."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, now: Tensor, past: Tensor) -> Tensor:
        C = now.shape[-1]
        of_now, of_past = self.conv.weight.flatten(1).split(C, dim=1)
        total = F.linear(now.reshape(-1, C), of_now, self.conv.bias)
        total.addmm_(past.reshape(-1, C), of_past.T)
        return F.relu(normalise_rows(self.norm, total), inplace=True).view(now.shape)
