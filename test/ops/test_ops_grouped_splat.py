"""The grouped splat against the plain one, its mass, and its second derivatives."""

from __future__ import annotations

import torch

from occ_perception.ops.backend import grouped_soft_splat, soft_splat

DTYPE = torch.float64


def random_case(dims, groups, seed=0, B=2, N=2, S=4, h=2, w=3, C=4, outside=2.0):
    generator = torch.Generator().manual_seed(seed)
    span = torch.tensor(dims, dtype=DTYPE) - 1 + 2 * outside
    voxels = torch.rand(B, N, S, h, w, 3, dtype=DTYPE, generator=generator) * span - outside
    weights = torch.rand(B, N, groups, S, h, w, dtype=DTYPE, generator=generator)
    features = torch.randn(B, N, C, h, w, dtype=DTYPE, generator=generator)
    return voxels, weights, features


def test_each_group_is_splatted_with_its_own_weights():
    dims = (5, 3, 4)
    voxels, weights, features = random_case(dims, groups=2)
    volume = grouped_soft_splat(voxels, weights, features, dims)
    for g in range(2):
        alone = soft_splat(voxels, weights[:, :, g], features[:, :, 2 * g : 2 * g + 2], dims)
        torch.testing.assert_close(volume[:, 2 * g : 2 * g + 2], alone)


def test_one_group_is_the_plain_splat_on_a_single_layer_too():
    for dims in ((5, 3, 4), (4, 6, 1)):
        voxels, weights, features = random_case(dims, groups=1, seed=3)
        volume = grouped_soft_splat(voxels, weights, features, dims)
        torch.testing.assert_close(volume, soft_splat(voxels, weights[:, :, 0], features, dims))


def test_mass_is_kept_where_all_corners_lie_in_the_grid():
    dims = (6, 5, 4)
    voxels, weights, features = random_case(dims, groups=2, outside=0.0)
    volume = grouped_soft_splat(voxels, weights, features, dims)
    per_pixel = weights.sum(dim=3).repeat_interleave(2, dim=2)  # B N C h w, two channels a group
    torch.testing.assert_close(volume.sum(dim=(2, 3, 4)), (per_pixel * features).sum(dim=(1, 3, 4)))


def test_first_and_second_derivatives():
    dims = (3, 3, 2)
    voxels, weights, features = random_case(dims, groups=2, B=1, N=1, S=2, h=1, w=2, seed=1)
    # Finite differences need room around the integer positions, where the slope changes.
    voxels = voxels.floor() + 0.1 + 0.8 * (voxels - voxels.floor())
    arguments = [t.requires_grad_() for t in (voxels, weights, features)]
    splat = lambda c, w, f: grouped_soft_splat(c, w, f, dims)  # noqa: E731
    assert torch.autograd.gradcheck(splat, arguments)
    assert torch.autograd.gradgradcheck(splat, arguments)
