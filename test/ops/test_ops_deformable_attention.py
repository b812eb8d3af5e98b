"""Deformable attention against grid_sample and against loops."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from occ_perception.ops.backend import deformable_attention, sample_bins

B, Q, M, S, C, H, W = 2, 5, 3, 4, 2, 6, 7
DTYPE = torch.float64


def random_case(seed=0):
    generator = torch.Generator().manual_seed(seed)
    value = torch.randn(B, M, C, H, W, dtype=DTYPE, generator=generator)
    place = torch.rand(B, Q, M, S, 2, dtype=DTYPE, generator=generator) * 1.4 - 0.2
    weight = torch.rand(B, Q, M, S, dtype=DTYPE, generator=generator)
    return value, place, weight


def test_equals_grid_sample_head_by_head():
    value, place, weight = random_case()
    got = deformable_attention(value, place, weight)
    for m in range(M):
        sampled = F.grid_sample(value[:, m], 2 * place[:, :, m] - 1, align_corners=False)
        expected = (sampled * weight[:, None, :, m]).sum(dim=-1).transpose(1, 2)
        torch.testing.assert_close(got[..., C * m : C * (m + 1)], expected)


def test_the_centre_of_a_pixel_gives_its_value_and_the_edge_half_of_it():
    value = torch.arange(1.0, 13.0).view(1, 1, 1, 3, 4)
    place = torch.tensor([[1.5 / 4, 2.5 / 3], [0.0, 0.5 / 3], [-0.5, 0.5]]).view(1, 3, 1, 1, 2)
    got = deformable_attention(value, place, torch.ones(1, 3, 1, 1))
    torch.testing.assert_close(got.flatten(), torch.tensor([10.0, 0.5, 0.0]))


def test_gradients_reach_map_places_and_weights():
    value, place, weight = (t[:1] for t in random_case(seed=2))
    arguments = [t.clone().requires_grad_() for t in (value, place, weight)]
    assert torch.autograd.gradcheck(deformable_attention, arguments)


def test_bins_are_sampled_one_channel_each():
    generator = torch.Generator().manual_seed(4)
    volume = torch.rand(B, 5, H, W, dtype=DTYPE, generator=generator)
    place = torch.rand(B, 20, 2, dtype=DTYPE, generator=generator) * 1.4 - 0.2
    number = torch.randint(0, 5, (B, 20), generator=generator)
    got = sample_bins(volume, place, number)
    for b in range(B):
        for p in range(20):
            x, y = (place[b, p, 0] * W - 0.5).item(), (place[b, p, 1] * H - 0.5).item()
            expected = 0.0
            for i in (math.floor(x), math.floor(x) + 1):
                for j in (math.floor(y), math.floor(y) + 1):
                    if 0 <= i < W and 0 <= j < H:
                        share = (1 - abs(x - i)) * (1 - abs(y - j))
                        expected += share * volume[b, number[b, p], j, i].item()
            assert abs(got[b, p].item() - expected) < 1e-12
