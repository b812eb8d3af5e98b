"""Long history by concatenation.

Legend: B batch, T remembered frames, C channels, X, Y, Z voxels (maps have no Z axis).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.feature_rows import (
    features_of,
    norm_as_affine,
    normalise_rows,
    pointwise,
    project_rows,
    rows_of,
)
from occ_perception.nets.temporal.step import GridMotion, StepControl, choose
from occ_perception.nets.view_geometry import ViewGeometry
from occ_perception.ops.backend import (
    Corners,
    linear_corners,
    moved_voxels,
    row_parts,
    sample_rows,
)


class ConcatHistoryState(NamedTuple):
    """What the next frame needs of the past.

    Attributes:
        slots_BTYXC: features of the last T frames, newest first, each in the grid of the frame
            that the state was committed at; (B, T, Y, X, Z, C) for volumes.
        augmentation_B33: grid augmentation of that frame.
    """

    slots_BTYXC: Tensor
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
    """Sixteen past maps or volumes beside the current one (SOLOFusion, arXiv 2210.02443).

    With F_0 the current feature and F_k the k-th past one warped into the current grid::

        U_k = relu(bn(time_conv([F_k, 0.5 * age_k])))         k = 0..T, shared weights
        y   = relu(bn(cat_conv([U_0 .. U_T])))

    The *warped* features are what is stored: one of age n has been resampled n times. At the first
    frame of a sequence every slot holds the current feature, so that ``age_k = min(k, frames since
    the start)``.

    At inference one slot after the other is warped, projected and added up; the concatenation
    never exists. In training all slots are projected at once, because the batch statistics of
    U are taken over all of them.
    """

    def __init__(self, config: ConcatHistoryConfig, geometry: ViewGeometry) -> None:
        super().__init__()
        C, T = config.channels, config.frames
        self.config = config
        self.geometry = geometry
        self.grid_motion = GridMotion(geometry)
        self.warp = WarpSlot()
        self.project = ProjectSlots(*pointwise(geometry.flat, C + 1, C))
        self.fuse = FuseSlots(*pointwise(geometry.flat, (T + 1) * C, C))

    def initial_state(
        self, batch_size: int, device: torch.device | None, dtype: torch.dtype
    ) -> ConcatHistoryState:
        """Empty slots; they are not read before the first frame of a sequence fills them."""
        X, Y, Z = self.geometry.grid.dims
        voxels = (Y, X) if self.geometry.flat else (Y, X, Z)
        shape = (batch_size, self.config.frames, *voxels, self.config.channels)
        return ConcatHistoryState(
            slots_BTYXC=torch.zeros(shape, device=device, dtype=dtype),
            augmentation_B33=torch.eye(3, device=device).expand(batch_size, 3, 3).contiguous(),
        )

    def forward(
        self,
        features_BCYX: Tensor,
        state: ConcatHistoryState,
        step: StepControl,
        augmentation: GridAugmentation,
    ) -> tuple[Tensor, ConcatHistoryState]:
        current = rows_of(features_BCYX)
        motion = self.grid_motion(step, augmentation, state.augmentation_B33)
        precise = torch.promote_types(current.dtype, torch.float32)
        voxels = moved_voxels(motion, self.geometry.grid.dims, self.geometry.flat, precise)
        corners = linear_corners(voxels.flatten(1, -2), tuple(current.shape[1:-1]))

        seconds_BT = self.config.seconds_per_frame * self._ages(step).to(current.dtype)
        following = torch.empty_like(state.slots_BTYXC)
        slots = self._slots(current, state.slots_BTYXC, following, corners, step.start_B)
        if self.training:  # the batch statistics are those of all slots
            projected = self.project(torch.stack(list(slots), dim=1), seconds_BT)
            total = self.fuse.add(None, projected, 0)
        else:
            total = self._one_after_the_other(slots, seconds_BT)
        state = ConcatHistoryState(following, augmentation.matrix_B33.clone())
        return features_of(self.fuse(total)), state

    def _one_after_the_other(self, slots: Iterable[Tensor], seconds_BT: Tensor) -> Tensor:
        total: Tensor | None = None
        scratch: Tensor | None = None
        for k, slot in enumerate(slots):
            if not torch.is_grad_enabled() and scratch is None:
                scratch = torch.empty_like(slot[:, None])
            projected = self.project(slot[:, None], seconds_BT[:, k : k + 1], scratch)
            total = self.fuse.add(total, projected, k)
        assert total is not None
        return total

    def _slots(
        self,
        current: Tensor,
        past: Tensor,
        following: Tensor,
        corners: Corners,
        start_B: Tensor,
    ) -> Iterator[Tensor]:
        """The current feature and each warped past one; fills ``following`` with what stays."""
        source_at_start = current.detach()
        following[:, 0] = source_at_start
        yield current
        T = self.config.frames
        for k in range(T):
            slot = choose(start_B, source_at_start, past[:, k].detach())
            if k + 1 == T:  # the oldest is seen once more and then forgotten
                yield self.warp(slot, corners)
            elif torch.is_grad_enabled():  # layers keep what they saw; it must not be written into
                following[:, k + 1] = warped = self.warp(slot, corners)
                yield warped
            else:
                yield self.warp(slot, corners, following[:, k + 1])

    def _ages(self, step: StepControl) -> Tensor:
        """(B, T + 1) age in frames: 0 for the current one, none older than the sequence."""
        slots = torch.arange(self.config.frames + 1, device=step.position_B.device)
        since_start = choose(step.start_B, torch.zeros_like(step.position_B), step.position_B)
        return torch.minimum(slots, since_start[:, None])


class WarpSlot(nn.Module):
    """Samples one slot (B, Y, X, C) at the places where the current voxels were."""

    def forward(self, slot: Tensor, corners: Corners, out: Tensor | None = None) -> Tensor:
        if out is None:
            return sample_rows(slot.flatten(1, -2), corners).view(slot.shape)
        sample_rows(slot.flatten(1, -2), corners, out.flatten(1, -2))
        return out


class ProjectSlots(nn.Module):
    """``relu(norm(conv([slot, seconds])))`` of slots (B, k, Y, X, C), seconds (B, k).

    The time channel is constant over a slot, so it enters as a bias per slot and output channel
    instead of as a plane. Without gradients the result can be written into a given tensor.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def forward(self, slots: Tensor, seconds: Tensor, out: Tensor | None = None) -> Tensor:
        C = self.conv.out_channels
        weight, time_weight = self.conv.weight[:, :C], self.conv.weight[:, C].flatten()
        assert self.conv.bias is not None
        bias_BkC = seconds[..., None] * time_weight + self.conv.bias
        if out is None:
            bias = bias_BkC.view(*seconds.shape, *[1] * (slots.dim() - 3), C)
            projected = project_rows(weight, None, slots) + bias
            return F.relu(normalise_rows(self.norm, projected), inplace=True)
        scale, shift = norm_as_affine(self.norm)
        scaled = (scale[:, None] * weight.flatten(1)).T
        for b, k in product(*map(range, seconds.shape)):
            source, target = slots[b, k].view(-1, C), out[b, k].view(-1, C)
            for part in row_parts(len(source), source.device):
                torch.mm(source[part], scaled, out=target[part])
                target[part].add_(scale * bias_BkC[b, k] + shift).relu_()
        return out


class FuseSlots(nn.Module):
    """``relu(norm(conv(concatenated slots)))``, the convolution as a sum over slots."""

    def __init__(self, conv: nn.Conv2d | nn.Conv3d, norm: nn.BatchNorm2d | nn.BatchNorm3d) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm

    def add(self, total: Tensor | None, slots: Tensor, first: int) -> Tensor:
        """Adds the share of slots (B, k, Y, X, C), the first of which has number ``first``.

        Without gradients the sum is made in place.
        """
        B, k, *voxels, C = slots.shape
        weight = self.conv.weight.flatten(1)[:, first * C : (first + k) * C]
        rows = slots.movedim(1, -2).reshape(-1, k * C)
        if total is None:
            return F.linear(rows, weight, self.conv.bias).view(B, *voxels, C)
        if torch.is_grad_enabled():
            return torch.addmm(total.view(-1, C), rows, weight.T).view(B, *voxels, C)
        total.view(-1, C).addmm_(rows, weight.T)
        return total

    def forward(self, total: Tensor) -> Tensor:
        return F.relu(normalise_rows(self.norm, total), inplace=True)
