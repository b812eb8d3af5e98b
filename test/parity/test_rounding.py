"""The pass rule for networks that enlarge rounding is no rule that passes everything."""

from __future__ import annotations

from types import SimpleNamespace

import check
import numpy as np
import pytest
import torch
from check import check_file, check_flow
from golden_file import GoldenFile, Samples
from rounding import OwnNumbers, PreciseTwin, needs_twin, within_rounding
from test_check import MINI
from torch import nn
from verdict import compare, conclusion

from occ_perception.models.inputs import NetOutputs

EXPECTED = np.linspace(-1.0, 1.0, 1000)


def against(noise: float, mistake: float):
    """Verdicts of values with a rounding, and where wanted a mistake, and of rounding alone."""
    rng = np.random.default_rng(0)
    ours = EXPECTED + noise * rng.standard_normal(EXPECTED.shape)
    stored = EXPECTED + noise * rng.standard_normal(EXPECTED.shape)
    verdict = compare("map", ours + mistake, stored, rms=1.0)
    return within_rounding(verdict, compare("map", ours, EXPECTED, rms=1.0))


def test_a_deviation_of_the_size_of_rounding_passes_and_says_so():
    verdict = against(noise=1e-2, mistake=0.0)
    assert verdict.passed and verdict.by_rounding
    assert "rounding alone: max" in verdict.note


@pytest.mark.parametrize(("noise", "mistake"), [(1e-2, 3e-2), (1e-6, 1e-3), (0.0, 2e-4)])
def test_what_rounding_does_not_explain_fails(noise, mistake):
    verdict = against(noise, mistake)
    assert not verdict.passed and not verdict.by_rounding
    assert "worst sample" in verdict.note and "rounding alone: max" in verdict.note


def test_a_few_large_deviations_fail_though_the_mean_is_small():
    own = compare("map", EXPECTED + 1e-2, EXPECTED, rms=1.0)
    wrong = EXPECTED.copy()
    wrong[7] += 0.5
    assert not within_rounding(compare("map", wrong, EXPECTED, rms=1.0), own).passed


class Noisy(nn.Module):
    """A backbone on a device that rounds coarsely."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        generator = torch.Generator().manual_seed(0)
        return tuple(
            m * (1 + 1e-3 * torch.randn(m.shape, generator=generator))
            for m in self.backbone(images)
        )


def verdicts_of_a_noisy_net():
    """Frame 0 of the small file; the network at hand is noisy, the next one built is not."""
    golden = GoldenFile(MINI)
    golden.frames = range(1)
    build, built = golden.build, []

    def first_noisy():
        net = build()
        if not built:
            net.image.backbone = Noisy(net.image.backbone)
        built.append(net)
        return net

    golden.build = first_noisy
    return [verdict for _, verdict in check_file(golden, torch.device("cpu"))]


def test_another_device_is_judged_beside_a_twin_and_what_only_that_passes_is_named(monkeypatch):
    net = GoldenFile(MINI).build()
    assert needs_twin(net, torch.device("cuda")) and not needs_twin(net, torch.device("cpu"))

    assert conclusion(verdicts_of_a_noisy_net()).startswith("FAILED")
    monkeypatch.setattr(check, "needs_twin", lambda _net, _device: True)
    verdicts = verdicts_of_a_noisy_net()
    line = conclusion(verdicts)
    assert line.startswith("passed, ") and "only by measured rounding: img_backbone.0 x1" in line
    assert sum(v.by_rounding for v in verdicts) > 5
    assert not any(v.by_rounding for v in verdicts if v.name == "depth_net.mlp_input")


def test_our_own_velocities_stand_in_for_the_files():
    flow = torch.arange(48.0).view(1, 2, 3, 4, 2)
    at = np.array([0, 5, 17])
    stored = Samples(np.zeros((3, 2), np.float32), at, (3, 2, 4, 2), rms=1.0)
    golden = SimpleNamespace(card=None, flow_samples=lambda _frame: (stored, np.zeros((3, 2))))
    outputs = NetOutputs(logits_BKXYZ=torch.zeros(1), flow_BXYZ2=flow)
    own = OwnNumbers(golden, {}, outputs)
    assert all(verdict.max_error == 0 for verdict in check_flow(flow, *own.flow_samples(0)))


def test_the_twin_matches_where_a_cpu_does():
    def positions(place):
        assert place.device.type == "cpu"
        return place + 1

    net = nn.Module()
    net.image = nn.Module()
    net.image.backbone = nn.Linear(1, 1)
    net.config = SimpleNamespace(matches_images=True)
    net.stereo = nn.Module()
    net.stereo.positions = positions
    golden = SimpleNamespace(frames=range(1), build=lambda: net)
    twin = PreciseTwin(golden, torch.device("cpu"))._built()
    assert twin.stereo.positions is not positions
    assert twin.stereo.positions(torch.zeros(1)).item() == 1
    assert twin.image.backbone.backbone.weight.dtype == torch.float64
