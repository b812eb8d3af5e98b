"""Gradients that GDFusion (arXiv 2504.12959) descends while a stream runs: of motion and of scene.

Legend: B batch, n voxels (Y * X, or Y * X * Z), A grid axes (2 or 3) in the order of the flattened
table, C channels. Matrices act on columns, ``W x``; features are rows, so that ``rows @ W^T`` is
what runs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_EPSILON = 1e-6
# Voxels a CPU handles at once: what a block computes on the way then stays in its cache. A GPU
# takes all voxels, since there the number of launches counts.
_VOXELS_AT_ONCE = 4096


def displacement_gradient(
    displacement_BnA: Tensor, stored_BnA: Tensor, voxels_BnA: Tensor, sizes: tuple[int, ...]
) -> Tensor:
    """Gradient, in every voxel, of the disagreement between a motion field and the stored one.

    A voxel that comes from ``q = voxels + u`` should move like the content it shows moved before
    (GDFusion, arXiv 2504.12959, motion fusion)::

        loss(u)     = 1/A sum_i (S_i(voxels + u) - u_i)^2          S: stored field, interpolated
        dloss/du_c  = 2/A [sum_i (S_i - u_i) dS_i/dq_c - (S_c - u_c)]

    The first term moves the voxel along the slope of the stored field, the second pulls its own
    value. Linear interpolation has one slope per box between nodes; the box of ``floor(q)`` is
    taken.

    Args:
        displacement_BnA: the predicted field u, in voxels.
        stored_BnA: the field of the previous frame on the previous grid.
        voxels_BnA: where the ego motion says that each voxel was, in voxels.
        sizes: of the grid's axes, their product is n.

    Returns:
        (B, n, A); zero where q lies outside the grid.
    """
    place_BnA = voxels_BnA + displacement_BnA
    # Filled where the field is: a copy from the host would make a GPU wait.
    last = torch.stack([place_BnA.new_full((), size - 1) for size in sizes])
    inside_Bn1 = ((place_BnA >= 0) & (place_BnA <= last)).all(dim=-1, keepdim=True)
    place_BnA = torch.where(inside_Bn1, place_BnA, 0.0)  # any valid place will do there

    low_BnA = place_BnA.floor()
    ends = torch.stack([low_BnA, torch.minimum(low_BnA + 1.0, last)]).int()
    shares = [(place_BnA - low_BnA)[..., axis, None] for axis in range(len(sizes))]
    field_BnA, slopes = _interpolate(stored_BnA, ends, sizes, shares)

    mismatch_BnA = field_BnA - displacement_BnA
    along = [(mismatch_BnA * slope).sum(dim=-1) for slope in slopes]
    gradient = (torch.stack(along, dim=-1) - mismatch_BnA) * (2.0 / len(sizes))
    return torch.where(inside_Bn1, gradient, 0.0)


def _interpolate(
    table_BnA: Tensor, ends_2BnA: Tensor, sizes: tuple[int, ...], shares: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Values between nodes, and their slope along each axis."""
    B = len(table_BnA)
    rows = table_BnA.reshape(-1, table_BnA.shape[-1])
    first_row = torch.arange(B, device=rows.device, dtype=torch.int32)[:, None]

    def halves(index: Tensor, axis: int) -> tuple[Tensor, list[Tensor]]:
        if axis == len(sizes):
            return rows[index], []
        low, low_slopes = halves(index * sizes[axis] + ends_2BnA[0, ..., axis], axis + 1)
        high, high_slopes = halves(index * sizes[axis] + ends_2BnA[1, ..., axis], axis + 1)
        share, rise = shares[axis], high - low
        across = [a + share * (b - a) for a, b in zip(low_slopes, high_slopes, strict=True)]
        return low + share * rise, [rise, *across]

    return halves(first_row, 0)


class SceneLayer(NamedTuple):
    """The scene's layer, ``x -> gain * normalise(W x + b) + shift``, per batch slot.

    Attributes:
        weight_BCC: W.
        bias_BC: b.
        gain_BC, shift_BC: of the layer norm.
    """

    weight_BCC: Tensor
    bias_BC: Tensor
    gain_BC: Tensor
    shift_BC: Tensor


