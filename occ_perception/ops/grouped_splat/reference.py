"""Soft filling in groups, in plain torch.

Legend: B batch, N cameras, G groups of channels, S samples along a pixel's ray, h, w feature
pixels, C channels, X, Y, Z cells, P = N * h * w pixels of a slot, V = B * Y * X * Z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from occ_perception.ops.soft_splat.reference import corner_shares


def grouped_soft_splat(
    cells_BNShw3: Tensor, weights_BNGShw: Tensor, features_BNChw: Tensor, dims: tuple[int, int, int]
) -> Tensor:
    """Splat every group of channels along its rays with its own weights.

    Group g holds the channels ``g * C / G`` and following ones; all groups share the places. With
    one group this is :func:`~occ_perception.ops.soft_splat.reference.soft_splat`, which says what a
    sample adds to which cell (CausalOcc, arXiv 2509.08388, channel-grouped lifting).

    Made of additions at given places, it can be differentiated twice: a loss may depend on the
    gradient of the volume.

    Args:
        cells_BNShw3: sample positions (x, y, z) in cells.
        weights_BNGShw: how much of the pixel's channels in the group each sample carries.
        features_BNChw: one feature per pixel, shared by all its samples.
        dims: number of cells (X, Y, Z).

    Returns:
        (B, C, Y, X, Z); cells that nothing reached are exactly zero.
    """
    B, _, C = features_BNChw.shape[:3]
    G = weights_BNGShw.shape[2]
    X, Y, Z = dims
    cells_SBP3 = cells_BNShw3.movedim(2, 0).flatten(2, 4)
    weights_GSBP = weights_BNGShw.permute(2, 3, 0, 1, 4, 5).flatten(3)
    targets, shares = corner_shares(cells_SBP3, torch.ones_like(cells_SBP3[..., 0]), dims)
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
