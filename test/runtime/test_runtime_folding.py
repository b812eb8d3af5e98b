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
from occ_perception.nets.backward_projection import BackwardProjection
from occ_perception.nets.part import Part
from occ_perception.nets.stereo import PlaneSweep
from occ_perception.runtime.flops import network_without_data
from occ_perception.runtime.folding import Rewriting, fold, fold_norms

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
    # The plane sweep and the gates on exact zeros may flip single voxels.
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


# How many norms of a network are folded, and whether its head is merged and its maps are stored
# channels last on a CPU. A class that is renamed, or does not declare its pairs, shows here.
FOLDED = {
    "alocc_2d_mini": Rewriting(norms=88, head_merged=True, channels_last=True),
    "alocc_2d_mini_nomask": Rewriting(norms=88, head_merged=True, channels_last=True),
    "alocc_2d_mini_surroundocc": Rewriting(norms=88, head_merged=True, channels_last=True),
    "alocc_town": Rewriting(norms=37, head_merged=True, channels_last=True),
    "fbocc": Rewriting(norms=91, kept=BackwardProjection.keeps_memory_order),
    "fbocc_nomask": Rewriting(norms=91, kept=BackwardProjection.keeps_memory_order),
    "fbocc_gf": Rewriting(norms=91, kept=BackwardProjection.keeps_memory_order),
    "sparseocc": Rewriting(norms=53, channels_last=True),
    "sparseocc_even": Rewriting(norms=53, channels_last=True),
}


def is_folded(name: str) -> bool:
    """A plane sweep compares maps of two frames: nothing before it may be rounded anew."""
    return not MODELS[name].config.matches_images


@pytest.mark.parametrize("name", MODELS)
def test_every_model_folds_as_many_norms_as_it_says(name: str) -> None:
    net = network_without_data(get_card(name))
    before = count_norms(net)
    done = fold(net, CPU)
    assert before - count_norms(net) == done.norms
    if name in FOLDED:
        assert done == FOLDED[name]
    elif is_folded(name):
        assert done.norms > 0, "a network without a plane sweep has norms that can be folded"
    else:
        assert done == Rewriting(kept=PlaneSweep.keeps_weights)


def count_norms(net: nn.Module) -> int:
    return sum(isinstance(part, nn.BatchNorm2d | nn.BatchNorm3d) for part in net.modules())


def test_a_gpu_keeps_the_memory_order() -> None:
    net = network_without_data(get_card("alocc_2d_mini"))
    assert fold(net, torch.device("cuda")) == Rewriting(norms=88, head_merged=True)


DENSE = [
    name
    for name, card in sorted(MODELS.items())
    if isinstance(card.config, OccupancyNetConfig) and is_folded(name)
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DENSE)
def test_every_dense_network_that_is_folded_stays_the_same_function(name: str) -> None:
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


class Block(Part):
    folds = (("conv", "norm"),)

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm = conv, nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def test_pairs_that_a_module_declares_are_folded() -> None:
    net = drawn(Block(nn.Conv2d(4, 4, 3)))
    x = torch.randn(1, 4, 6, 6)
    expected = net(x)
    assert fold_norms(net) == 1
    assert type(net[0].norm) is nn.Identity
    assert relative_error(net(x), expected) < 1e-5


def test_a_pair_that_does_not_exist_is_an_error() -> None:
    class Renamed(Block):
        folds = (("conv", "bn"),)

    with pytest.raises(AttributeError, match="bn"):
        fold_norms(drawn(Renamed(nn.Conv2d(4, 4, 3))))


def test_whole_blocks_that_are_shared_are_folded_once() -> None:
    block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    net = drawn(block, nn.ReLU(), block)
    x = torch.randn(1, 4, 6, 6)
    expected = net(x)
    fold_norms(net)
    assert relative_error(net(x), expected) < 1e-5
