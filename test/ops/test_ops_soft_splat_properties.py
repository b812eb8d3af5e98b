"""Soft filling neither makes nor loses mass inside the grid, whatever the order of its inputs."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from occ_perception.ops.backend import soft_splat

DTYPE = torch.float64
dims_of_grids = st.tuples(st.integers(2, 6), st.integers(2, 6), st.integers(2, 6))


def random_case(dims, seed, low, high):
    """Samples with every coordinate in [low, dims - high]."""
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand(2, 3, 4, 2, 2, 3, dtype=DTYPE, generator=generator)
    voxels = low + unit * (torch.tensor(dims, dtype=DTYPE) - high - low)
    weights = torch.rand(2, 3, 4, 2, 2, dtype=DTYPE, generator=generator)
    features = torch.randn(2, 3, 5, 2, 2, dtype=DTYPE, generator=generator)
    return voxels, weights, features


@settings(max_examples=40, deadline=None)
@given(dims_of_grids, st.integers(0, 2**31 - 1))
def test_mass_is_conserved_between_the_first_and_the_last_corner(dims, seed):
    voxels, weights, features = random_case(dims, seed, low=0.0, high=1.0)
    volume = soft_splat(voxels, weights, features, dims)
    given_mass = torch.einsum("bnshw,bnchw->bc", weights, features)
    torch.testing.assert_close(volume.sum(dim=(2, 3, 4)), given_mass)


@settings(max_examples=40, deadline=None)
@given(dims_of_grids, st.integers(0, 2**31 - 1))
def test_mass_only_shrinks_when_samples_leave_the_grid(dims, seed):
    voxels, weights, features = random_case(dims, seed, low=-2.0, high=-2.0)
    volume = soft_splat(voxels, weights, features.abs(), dims)
    given_mass = torch.einsum("bnshw,bnchw->bc", weights, features.abs())
    assert (volume.sum(dim=(2, 3, 4)) <= given_mass + 1e-9).all()
    assert (volume >= 0).all()


@settings(max_examples=25, deadline=None)
@given(dims_of_grids, st.integers(0, 2**31 - 1), st.permutations(range(3)))
def test_order_of_cameras_does_not_matter(dims, seed, order):
    voxels, weights, features = random_case(dims, seed, low=-1.0, high=0.0)
    volume = soft_splat(voxels, weights, features, dims)
    shuffled = soft_splat(voxels[:, order], weights[:, order], features[:, order], dims)
    torch.testing.assert_close(shuffled, volume)


@settings(max_examples=25, deadline=None)
@given(dims_of_grids, st.integers(0, 2**31 - 1))
def test_swapping_x_and_y_of_the_samples_transposes_the_volume(dims, seed):
    voxels, weights, features = random_case(dims, seed, low=-1.0, high=0.0)
    volume = soft_splat(voxels, weights, features, dims)
    swapped = soft_splat(voxels[..., [1, 0, 2]], weights, features, (dims[1], dims[0], dims[2]))
    torch.testing.assert_close(swapped.transpose(2, 3), volume)
