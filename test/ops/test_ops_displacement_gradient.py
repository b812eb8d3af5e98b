"""Displacement gradient against autograd through torch's own sampling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ_perception.ops.gradient_steps import displacement_gradient

SIZES = {2: (5, 7), 3: (5, 7, 4)}


def lattice(sizes):
    axes = [torch.arange(n, dtype=torch.float64) for n in sizes]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)


def drawn(axes, spread):
    generator = torch.Generator().manual_seed(axes)
    sizes = SIZES[axes]
    n = len(lattice(sizes))

    def draw():
        return torch.randn(2, n, axes, dtype=torch.float64, generator=generator)

    return sizes, spread * draw(), draw(), lattice(sizes) + 0.4 * draw()


def stored_at(stored, place, sizes):
    """The stored field at fractional voxels, by grid_sample with border replication."""
    axes = len(sizes)
    field = stored.movedim(-1, 1).view(2, axes, *sizes)
    scale = torch.tensor([2.0 / (size - 1) for size in sizes], dtype=place.dtype)
    grid = (place * scale - 1.0).flip(-1)  # grid_sample names the last axis first
    grid = grid.view(2, -1, *[1] * (axes - 1), axes)
    sampled = F.grid_sample(field, grid, padding_mode="border", align_corners=True)
    return sampled.flatten(2).movedim(1, -1)


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_equals_autograd_inside_and_is_zero_outside(axes, spread):
    sizes, displacement, stored, voxels = drawn(axes, spread)
    leaf = displacement.clone().requires_grad_()
    mismatch = stored_at(stored, voxels + leaf, sizes) - leaf
    (expected,) = torch.autograd.grad(mismatch.square().mean(dim=-1).sum(), leaf)

    place = voxels + displacement
    last = torch.tensor(sizes) - 1
    inside = ((place >= 0) & (place <= last)).all(dim=-1)
    assert inside.any()
    assert not inside.all()

    got = displacement_gradient(displacement, stored, voxels, sizes)
    torch.testing.assert_close(got[inside], expected[inside], rtol=1e-10, atol=1e-12)
    assert torch.equal(got[~inside], torch.zeros_like(got[~inside]))


@pytest.mark.parametrize("axes", [2, 3])
def test_two_equal_fields_that_do_not_vary_agree(axes):
    sizes = SIZES[axes]
    voxels = lattice(sizes)[None]
    field = torch.full_like(voxels, 0.25)
    assert torch.equal(displacement_gradient(field, field, voxels, sizes), torch.zeros_like(voxels))


def test_a_uniform_stored_field_pulls_by_its_difference():
    sizes = SIZES[2]
    voxels = lattice(sizes)[None]
    mine, stored = torch.full_like(voxels, 0.25), torch.full_like(voxels, 1.0)
    got = displacement_gradient(mine, stored, voxels, sizes)
    inside = (voxels + mine <= torch.tensor(sizes) - 1).all(dim=-1)
    # d/du of mean_i (1 - u)^2 over two axes is -(1 - u)
    torch.testing.assert_close(got[inside], torch.full_like(got[inside], -0.75))


def test_the_last_node_itself_is_inside():
    sizes = (3, 3)
    voxels = torch.tensor([[[2.0, 2.0]]], dtype=torch.float64)
    stored = torch.arange(18.0, dtype=torch.float64).view(1, 9, 2)
    got = displacement_gradient(torch.zeros_like(voxels), stored, voxels, sizes)
    assert got.isfinite().all()
    assert got.abs().max() > 0


def test_places_that_are_no_numbers_give_zero():
    sizes = (3, 3)
    voxels = torch.full((1, 9, 2), float("nan"))
    got = displacement_gradient(torch.zeros(1, 9, 2), torch.ones(1, 9, 2), voxels, sizes)
    assert torch.equal(got, torch.zeros(1, 9, 2))
