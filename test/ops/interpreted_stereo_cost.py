"""The stereo cost's GPU kernel in Triton's interpreter, against the readable reference.

Costs are equal to the last bit: products and sums are rounded apart in the order of the reference.
"""

from __future__ import annotations

import math

import pytest
import torch
from interpreted import guarded, watched
from small_networks import INPUT_SIZE
from torch import Tensor

from occ_perception.nets.stereo import MATCHING_STRIDE
from occ_perception.ops.stereo_cost import stereo_cost as reference
from occ_perception.ops.stereo_cost_triton import stereo_cost

# Cameras, channels, rows, columns, depths. The first fits one program, the last two have rests in
# pixels and depths, one camera and several.
SIZES = [(1, 4, 1, 1, 1), (2, 8, 5, 7, 11), (3, 4, 9, 15, 5), (1, 64, 7, 10, 4)]


def example(n: int, C: int, h: int, w: int, D: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features after a ReLU and places inside, on the border and outside."""
    generator = torch.Generator().manual_seed(C * D)
    now, then = torch.randn(2, n, C, h, w, generator=generator).relu()
    places = torch.rand(n, h, w, D, 2, generator=generator) * torch.tensor([h + 2.0, w + 2.0])
    places = torch.where(
        torch.rand(places.shape, generator=generator) < 0.2, places.round(), places
    )
    return now, then, places - 1.5


@pytest.mark.parametrize("sizes", SIZES)
def test_equals_the_reference_to_the_last_bit(sizes: tuple[int, ...]) -> None:
    inputs = example(*sizes)
    assert torch.equal(stereo_cost(*inputs, 5.0), reference(*inputs, 5.0))


@pytest.mark.parametrize("sizes", SIZES[:3])
def test_reads_its_inputs_alone_and_writes_every_cost_once(sizes: tuple[int, ...]) -> None:
    inputs = [guarded(tensor) for tensor in example(*sizes)]
    with watched(*inputs) as traffic:
        cost = stereo_cost(*inputs, 5.0)
    assert traffic.stray == 0 and traffic.programs > 0
    traffic.assert_written_once(cost)
    assert torch.equal(cost, reference(*inputs, 5.0))


def test_the_order_of_programs_does_not_matter() -> None:
    inputs = example(2, 4, 9, 15, 5)
    for seed in range(2):
        with watched(*inputs, seed=seed) as traffic:
            cost = stereo_cost(*inputs, 5.0)
        assert traffic.programs == 2 * 3 * 2
        assert torch.equal(cost, reference(*inputs, 5.0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1e30])
def test_a_place_that_is_nowhere_is_unseen(value: float) -> None:
    now, then, places = example(1, 8, 3, 4, 5)
    places[..., 1:3, :] = value
    cost = stereo_cost(now, then, places, 5.0)
    assert torch.equal(cost, reference(now, then, places, 5.0))
    unseen = (now.sum(dim=1) + 5.0)[:, None].expand(1, 2, 3, 4)
    torch.testing.assert_close(cost[:, 1:3], unseen)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_added_up_in_single_precision(dtype: torch.dtype) -> None:
    now, then, places = example(2, 16, 5, 7, 6)
    now, then = now.to(dtype), then.to(dtype)
    cost = stereo_cost(now, then, places, 5.0)
    assert cost.dtype == dtype
    sums = reference(now.float(), then.float(), places, 5.0)
    if dtype == torch.bfloat16:  # a GPU rounds to the nearest, the interpreter cuts off
        sums = (sums.view(torch.int32) & ~0xFFFF).view(torch.float32)
    assert torch.equal(cost, sums.to(dtype))


def test_strides_of_the_inputs_do_not_matter() -> None:
    now, then, places = example(2, 8, 5, 7, 6)
    moved = (
        now.contiguous(memory_format=torch.channels_last),
        then.mT.contiguous().mT,
        places.movedim(3, 0).contiguous().movedim(0, 3),
    )
    assert not any(tensor.is_contiguous() for tensor in moved)
    assert torch.equal(stereo_cost(*moved, 5.0), reference(now, then, places, 5.0))


@pytest.mark.slow
def test_equals_the_reference_at_the_size_of_a_small_network() -> None:
    """All channels and pixels of ALOcc for a small input, at some of its depths."""
    height, width = INPUT_SIZE
    inputs = example(1, 256, height // MATCHING_STRIDE, width // MATCHING_STRIDE, 6)
    assert torch.equal(stereo_cost(*inputs, 5.0), reference(*inputs, 5.0))
