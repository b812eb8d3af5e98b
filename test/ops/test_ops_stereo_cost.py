"""The stereo cost against a loop over pixels, depths and channels."""

from __future__ import annotations

import math

import pytest
import torch

from occ_perception.ops import stereo_cost as reference
from occ_perception.ops import stereo_cost_numba as compiled


@pytest.fixture(params=[reference, compiled], ids=["reference", "compiled"])
def stereo_cost(request):
    return request.param.stereo_cost


def cost_by_loops(current, previous, position, outside):
    n, C, h, w = current.shape
    D = position.shape[3]
    cost = torch.zeros(n, D, h, w, dtype=torch.float64)
    for camera in range(n):
        for row, column, k in torch.cartesian_prod(
            torch.arange(h), torch.arange(w), torch.arange(D)
        ).tolist():
            y, x = position[camera, row, column, k].tolist()
            sampled = torch.zeros(C, dtype=torch.float64)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < h and 0 <= j < w:
                        share = (1 - abs(y - i)) * (1 - abs(x - j))
                        sampled += share * previous[camera, :, i, j].double()
            difference = (current[camera, :, row, column].double() - sampled).abs().sum()
            unseen = outside if sampled[C - 4] == 0.0 else 0.0
            cost[camera, k, row, column] = difference + unseen
    return cost.float()


@pytest.mark.parametrize("depths", [3, 2100])  # fewer and more than are handled at once
def test_equals_the_loop(stereo_cost, depths):
    torch.manual_seed(0)
    h, w = (4, 5) if depths == 3 else (1, 2)
    current, previous = torch.randn(2, 8, h, w).relu(), torch.randn(2, 8, h, w).relu()
    position = torch.rand(2, h, w, depths, 2) * torch.tensor([h + 2.0, w + 2.0]) - 1.5
    got = stereo_cost(current, previous, position, outside_cost=5.0)
    torch.testing.assert_close(got, cost_by_loops(current, previous, position, 5.0))


def test_a_zero_in_the_probe_channel_counts_as_unseen_even_inside(stereo_cost):
    features = torch.ones(1, 8, 2, 2)
    features[0, 4, 0, 0] = 0.0  # the fourth channel from the end
    rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(2.0), indexing="ij")
    position = torch.stack([rows, columns], dim=-1)[None, :, :, None]
    cost = stereo_cost(features, features, position, outside_cost=5.0)
    assert cost.flatten().tolist() == [5.0, 0.0, 0.0, 0.0]


def test_matching_with_itself_in_place_costs_nothing(stereo_cost):
    features = torch.rand(1, 8, 3, 4) + 0.1
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    position = torch.stack([rows, columns], dim=-1)[None, :, :, None]
    assert stereo_cost(features, features, position, 5.0).abs().max() == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_the_compiled_twin_adds_up_in_the_order_of_the_reference(threads):
    """Whether a product and a sum are rounded once or twice is all that may differ.

    That is a rounding step of a sample in places, while another order of the 256 additions would
    show in nearly every sum.
    """
    generator = torch.Generator().manual_seed(1)
    current, previous = torch.randn(2, 2, 256, 8, 12, generator=generator).relu()
    places = torch.rand(2, 8, 12, 11, 2, generator=generator) * torch.tensor([10.0, 14.0]) - 1.5
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = compiled.stereo_cost(current, previous, places, 5.0)
    finally:
        torch.set_num_threads(before)
    wanted = reference.stereo_cost(current, previous, places, 5.0)
    torch.testing.assert_close(got, wanted, rtol=5e-7, atol=0.0)
    assert (got == wanted).float().mean() > 0.8
