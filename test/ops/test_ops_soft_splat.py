"""The soft splat against a loop over points and corners."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from splat_cases import DTYPE, random_case

from occ_perception.ops.backend import soft_splat


def splat_by_loops(voxels, weights, features, dims):
    X, Y, Z = dims
    B, N, S, h, w, _ = voxels.shape
    volume = torch.zeros(B, features.shape[2], Y, X, Z, dtype=DTYPE)
    for b, n, s, row, column in product(range(B), range(N), range(S), range(h), range(w)):
        q = voxels[b, n, s, row, column].tolist()
        for i, j, k in product(*[(math.floor(a), math.floor(a) + 1) for a in q]):
            if 0 <= i < X and 0 <= j < Y and 0 <= k < Z:
                share = (1 - abs(q[0] - i)) * (1 - abs(q[1] - j)) * (1 - abs(q[2] - k))
                amount = weights[b, n, s, row, column] * share
                volume[b, :, j, i, k] += amount * features[b, n, :, row, column]
    return volume


@pytest.mark.parametrize("dims", [(5, 3, 4), (4, 6, 1), (2, 2, 2)])
def test_equals_the_loop_over_points_and_corners(dims):
    case = random_case(dims)
    torch.testing.assert_close(soft_splat(*case, dims), splat_by_loops(*case, dims))


def test_single_precision_equals_double_precision():
    voxels, weights, features = random_case((6, 5, 3), seed=3)
    single = soft_splat(voxels.float(), weights.float(), features.float(), (6, 5, 3))
    double = soft_splat(voxels, weights, features, (6, 5, 3))
    torch.testing.assert_close(single.double(), double, atol=1e-5, rtol=1e-5)


def test_gradients_reach_positions_weights_and_features():
    voxels, weights, features = random_case((4, 3, 2), B=1, S=2, h=1, w=2, C=2, seed=1)
    # Finite differences need room around the integer positions, where the slope changes.
    voxels = voxels.floor() + 0.1 + 0.8 * (voxels - voxels.floor())
    arguments = [t.requires_grad_() for t in (voxels, weights, features)]
    torch.autograd.gradcheck(lambda c, w, f: soft_splat(c, w, f, (4, 3, 2)), arguments)


def test_a_sample_on_a_lower_corner_fills_that_voxel_alone():
    voxels = torch.tensor([2.0, 1.0, 3.0]).view(1, 1, 1, 1, 1, 3)
    volume = soft_splat(
        voxels, torch.full((1, 1, 1, 1, 1), 0.5), torch.ones(1, 1, 1, 1, 1), (4, 3, 5)
    )
    assert volume[0, 0, 1, 2, 3] == 0.5
    assert volume.sum() == 0.5


@pytest.mark.parametrize(
    ("height", "share"),
    [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0), (-0.5, 0.5), (-1.0, 0.0), (7.0, 0.0)],
)
def test_a_single_layer_gets_a_tent_around_its_floor(height, share):
    voxels = torch.tensor([1.0, 1.0, height]).view(1, 1, 1, 1, 1, 3)
    volume = soft_splat(voxels, torch.ones(1, 1, 1, 1, 1), torch.ones(1, 1, 1, 1, 1), (3, 3, 1))
    assert volume[0, 0, 1, 1, 0].item() == pytest.approx(share)


def test_slots_of_a_batch_do_not_mix():
    voxels, weights, features = random_case((5, 4, 3), seed=5)
    together = soft_splat(voxels, weights, features, (5, 4, 3))
    for b in range(2):
        alone = soft_splat(voxels[b : b + 1], weights[b : b + 1], features[b : b + 1], (5, 4, 3))
        torch.testing.assert_close(together[b : b + 1], alone, rtol=1e-12, atol=1e-12)
