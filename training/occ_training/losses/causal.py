"""The causal loss of CausalOcc (arXiv 2509.08388).

The features of a class in the volume should depend only on the pixels of that class. Legend: B
batch, N cameras, C channels, X, Y, Z voxels, h, w feature pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from occ_perception.labels import UNKNOWN_CLASS
from occ_training.losses.processes import mean_of


def causal_loss(
    volume_BCXYZ: Tensor,
    context_BNChw: Tensor,
    targets_BXYZ: Tensor,
    pixel_targets_BNhw: Tensor,
    generators: Sequence[torch.Generator],
) -> Tensor:
    """Unweighted mean over samples; needs second derivatives through the lifting.

    Args:
        volume_BCXYZ: features whose channels add up to the context's mass, with their graph.
        context_BNChw: the lifted features, part of that graph.
        targets_BXYZ: head class of each voxel, 255 = not supervised.
        pixel_targets_BNhw: head class of each pixel, 255 = unknown.
        generators: one per sample, on the CPU; each picks one class.
    """
    chosen = [_choose(targets, g) for targets, g in zip(targets_BXYZ, generators, strict=True)]
    losses = [volume_BCXYZ.sum() * 0.0]
    for sample, target in enumerate(chosen):
        if target is None:
            continue
        mass = volume_BCXYZ[sample].sum(dim=0)[targets_BXYZ[sample] == target].sum()
        # Each sample's mass depends on its own context only.
        (gradient,) = torch.autograd.grad(mass, context_BNChw, create_graph=True)
        influence_Nhw = gradient[sample].mean(dim=1)
        losses.append(_attribution_loss(influence_Nhw, pixel_targets_BNhw[sample], target))
    return mean_of(torch.stack(losses).sum(), torch.tensor(float(len(chosen))).to(volume_BCXYZ))


def _choose(targets_XYZ: Tensor, generator: torch.Generator) -> int | None:
    """One of the classes that occur, except the last: 255 if there is a mask, else free."""
    candidates = torch.unique(targets_XYZ)[:-1]
    if not len(candidates):
        return None
    return int(candidates[torch.randint(len(candidates), (1,), generator=generator)])


def _attribution_loss(influence_Nhw: Tensor, pixel_targets_Nhw: Tensor, target: int) -> Tensor:
    """Binary cross entropy of the influence; target 1 for pixels that show the class."""
    clamped = influence_Nhw.clamp(0.0, 1.0)
    straight = influence_Nhw + (clamped - influence_Nhw).detach()
    counts = (pixel_targets_Nhw != UNKNOWN_CLASS) & (straight != 0)
    if not counts.any():
        return influence_Nhw.sum() * 0.0
    truth = (pixel_targets_Nhw[counts] == target).to(straight.dtype)
    return F.binary_cross_entropy(straight[counts], truth)