def scene_gradient(
    features_BnC: Tensor, layer: SceneLayer, key_CC: Tensor, value_CC: Tensor
) -> SceneLayer:
    """Gradient of how badly the layer predicts one projection of the scene from another.

    With K the key and P the value projection, the layer is to map ``K x`` to ``(P - K) x``
    (GDFusion, arXiv 2504.12959, scene-level fusion; the layer is trained while it is used, as in
    test-time training, arXiv 2407.04620)::

        z     = W K x + b               s = sqrt(var_C(z) + 1e-6)     z^ = (z - mean_C(z)) / s
        r     = gain z^ + shift - (P - K) x
        loss  = mean over voxels and channels of r^2

    and by the chain rule through the layer norm, with e = 2 r and h = gain e::

        delta      = (h - mean_C(h) - z^ mean_C(h z^)) / s
        dloss/dW   = sum_n delta (K x)^T / (C n)           dloss/db     = sum_n delta / (C n)
        dloss/dgain = sum_n z^ e / (C n)                  dloss/dshift = sum_n e / (C n)

    ``K x`` is never formed: W K and P - K are multiplied first, and K leaves the sum.

    Args:
        features_BnC: x.
        layer: where the gradient is taken.
        key_CC, value_CC: K, P.

    Returns:
        The gradient with respect to each member of ``layer``.
    """
    n, C = features_BnC.shape[1:]
    to_hidden = (layer.weight_BCC @ key_CC).mT
    # Subtracting the mean over the channels is linear, so it goes into the matrix.
    to_hidden = to_hidden - to_hidden.mean(dim=-1, keepdim=True)
    start = layer.bias_BC - layer.bias_BC.mean(dim=-1, keepdim=True)
    to_target = (value_CC - key_CC).mT
    gain_B1C = layer.gain_BC[:, None]
    weight = torch.zeros_like(layer.weight_BCC)
    bias, gain, shift = (torch.zeros_like(layer.bias_BC) for _ in range(3))
    for x in _blocks(features_BnC):
        centred = torch.baddbmm(start[:, None], x, to_hidden)
        scale = torch.rsqrt(centred.square().mean(dim=-1, keepdim=True) + _EPSILON)
        normal = centred * scale
        error = 2.0 * (gain_B1C * normal + layer.shift_BC[:, None] - x @ to_target)
        h = gain_B1C * error
        along = (h * normal).mean(dim=-1, keepdim=True)
        delta = scale * (h - h.mean(dim=-1, keepdim=True) - normal * along)
        weight = weight + delta.mT @ x
        bias = bias + delta.sum(dim=1)
        gain = gain + (normal * error).sum(dim=1)
        shift = shift + error.sum(dim=1)
    count = C * n
    return SceneLayer(weight @ key_CC.T / count, bias / count, gain / count, shift / count)


def scene_apply(features_BnC: Tensor, layer: SceneLayer, query_CC: Tensor) -> Tensor:
    """``gain * normalise(W Q x + b) + shift + Q x`` with Q the query projection.

    Args:
        features_BnC: x.
        layer: of the scene.
        query_CC: Q. The residual is ``Q x``, not x.

    Returns:
        (B, n, C).
    """
    C = features_BnC.shape[-1]
    # Both products with x at once: (W Q) x + b above Q x.
    both = torch.cat([layer.weight_BCC @ query_CC, query_CC.expand_as(layer.weight_BCC)], dim=1).mT
    bias = torch.cat([layer.bias_BC, layer.shift_BC], dim=1)[:, None]
    blocks = []
    for x in _blocks(features_BnC):
        hidden, query = torch.baddbmm(bias, x, both).chunk(2, dim=-1)
        normal = F.layer_norm(hidden, (C,), eps=_EPSILON)
        blocks.append(torch.addcmul(query, normal, layer.gain_BC[:, None]))
    return torch.cat(blocks, dim=1)


def _blocks(features_BnC: Tensor) -> tuple[Tensor, ...]:
    voxels = features_BnC.shape[1] if features_BnC.is_cuda else _VOXELS_AT_ONCE
    return torch.split(features_BnC, voxels, dim=1)
