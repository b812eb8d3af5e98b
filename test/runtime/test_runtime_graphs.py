"""The buffers of recorded steps, and the self-check that chooses how a network runs.

A CPU has no graphs. Here a step is recorded by a function that runs it again and copies the result
to where it was the first time, which is what a graph does with fixed memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import small_model

from occ_perception.errors import OptionError
from occ_perception.models.state import state_tensors
from occ_perception.ops import stereo_cost_numba
from occ_perception.runtime import self_check
from occ_perception.runtime import stream as stream_module
from occ_perception.runtime.execution import Execution, PreparedStep, prepared_step
from occ_perception.runtime.graphs import GraphStep
from occ_perception.runtime.nested import tensors_of
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.self_check import (
    PLAIN,
    REFERENCE,
    Agreement,
    SelfCheck,
    candidates,
    choose_execution,
)
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


pytestmark = pytest.mark.usefixtures("one_thread")


class Recorder:
    """Counts recordings and replays."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recorded += 1
        result = run()
        fixed = tensors_of(result)

        def replay() -> None:
            self.replayed += 1
            for there, here in zip(fixed, tensors_of(run()), strict=True):
                if there is not here:
                    there.copy_(here)

        return result, replay


def recorded_stream(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> tuple[OccupancyStream, Recorder]:
    recorder = Recorder()

    def prepared(net: torch.nn.Module, execution: Execution) -> PreparedStep:
        return PreparedStep(GraphStep(prepared_step(net, execution).run, recorder), True)

    with monkeypatch.context() as patch:
        patch.setattr(stream_module, "prepared_step", prepared)
        return OccupancyStream(model), recorder


@pytest.mark.parametrize("name", ["alocc_flow_2d", "alocc_3d_gf", "sparseocc"])
def test_a_recorded_stream_is_the_eager_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through frames that only ask, a snapshot in the middle, and its restoration."""
    model = small_model(name)
    eager = OccupancyStream(model)
    recorded, recorder = recorded_stream(model, monkeypatch)
    frames = list(random_frames(model.card, 7))

    def step(number: int, commit: bool = True) -> None:
        got = recorded.step(frames[number], commit)
        expected = eager.step(frames[number], commit)
        np.testing.assert_array_equal(got.labels, expected.labels)
        if expected.flow is not None:
            np.testing.assert_array_equal(got.flow, expected.flow)
        assert (got.committed, got.history_length) == (expected.committed, expected.history_length)

    for number, commit in ((0, True), (1, True), (2, False), (3, False), (2, True)):
        step(number, commit)
    snapshots = recorded.snapshot(), eager.snapshot()
    for number in (3, 4, 5):
        step(number)
    recorded.restore(snapshots[0])
    eager.restore(snapshots[1])
    for number, commit in ((3, False), (3, True), (4, True)):
        step(number, commit)
    recorded.reset()
    eager.reset()
    step(6)
    for name_, tensor in state_tensors(eager.snapshot().state).items():
        torch.testing.assert_close(
            state_tensors(recorded.snapshot().state)[name_], tensor, rtol=0, atol=0
        )
    # Two graphs: one each way. Every step is one replay.
    assert (recorder.recorded, recorder.replayed) == (2, 12)


def test_other_cameras_have_graphs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("alocc_2d_mini")
    eager = OccupancyStream(model)
    recorded, recorder = recorded_stream(model, monkeypatch)
    frames = list(random_frames(model.card, 4))
    frames[1] = replace(
        frames[1],
        images={n: i for n, i in frames[1].images.items() if n != "CAM_BACK"},
        masked=("CAM_BACK",),
    )
    for frame in frames:
        np.testing.assert_array_equal(recorded.step(frame).labels, eager.step(frame).labels)
    assert (recorder.recorded, recorder.replayed) == (4, 4)


def test_a_cpu_has_no_graphs() -> None:
    model = small_model("alocc_2d_mini")
    for chosen in (lambda: OccupancyStream(model, execution=Execution("fp32", "graph")),
                   lambda: choose_execution(model, "auto", "graph")):  # fmt: skip
        with pytest.raises(OptionError, match=r"graph needs a CUDA device, .* on cpu"):
            chosen()


def test_executions_are_tried_fastest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    order = list(map(str, candidates(CUDA, "auto", "auto")))
    assert order == [
        f"{precision}, {mode}"
        for precision in ("bf16", "fp16", "tf32", "fp32")
        for mode in ("graph", "eager")
    ] + ["fp32, reference"]
    assert list(map(str, candidates(CUDA, "auto", "compile")))[-3:] == [
        "fp32, compile",
        "fp32, eager",
        "fp32, reference",
    ]
    assert list(map(str, candidates(CUDA, "fp32", "eager"))) == ["fp32, eager"]
    assert next(map(str, candidates(CPU, "auto", "reference"))) == "fp32, reference"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert str(next(candidates(CUDA, "auto", "auto"))) == "fp16, graph"
    assert list(map(str, candidates(CUDA, "fp16", "auto"))) == ["fp16, graph", "fp16, eager"]
    for has_bf16, expected in ((True, ["bf16, eager", "fp32, eager"]), (False, ["fp32, eager"])):
        monkeypatch.setattr(
            torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda answer=has_bf16: answer
        )
        assert list(map(str, candidates(CPU, "auto", "auto"))) == expected


@pytest.mark.parametrize(("precision", "mode"), [("int8", "auto"), ("auto", "jit")])
def test_unknown_ways_are_refused(precision: str, mode: str) -> None:
    with pytest.raises(OptionError, match=r"must be one of auto, .*, got '(int8|jit)'"):
        list(candidates(CPU, precision, mode))


def test_half_precision_that_disagrees_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights decide by hairs, so bfloat16 flips more labels than the bound allows."""
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(self_check, "FRAMES", 1)  # bfloat16 without instructions for it is slow
    model = small_model("alocc_2d_mini")
    choice = choose_execution(model)
    assert choice.execution == PLAIN and choice.agreement is None and not choice.doubt
    (why,) = choice.passed_over
    assert why.startswith("bf16, eager: ") and "% of occupied ones" in why

    named = choose_execution(model, "bf16")
    assert named.execution == Execution("bf16") and named.agreement is not None
    assert not named.agreement.is_enough
    assert "bf16, eager was asked for and differs" in named.doubt
    assert str(named.agreement) in why


def test_the_reference_agrees_with_itself() -> None:
    model = small_model("alocc_flow_2d")
    assert SelfCheck(model).agreement(REFERENCE) == Agreement(1.0, 1.0, 0.0)


def test_the_reference_computes_by_readable_operations_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = small_model("alocc_3d_gf")
    frames = list(random_frames(model.card, 2))
    calls = []
    loops = stereo_cost_numba.stereo_cost

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        calls.append("loops")
        return loops(*arguments, **named)

    monkeypatch.setattr(stereo_cost_numba, "stereo_cost", counted)
    for execution, expected in ((REFERENCE, False), (PLAIN, True)):
        calls.clear()
        stream = OccupancyStream(model, execution=execution)
        for frame in frames:
            stream.step(frame)
        assert bool(calls) is expected, execution


@pytest.mark.parametrize(
    ("agreement", "is_enough"),
    [
        (Agreement(0.995, 0.985), True),
        (Agreement(0.9949, 1.0), False),
        (Agreement(1.0, 0.984), False),
    ],
)
def test_both_shares_must_reach_their_bounds(agreement: Agreement, is_enough: bool) -> None:
    assert agreement.is_enough is is_enough


def test_an_execution_that_cannot_run_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    model = small_model("alocc_2d_mini")
    run = SelfCheck._run

    def failing(self: SelfCheck, execution: Execution) -> Any:
        if execution.precision == "bf16":
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        return run(self, execution)

    monkeypatch.setattr(SelfCheck, "_run", failing)
    choice = choose_execution(model)
    assert choice.execution == PLAIN
    assert choice.passed_over == (
        "bf16, eager cannot run: operation not permitted when stream is capturing",
    )
    with pytest.raises(RuntimeError, match="not permitted"):
        choose_execution(model, "bf16")
