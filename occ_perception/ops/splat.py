"""Splats: pixel features spread along their rays into a volume, and the sums that they end in.

Legend: B batch, N cameras, G groups of channels, S samples along a pixel's ray, h, w feature
pixels, C channels, X, Y, Z voxels, P = N * h * w pixels of a slot, R = B * P, V = B * Y * X * Z.
"""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_splat(
    voxels_BNShw3: Tensor, weights_BNShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Splat every pixel's feature trilinearly along its ray.

    A sample at voxel coordinates q adds ``weight * prod_a (1 - |q_a - i_a|) * feature`` to each of
    the eight voxels i around it (ALOcc, arXiv 2411.07725, soft filling). Voxel i is met exactly at
    q = i, which the callers' convention makes the voxel's *lower corner*. Corners outside the grid
    are dropped and the rest is not renormalised. A grid one voxel high therefore gets the tent
    ``1 - |q_z|`` around its floor.

    Args:
        voxels_BNShw3: sample positions (x, y, z) in voxels.
        weights_BNShw: how much of the pixel's feature each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of voxels (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); voxels that nothing reached are exactly zero.
    """
    voxels_SBP3 = voxels_BNShw3.movedim(2, 0).flatten(2, 4)
    weights_SBP = weights_BNShw.movedim(2, 0).flatten(2, 4)
    target, share = corner_shares(voxels_SBP3, weights_SBP, dims)
    return voxel_sums(target, share, features_BNChw, dims)


def corner_shares(
    voxels_SBP3: Tensor, weights_SBP: Tensor, dims: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Flat target voxel and weight of every corner of every sample, each (corners, S, B, P).

    Corners outside the grid get weight zero and the nearest voxel: the number of corners then
    depends on the shapes alone.
    """
    B = weights_SBP.shape[1]
    X, Y, Z = dims
    low_SBP3 = voxels_SBP3.floor()
    upper_share_SBP3 = voxels_SBP3 - low_SBP3
    lower_share_SBP3 = 1.0 - upper_share_SBP3

    def ends(axis: int) -> list[tuple[Tensor, Tensor]]:
        low, count = low_SBP3[..., axis], dims[axis]
        both = [(low, lower_share_SBP3[..., axis]), (low + 1.0, upper_share_SBP3[..., axis])]
        kept = [
            (index.clamp(0, count - 1).int(), share * ((index >= 0) & (index < count)))
            for index, share in both
        ]
        # A single layer of voxels is both ends: one corner with the shares added is enough.
        return kept if count > 1 else [(kept[0][0], kept[0][1] + kept[1][1])]

    slot_offset = torch.arange(B, dtype=torch.int32, device=weights_SBP.device)[:, None]
    targets, shares = [], []
    for (x, share_x), (y, share_y), (z, share_z) in product(ends(0), ends(1), ends(2)):
        targets.append((y * X + x) * Z + z + slot_offset * (Y * X * Z))
        shares.append(weights_SBP * share_x * share_y * share_z)
    return torch.stack(targets), torch.stack(shares)


def grouped_soft_splat(
    voxels_BNShw3: Tensor,
    weights_BNGShw: Tensor,
    features_BNChw: Tensor,
    dims: tuple[int, int, int],
) -> Tensor:
    """Splat every group of channels along its rays with its own weights.

    Group g holds the channels ``g * C / G`` and following ones; all groups share the places. With
    one group this is :func:`soft_splat`, which says what a sample adds to which voxel (CausalOcc,
    arXiv 2509.08388, channel-grouped lifting).

    Made of additions at given places, it can be differentiated twice: a loss may depend on the
    gradient of the volume.

    Args:
        voxels_BNShw3: sample positions (x, y, z) in voxels.
        weights_BNGShw: how much of the pixel's channels in the group each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of voxels (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); voxels that nothing reached are exactly zero.
    """
    B, _, C = features_BNChw.shape[:3]
    G = weights_BNGShw.shape[2]
    X, Y, Z = dims
    voxels_SBP3 = voxels_BNShw3.movedim(2, 0).flatten(2, 4)
    weights_GSBP = weights_BNGShw.permute(2, 3, 0, 1, 4, 5).flatten(3)
    targets, shares = corner_shares(voxels_SBP3, torch.ones_like(voxels_SBP3[..., 0]), dims)
    features_BNhwC = features_BNChw.movedim(2, -1)
    features_GBPc = features_BNhwC.reshape(B, -1, G, C // G).movedim(2, 0)
    groups = []
    for weights_SBP, features_BPc in zip(weights_GSBP, features_GBPc, strict=True):
        volume_Vc = features_BPc.new_zeros(B * Y * X * Z, C // G)
        for target_SBP, share_SBP in zip(
            targets, shares, strict=True
        ):  # all at once would be large
            amount = (weights_SBP * share_SBP)[..., None] * features_BPc
            index = target_SBP.flatten()[:, None].expand(-1, C // G).long()
            volume_Vc = volume_Vc.scatter_add(0, index, amount.flatten(0, 2))
        groups.append(volume_Vc)
    return torch.cat(groups, dim=1).view(B, Y, X, Z, C).movedim(-1, 1)


def hard_splat(
    voxels_BNShw3: Tensor, weights_BNShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Give every sample of a ray to one voxel (voxel pooling of Lift-Splat, arXiv 2008.05711).

    A sample at voxel coordinates q adds ``weight * feature`` to voxel trunc(q). Truncation goes
    *toward zero*, as in the reference code: what lies up to one voxel below the grid, on any axis,
    counts to the grid's first voxels, which therefore collect from twice their volume. Samples
    elsewhere outside are dropped. Positions get no gradient.

    Args:
        voxels_BNShw3: sample positions (x, y, z) in voxels.
        weights_BNShw: how much of the pixel's feature each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of voxels (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); voxels that nothing reached are exactly zero.
    """
    B = len(voxels_BNShw3)
    X, Y, Z = dims
    index_SBP3 = voxels_BNShw3.detach().movedim(2, 0).flatten(2, 4).trunc()
    # Filled where the samples are: a copy from the host would make a GPU wait.
    sizes = torch.stack([index_SBP3.new_full((), size) for size in dims])
    inside_SBP = ((index_SBP3 >= 0) & (index_SBP3 < sizes)).all(dim=-1)
    # Samples outside get weight zero and the nearest voxel: the number of samples then depends on
    # the shapes alone.
    x, y, z = index_SBP3.clamp(min=0).minimum(sizes - 1).int().unbind(-1)
    slot = torch.arange(B, dtype=torch.int32, device=x.device)[:, None]
    target_SBP = ((slot * Y + y) * X + x) * Z + z
    share_SBP = weights_BNShw.movedim(2, 0).flatten(2, 4) * inside_SBP
    return voxel_sums(target_SBP, share_SBP, features_BNChw, dims)


def voxel_sums(
    target_SBP: Tensor, share_SBP: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Sum ``share * feature`` over all samples of a voxel.

    It is a product of a sparse (voxels x pixels) matrix with the (pixels x channels) features:
    only scalars exist per sample.

    Args:
        target_SBP: int32 flat voxel (slot, y, x, z) of each sample, (..., B, P).
        share_SBP: its weight, of the same shape.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of voxels (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); voxels that nothing reached are exactly zero.
    """
    B, _, C = features_BNChw.shape[:3]
    X, Y, Z = dims
    pixels_RC = features_BNChw.flatten(3).transpose(2, 3).reshape(-1, C)
    if torch.compiler.is_exporting():  # other runtimes have no bags
        volume = _additions(target_SBP, share_SBP, pixels_RC, B * Y * X * Z)
        return volume.view(B, Y, X, Z, C).movedim(-1, 1)
    # Sorting by target voxel turns the scatter into one contiguous run of pixels per voxel.
    target, order = target_SBP.flatten().sort()
    voxels = torch.arange(B * Y * X * Z, dtype=target.dtype, device=target.device)
    volume = F.embedding_bag(
        order % len(pixels_RC),
        pixels_RC,
        torch.searchsorted(target, voxels),
        mode="sum",
        per_sample_weights=share_SBP.flatten()[order],
    )
    return volume.view(B, Y, X, Z, C).movedim(-1, 1)


def _additions(target_SBP: Tensor, share_SBP: Tensor, pixels_RC: Tensor, voxels: int) -> Tensor:
    """The sums (V, C) sample by sample, in no order; one corner of all samples at a time."""
    R, C = pixels_RC.shape
    volume = pixels_RC.new_zeros(voxels, C)
    corners = zip(
        target_SBP.reshape(-1, *target_SBP.shape[-3:]),
        share_SBP.reshape(-1, *share_SBP.shape[-3:]),
        strict=True,
    )
    for target, share in corners:
        amount = share.reshape(-1, R, 1) * pixels_RC
        volume = volume.index_add(0, target.flatten().long(), amount.reshape(-1, C))
    return volume
