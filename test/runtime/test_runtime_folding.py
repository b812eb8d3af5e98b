"""Networks rewritten for running: the same function, with fewer modules."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from small_networks import inputs, small_network
from torch import nn

from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime.folding import fold, fold_norms

CPU = torch.device("cpu")


def drawn(*layers: nn.Module) -> nn.Sequential:
    """Layers with statistics that do something."""
    net = nn.Sequential(*layers).eval()
    generator = torch.Generator().manual_seed(0)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    return ((got - expected).abs().max() / expected.square().mean().sqrt()).item()


def two_frames(net: nn.Module, cameras: int):
    state = net.initial_state(1)
    with torch.inference_mode():
        for frame in range(2):
            step = inputs(0, frame, frame, cameras)
            moved = torch.eye(4, dtype=torch.float64).repeat(1, cameras, 1, 1)
            moved[..., 2, 3] = 0.3 * frame
            control = replace(step.control, previous_cam_T_cam_BN44=moved)
            outputs, state = net(replace(step, control=control), state)
    return outputs


def compare_with_plain(name: str) -> nn.Module:
    card = get_card(name)
    plain = small_network(card)
    rewritten = copy.deepcopy(plain)
    fold(rewritten, CPU)
    expected, got = (two_frames(net, len(card.cameras)) for net in (plain, rewritten))
    assert got.logits_BKXYZ.shape == expected.logits_BKXYZ.shape
    # The plane sweep and the gates on exact zeros may flip single cells.
    error = (got.logits_BKXYZ - expected.logits_BKXYZ).abs()
    rms = expected.logits_BKXYZ.square().mean().sqrt()
    assert (error <= 1e-4 * rms).float().mean() >= 0.999
    return rewritten


def test_a_bird_s_eye_view_network_stays_the_same_function() -> None:
    net = compare_with_plain("alocc_2d_mini")
    assert not [p for p in net.image.modules() if isinstance(p, nn.BatchNorm2d)]
    assert net.height.conv.out_channels == 19 * 16
    first = net.image.backbone.conv1.weight
    assert first.is_contiguous(memory_format=torch.channels_last)


DENSE = [n for n, card in sorted(MODELS.items()) if isinstance(card.recipe(), OccupancyNetConfig)]


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_network_of_the_zoo_stays_the_same_function(name: str) -> None:
    compare_with_plain(name)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_norm_goes_into_the_convolution_before_it(bias: bool, rank: int) -> None:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
    plain = drawn(conv(3, 5, 3, stride=2, bias=bias), norm(5), nn.ReLU(), norm(5))
    x = torch.randn(2, 3, *[9] * rank)
    expected = plain(x)
    fold_norms(plain)
    assert type(plain[1]) is nn.Identity and type(plain[3]) is norm  # nothing before the second
    assert relative_error(plain(x), expected) < 1e-5


def test_shared_convolutions_and_norms_with_more_in_them_are_left_alone() -> None:
    shared = nn.Conv2d(4, 4, 1)

    class NormAndActivation(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).relu()

    net = drawn(
        nn.Sequential(shared, nn.BatchNorm2d(4)),
        nn.Sequential(shared),
        nn.Sequential(nn.Conv2d(4, 4, 1), NormAndActivation(4)),
    )
    x = torch.randn(1, 4, 6, 6)
    expected = net(x)
    fold_norms(net)
    assert type(net[0][1]) is nn.BatchNorm2d and type(net[2][1]) is NormAndActivation
    assert torch.equal(net(x), expected)


def test_weights_that_are_used_without_the_convolution_are_left_alone() -> None:
    class Projection(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bn1(nn.functional.conv2d(x, self.conv1.weight))

    net = drawn(Projection())
    x = torch.randn(1, 4, 6, 6)
    expected = net(x)
    fold_norms(net)
    assert torch.equal(net(x), expected)


def test_whole_blocks_that_are_shared_are_folded_once() -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net = drawn(block, nn.ReLU(), block)
    x = torch.randn(1, 4, 6, 6)
    expected = net(x)
    fold_norms(net)
    assert relative_error(net(x), expected) < 1e-5
