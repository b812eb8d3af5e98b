"""The hard splat against a loop over points."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from splat_cases import DTYPE, random_case

from occ_perception.ops.backend import hard_splat


def splat_by_loops(voxels, weights, features, dims):
    X, Y, Z = dims
    B, N, S, h, w, _ = voxels.shape
    volume = torch.zeros(B, features.shape[2], Y, X, Z, dtype=DTYPE)
    for b, n, s, row, column in product(range(B), range(N), range(S), range(h), range(w)):
        i, j, k = (math.trunc(q) for q in voxels[b, n, s, row, column].tolist())
        if 0 <= i < X and 0 <= j < Y and 0 <= k < Z:
            volume[b, :, j, i, k] += weights[b, n, s, row, column] * features[b, n, :, row, column]
    return volume


@pytest.mark.parametrize("dims", [(5, 3, 4), (4, 6, 1), (2, 2, 2)])
def test_equals_the_loop_over_points(dims):
    case = random_case(dims)
    torch.testing.assert_close(hard_splat(*case, dims), splat_by_loops(*case, dims))


@pytest.mark.parametrize(
    ("place", "voxel"),
    [
        ((2.0, 1.0, 3.0), (2, 1, 3)),
        ((2.99, 1.99, 3.99), (2, 1, 3)),
        ((-0.99, 1.5, 3.5), (0, 1, 3)),  # up to one voxel below the grid counts to its first voxel
        ((-0.5, -0.5, -0.99), (0, 0, 0)),
        ((-1.0, 1.5, 3.5), None),
        ((4.0, 1.5, 3.5), None),
        ((2.0, 1.0, 5.0), None),
        ((1e9, -1e9, 0.0), None),
    ],
)
def test_a_point_goes_to_the_voxel_it_is_truncated_to(place, voxel):
    voxels = torch.tensor(place).view(1, 1, 1, 1, 1, 3)
    volume = hard_splat(
        voxels, torch.full((1, 1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, 1), (4, 3, 5)
    )
    assert volume.sum() == (0.0 if voxel is None else 0.5)
    if voxel is not None:
        x, y, z = voxel
        assert volume[0, 0, y, x, z] == 0.5


def test_gradients_reach_weights_and_features_but_no_positions():
    voxels, weights, features = random_case((4, 3, 2), B=1, S=2, h=1, w=2, C=2, seed=1)
    arguments = [weights.requires_grad_(), features.requires_grad_()]
    torch.autograd.gradcheck(lambda w, f: hard_splat(voxels, w, f, (4, 3, 2)), arguments)
    voxels.requires_grad_()
    hard_splat(voxels, weights, features, (4, 3, 2)).sum().backward()
    assert voxels.grad is None


def test_slots_of_a_batch_do_not_mix():
    case = random_case((5, 4, 3), seed=5)
    together = hard_splat(*case, (5, 4, 3))
    for b in range(2):
        alone = hard_splat(*(part[b : b + 1] for part in case), (5, 4, 3))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-12)
