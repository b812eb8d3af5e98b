"""Maps and volumes as tables of voxels: one row of channels per voxel.

Temporal fusion works voxel by voxel (1x1 layers, sampling at moved voxels), which wants the
channels next to each other in memory; encoders want them apart.

Legend: B batch, C channels, X, Y, Z voxels; maps are (B, C, Y, X), volumes (B, C, Y, X, Z).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rows_of(features: Tensor) -> Tensor:
    """(B, C, Y, X[, Z]) to contiguous (B, Y, X[, Z], C)."""
    return features.movedim(1, -1).contiguous()


def features_of(rows: Tensor) -> Tensor:
    """(B, Y, X[, Z], C) to contiguous (B, C, Y, X[, Z])."""
    return rows.movedim(-1, 1).contiguous()


def normalise_rows(norm: nn.BatchNorm2d | nn.BatchNorm3d, rows: Tensor) -> Tensor:
    """Batch norm over everything but the last axis."""
    flat = rows.reshape(-1, rows.shape[-1])
    shaped = flat.view(*flat.shape, *[1] * (2 if isinstance(norm, nn.BatchNorm2d) else 3))
    return norm(shaped).view(rows.shape)


def norm_as_affine(norm: nn.BatchNorm2d | nn.BatchNorm3d) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that the norm amounts to in evaluation mode."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def project_rows(weight: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """1x1 convolution whose kernel (C', C, 1, 1[, 1]) may have trailing ones."""
    return F.linear(rows, weight.flatten(1), bias)


def pointwise(
    flat: bool, in_channels: int, out_channels: int
) -> tuple[nn.Conv2d | nn.Conv3d, nn.BatchNorm2d | nn.BatchNorm3d]:
    """The 1x1 convolution and batch norm whose parameters a checkpoint of that kind holds."""
    if flat:
        return nn.Conv2d(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)
    return nn.Conv3d(in_channels, out_channels, 1), nn.BatchNorm3d(out_channels)


def empty_rows(
    batch_size: int,
    dims: tuple[int, int, int],
    channels: int,
    device: torch.device | None,
    dtype: torch.dtype,
    flat: bool,
) -> Tensor:
    """Zero rows (B, Y, X[, Z], C) for a state."""
    X, Y, Z = dims
    voxels = (Y, X) if flat else (Y, X, Z)
    return torch.zeros(batch_size, *voxels, channels, device=device, dtype=dtype)
