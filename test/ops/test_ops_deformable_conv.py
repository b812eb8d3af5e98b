"""Deformable convolution against grid_sample, and what it does at the edge."""

from __future__ import annotations

import pytest
import torch

from occ_perception.ops.backend import deformable_conv

N, H, W, GROUPS, WIDTH = 2, 5, 7, 3, 4


@pytest.fixture
def arguments():
    torch.manual_seed(0)
    value = torch.randn(N, H, W, GROUPS * WIDTH, dtype=torch.float64)
    displacement = 2.0 * torch.randn(N, H, W, GROUPS, 9, 2, dtype=torch.float64)
    weight = torch.randn(N, H, W, GROUPS, 9, dtype=torch.float64)
    return value, displacement, weight


def test_equals_interpolation_by_grid_sample_point_by_point(arguments):
    value, displacement, weight = arguments
    expected = torch.zeros_like(value)
    rows, columns = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    for group in range(GROUPS):
        part = slice(group * WIDTH, (group + 1) * WIDTH)
        table = value[..., part].permute(0, 3, 1, 2)
        for point in range(9):
            x = columns + point // 3 - 1 + displacement[..., group, point, 0]
            y = rows + point % 3 - 1 + displacement[..., group, point, 1]
            places = torch.stack([2 * x / (W - 1) - 1, 2 * y / (H - 1) - 1], dim=-1)
            read = torch.nn.functional.grid_sample(table, places, align_corners=True)
            expected[..., part] += weight[..., group, point, None] * read.permute(0, 2, 3, 1)
    torch.testing.assert_close(deformable_conv(value, displacement, weight), expected)


def test_without_displacement_it_is_a_filter_whose_window_runs_by_columns(arguments):
    value, displacement, _ = arguments
    weight = torch.zeros(N, H, W, GROUPS, 9, dtype=torch.float64)
    weight[..., 1] = 2.0  # left column, middle row
    got = deformable_conv(value, torch.zeros_like(displacement), weight)
    torch.testing.assert_close(got[:, :, 1:], 2.0 * value[:, :, :-1])
    assert not got[:, :, 0].any()


def test_groups_do_not_mix_and_far_places_give_zero(arguments):
    value, displacement, weight = arguments
    before = deformable_conv(value, displacement, weight)
    displacement = displacement.clone()
    displacement[..., 1, :, :] = 100.0
    after = deformable_conv(value, displacement, weight)
    second = slice(WIDTH, 2 * WIDTH)
    assert not after[..., second].any()
    assert torch.equal(after[..., :WIDTH], before[..., :WIDTH])
    assert torch.equal(after[..., 2 * WIDTH :], before[..., 2 * WIDTH :])


def test_gradients_reach_values_places_and_weights():
    torch.manual_seed(0)
    arguments = (
        torch.randn(1, 3, 4, 2, dtype=torch.float64, requires_grad=True),
        (0.3 * torch.randn(1, 3, 4, 2, 9, 2, dtype=torch.float64)).requires_grad_(),
        torch.randn(1, 3, 4, 2, 9, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(deformable_conv, arguments)
