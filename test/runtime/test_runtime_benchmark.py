"""Figures of a benchmark: counted arithmetic, parts that add up, files that can be compared."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small_streams import SMALL_MODEL, small_card
from typer.testing import CliRunner

from occ_perception.cli import app
from occ_perception.errors import OptionError
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import MODELS, get_card
from occ_perception.runtime import benchmark
from occ_perception.runtime.benchmark import (
    StreamBenchmark,
    measure_stream,
    percentiles,
    stage_times,
)
from occ_perception.runtime.execution import Execution
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.weights import LoadedModel, load_model


@pytest.fixture(scope="module", autouse=True)
def small_model() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, SMALL_MODEL, small_card(rename=SMALL_MODEL))
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(SMALL_MODEL, random_seed=0)


@pytest.fixture(scope="module")
def measured(model: LoadedModel):
    return measure_stream(model, Execution(), frames=3, warm_up=2, stages=True)


def test_arithmetic_is_that_of_the_convolutions(model, measured) -> None:
    """Counted a second way: output size times kernel, by hooks."""
    counts: dict[str, float] = {}

    def count(name: str):
        def hook(part, _inputs, output) -> None:
            kernel = part.weight[0].numel()
            counts[name] = counts.get(name, 0.0) + output.numel() * kernel

        return hook

    handles = [
        part.register_forward_hook(count(name.split(".")[0]))
        for name, part in model.net.named_modules()
        if isinstance(part, torch.nn.Conv2d)
    ]
    from occ_perception.runtime.stream import OccupancyStream

    OccupancyStream(model).step(next(random_frames(model.card, 1)))
    for handle in handles:
        handle.remove()
    gmac = measured["gmac"]
    for part in ("image", "encoder", "height"):
        assert gmac[part] == pytest.approx(counts[part] / 1e9, rel=1e-3, abs=2e-3)
    assert gmac["total"] == pytest.approx(sum(v for k, v in gmac.items() if k != "total"), rel=0.02)


def test_stages_add_up_to_the_network_and_laps_to_the_total(measured) -> None:
    laps = measured["milliseconds"]
    assert set(laps) == {"preprocess", "network", "labels", "total"}
    assert {"image", "depth", "lift", "temporal", "encoder", "head"} <= set(measured["stages_ms"])
    parts = sum(values["p50"] for values in measured["stages_ms"].values())
    assert 0.5 * laps["network"]["p50"] < parts < 1.5 * laps["network"]["p50"]
    for values in [*laps.values(), *measured["stages_ms"].values()]:
        assert 0 < values["p50"] <= values["p90"] <= values["p99"] <= values["max"]


def test_the_rate_follows_from_arithmetic_and_time(measured) -> None:
    seconds = measured["milliseconds"]["network"]["p50"] / 1e3
    assert measured["network_tflops"] == pytest.approx(
        2 * measured["gmac"]["total"] / seconds / 1e3, abs=2e-3
    )
    assert measured["memory_mb"]["process_peak"] > measured["memory_mb"]["state"] > 0


@pytest.mark.parametrize(
    ("name", "part"), [("alocc_flow_2d", "flow"), ("alocc_3d_gf_depth", "geometry_fusion")]
)
def test_networks_with_flow_or_lidar_depth_are_measured_too(name: str, part: str) -> None:
    card = small_card(name)
    net = card.build()
    fill_random_weights(net, card)
    model = LoadedModel(card, net.requires_grad_(False), torch.device("cpu"), "random")
    measured = measure_stream(model, Execution(), frames=1, warm_up=1, stages=True)
    assert measured["stages_ms"][part]["p50"] > 0 and measured["gmac"][part] > 0


def test_no_hook_stays(model, measured) -> None:
    assert measured and not any(p._forward_hooks for p in model.net.modules())


def test_parts_are_timed_by_what_they_take() -> None:
    class Sleeper(torch.nn.Module):
        def forward(self, seconds: float) -> float:
            time.sleep(seconds)
            return seconds

    net = torch.nn.ModuleDict({"slow": Sleeper(), "quick": Sleeper(), "unused": Sleeper()})
    with stage_times(net, torch.device("cpu"), True) as times:
        for _ in range(2):
            net["slow"](0.05)
            net["quick"](0.01)
            net["slow"](0.05)
            times.close_frame()
    assert set(times.by_stage) == {"slow", "quick"}
    assert all(100 <= ms < 400 for ms in times.by_stage["slow"])
    assert all(10 <= ms < 100 for ms in times.by_stage["quick"])


def test_percentiles_are_numpys() -> None:
    values = [float(v) for v in np.random.default_rng(0).uniform(size=101)]
    ranked = sorted(values)
    assert percentiles(values, 9) == {
        "p50": round(ranked[50], 9),
        "p90": round(ranked[90], 9),
        "p99": round(ranked[99], 9),
        "max": round(ranked[100], 9),
    }


def test_drawn_drives_follow_the_seed_and_the_card() -> None:
    card = get_card("alocc_2d_mini")
    first, again = list(random_frames(card, 6, seed=3)), list(random_frames(card, 6, seed=3))
    for a, b in zip(first, again, strict=True):
        assert a.images.keys() == set(card.cameras)
        assert all(np.array_equal(a.images[name], b.images[name]) for name in card.cameras)
    image = first[0].images["CAM_FRONT"]
    assert image.shape == (900, 1600, 3) and image.dtype == np.uint8
    assert not np.array_equal(image, first[1].images["CAM_FRONT"])
    other = next(random_frames(card, 1, seed=4)).images["CAM_FRONT"]
    assert not np.array_equal(image, other)
    stamps = [frame.stamp_ns for frame in first]
    assert np.allclose(np.diff(stamps), card.history_spacing_s * 1e9)


def test_compiled_networks_have_no_stages(model) -> None:
    with pytest.raises(OptionError, match="no stages"):
        measure_stream(model, Execution(mode="compile"), stages=True)


def test_occ_bench_measures_writes_and_compares(tmp_path: Path) -> None:
    def occ(*arguments: object):
        return CliRunner().invoke(app, ["bench", *(str(argument) for argument in arguments)])

    a, b = tmp_path / "a.json", tmp_path / "b.json"
    options = (SMALL_MODEL, "--device", "cpu", "--frames", 2, "--warm-up", 1)
    result = occ(*options, "--stages", "--json", a)
    assert result.exit_code == 0, result.output
    for word in ("network", "  temporal", "TFLOP/s", "process peak", "eager on cpu, 1 threads"):
        assert word in result.output
    assert occ(*options, "--precision", "bf16", "--json", b).exit_code == 0
    assert json.loads(b.read_text())["precision"] == "bf16"
    shown = occ("--compare", a, b)
    assert shown.exit_code == 0, shown.output
    for word in ("A: ", "bf16 eager", "B / A", "network p50, ms", "GMAC"):
        assert word in shown.output
    b.write_text("{}")
    assert "was not written by `occ bench --json`" in occ("--compare", a, b).output
    assert "give either a model" in occ().output


def test_marks_are_made_on_the_gpu_that_runs_the_network(monkeypatch) -> None:
    """With two of them, the process's current one may be the other."""
    recorded = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            recorded.append(stream)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    with stage_times(torch.nn.Sequential(torch.nn.Identity()), torch.device("cuda:1"), True) as t:
        t.mark()
    assert recorded == ["stream of cuda:1"]


def test_measurements_of_a_model_share_drive_and_arithmetic(model, monkeypatch) -> None:
    counts = []
    count = benchmark.multiply_accumulates
    monkeypatch.setattr(
        benchmark, "multiply_accumulates", lambda *given: counts.append(1) or count(*given)
    )
    measured = StreamBenchmark(model, frames=2, warm_up=1)
    first, second = (measured.measure(Execution(kind)) for kind in ("fp32", "bf16"))
    assert counts == [1] and first["gmac"] == second["gmac"]
    assert (first["precision"], second["precision"]) == ("fp32", "bf16")
    assert first["frames"] == 2 and first["warm_up_frames"] == 1
