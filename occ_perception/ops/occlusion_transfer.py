"""Occlusion transfer: from the first visible bin of a ray to all occupied ones.

Legend: ... any leading axes, D depth bins, L occluded bins, h, w feature pixels.
"""

from __future__ import annotations

from torch import Tensor


def occlusion_transfer(surface_Dhw: Tensor, occluded_Lhw: Tensor) -> Tensor:
    """Spread the probability of a surface over the bins it hides.

    ``occupied[j] = surface[j] + sum_{k=1..min(L, j)} occluded[k-1] * surface[j-k]``: with
    ``surface`` the distribution of the first visible bin and ``occluded[k-1]`` the chance that the
    object still fills the k-th bin behind, this is the total probability that bin j is occupied
    (ALOcc, arXiv 2411.07725, intra-object occlusion). A causal convolution along depth whose
    kernel differs from pixel to pixel; the result is not normalised.

    Args:
        surface_Dhw: (..., D, h, w).
        occluded_Lhw: (..., L, h, w).

    Returns:
        (..., D, h, w).
    """
    bins = surface_Dhw.shape[-3]
    occupied = surface_Dhw.clone()
    for k in range(1, min(occluded_Lhw.shape[-3], bins - 1) + 1):
        hidden = occluded_Lhw[..., k - 1 : k, :, :] * surface_Dhw[..., : bins - k, :, :]
        occupied[..., k:, :, :] += hidden
    return occupied
