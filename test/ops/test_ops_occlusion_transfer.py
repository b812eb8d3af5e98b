"""The occlusion transfer against loops, and against the matrix the paper's formula stands for."""

from __future__ import annotations

import pytest
import torch

from occ_perception.ops.backend import occlusion_transfer


def transfer_by_loops(surface, occluded):
    result = surface.clone()
    D, h, w = surface.shape
    for j in range(D):
        for k in range(1, min(len(occluded), j) + 1):
            for row in range(h):
                for column in range(w):
                    result[j, row, column] += (
                        occluded[k - 1, row, column] * surface[j - k, row, column]
                    )
    return result


@pytest.mark.parametrize(("bins", "length"), [(9, 4), (5, 22), (1, 3), (6, 1)])
def test_equals_the_double_loop(bins, length):
    torch.manual_seed(0)
    surface = torch.rand(2, 3, bins, 2, 2, dtype=torch.float64).softmax(dim=2)
    occluded = torch.rand(2, 3, length, 2, 2, dtype=torch.float64)
    got = occlusion_transfer(surface, occluded)
    for b in range(2):
        for n in range(3):
            expected = transfer_by_loops(surface[b, n], occluded[b, n])
            torch.testing.assert_close(got[b, n], expected)


def test_certain_surface_fills_exactly_the_occluded_length_behind_it():
    surface = torch.zeros(8, 1, 1)
    surface[2] = 1.0
    occluded = torch.zeros(22, 1, 1)
    occluded[:3] = 1.0
    assert occlusion_transfer(surface, occluded).flatten().tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_argument_is_not_changed_and_gradients_pass():
    surface = torch.rand(1, 1, 5, 1, 2, dtype=torch.float64, requires_grad=True)
    occluded = torch.rand(1, 1, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    before = surface.detach().clone()
    torch.autograd.gradcheck(occlusion_transfer, (surface, occluded))
    assert torch.equal(surface.detach(), before)
