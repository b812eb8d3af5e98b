"""Linear sampling against torch's own sampler, which lays its tables out the other way round."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ_perception.ops.backend import linear_corners, sample_rows

DTYPE = torch.float64


def with_grid_sample(table, position, sizes):
    channels_first = table.mT.reshape(len(table), -1, *sizes)
    last = torch.tensor([size - 1 for size in sizes], dtype=DTYPE)
    grid = (position * 2 / last - 1).flip(-1)  # grid_sample names the last axis first
    shape = (len(table), *[1] * (len(sizes) - 1), -1, len(sizes))
    sampled = F.grid_sample(channels_first, grid.view(shape), align_corners=True)
    return sampled.flatten(2).mT


@pytest.mark.parametrize("sizes", [(5, 7), (4, 3, 6)])
def test_equals_grid_sample_inside_and_outside(sizes):
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(2, torch.Size(sizes).numel(), 5, dtype=DTYPE, generator=generator)
    span = torch.tensor(sizes, dtype=DTYPE) + 4
    position = torch.rand(2, 200, len(sizes), dtype=DTYPE, generator=generator) * span - 2.5
    got = sample_rows(table, linear_corners(position, sizes))
    torch.testing.assert_close(got, with_grid_sample(table, position, sizes))


def test_one_set_of_corners_serves_every_table_of_the_sizes():
    position = torch.rand(1, 9, 2) * 4
    corners = linear_corners(position, (5, 6))
    a, b = torch.randn(1, 30, 2), torch.randn(1, 30, 3)
    together = sample_rows(torch.cat([a, b], dim=-1), corners)
    apart = torch.cat([sample_rows(a, corners), sample_rows(b, corners)], dim=-1)
    torch.testing.assert_close(together, apart)


def test_nodes_and_places_outside_are_met_exactly():
    table = torch.tensor([[3.0], [5.0], [7.0], [11.0]])[None]
    position = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [2.0, 1.0], [9e9, -9e9]]])
    values = sample_rows(table, linear_corners(position, (2, 2))).flatten().tolist()
    assert values == [7.0, 5.0, 0.0, 0.0, 0.0]


def test_gradients_reach_the_table_and_the_positions():
    table = torch.randn(1, 12, 2, dtype=DTYPE, requires_grad=True)
    position = (torch.rand(1, 6, 2, dtype=DTYPE) * 0.8 + 0.1 + torch.arange(2)).requires_grad_()
    torch.autograd.gradcheck(
        lambda t, p: sample_rows(t, linear_corners(p, (3, 4))), (table, position)
    )
