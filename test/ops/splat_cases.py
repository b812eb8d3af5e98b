"""What is splatted in the tests of the splats: some of it beside the grid."""

from __future__ import annotations

import torch

DTYPE = torch.float64


def random_case(dims, seed=0, B=2, N=2, S=5, h=2, w=3, C=4):
    """Points in voxels (B, N, S, h, w, 3), their weights, and features (B, N, C, h, w)."""
    generator = torch.Generator().manual_seed(seed)
    span = torch.tensor(dims, dtype=DTYPE) + 4
    voxels = torch.rand(B, N, S, h, w, 3, dtype=DTYPE, generator=generator) * span - 2
    weights = torch.rand(B, N, S, h, w, dtype=DTYPE, generator=generator)
    features = torch.randn(B, N, C, h, w, dtype=DTYPE, generator=generator)
    return voxels, weights, features
