"""Which way of running a network is fast and right on this device, found out by trying.

A faster way counts as right if it says the same as the readable one, float32 by the readable
operations alone, on four frames of a drawn drive with its state fed back. So the user's own device
proves what tests on another one cannot.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from occ_perception.errors import OccError, OptionError, sentence_for
from occ_perception.runtime.execution import MODES, PRECISIONS, Execution
from occ_perception.runtime.random_frames import random_frames
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

AUTO = "auto"
REFERENCE = Execution("fp32", "reference")
"""What every other execution is compared with."""

PLAIN = Execution("fp32", "eager")
"""What a CPU uses unchecked: its compiled loops are tested on CPUs."""

FRAMES = 4
VOXELS, OCCUPIED = 0.995, 0.985
"""Shares of equal labels, of all voxels and of those occupied in either, that must be reached."""


@dataclass(frozen=True)
class Agreement:
    """How far an execution says what the reference says.

    Attributes:
        voxels: share of voxels with the same label, of the worst frame.
        occupied: the same among voxels that either calls occupied; 1 if there are none.
        velocity: mean difference of velocities among them, m/s, of the worst frame; None without
            flow.
    """

    voxels: float
    occupied: float
    velocity: float | None = None

    @property
    def is_enough(self) -> bool:
        """Whether both shares reach their bounds."""
        return self.voxels >= VOXELS and self.occupied >= OCCUPIED

    def __str__(self) -> str:
        flow = "" if self.velocity is None else f", velocities differ by {self.velocity:.3f} m/s"
        return (
            f"{100 * self.voxels:.2f} % of voxels and {100 * self.occupied:.2f} % of occupied ones "
            f"as in {REFERENCE}{flow}"
        )


@dataclass(frozen=True)
class Choice:
    """The execution that a network runs with here.

    Attributes:
        execution: of the network.
        agreement: with the reference; None where nothing had to be checked.
        passed_over: executions that were tried before it, and why they are not used.
    """

    execution: Execution
    agreement: Agreement | None = None
    passed_over: tuple[str, ...] = ()

    def __str__(self) -> str:
        checked = "" if self.agreement is None else f"; self-check: {self.agreement}"
        return f"{self.execution}{checked}"

    @property
    def doubt(self) -> str:
        """Why the execution is used although it differs from the reference; or ""."""
        if self.agreement is None or self.agreement.is_enough:
            return ""
        return (
            f"{self.execution} was asked for and differs from the reference: {self.agreement}; "
            f"expected at least {100 * VOXELS:g} % and {100 * OCCUPIED:g} %. precision: auto uses "
            "the fastest one that agrees"
        )


def choose_execution(model: LoadedModel, precision: str = AUTO, mode: str = AUTO) -> Choice:
    """The first execution, fastest first, that agrees with the reference.

    Where both are named, that one is used whatever the check says, see :attr:`Choice.doubt`.

    Args:
        model: on the device where it is to run.
        precision: ``auto`` or one of :data:`~occ_perception.runtime.execution.PRECISIONS`.
        mode: ``auto`` or one of :data:`~occ_perception.runtime.execution.MODES`.

    Raises:
        OptionError: there is no such precision or mode, or not on this device.
        OccError: an execution that was named cannot run.
    """
    tried = list(candidates(model.device, precision, mode))
    unchecked = (REFERENCE, PLAIN) if model.device.type == "cpu" else (REFERENCE,)
    check: SelfCheck | None = None
    passed_over: list[str] = []
    for execution in tried:
        if execution in unchecked:
            return Choice(execution, passed_over=tuple(passed_over))
        check = check or SelfCheck(model)
        is_last = execution == tried[-1]
        try:
            agreement = check.agreement(execution)
        except (OccError, RuntimeError) as error:
            # What cannot be recorded, compiled or held in memory here is no reason to stop.
            if is_last:
                raise
            reason = sentence_for(error) or str(error) or type(error).__name__
            passed_over.append(f"{execution} cannot run: {reason.splitlines()[0]}")
            continue
        if agreement.is_enough or is_last:
            return Choice(execution, agreement, tuple(passed_over))
        passed_over.append(f"{execution}: {agreement}")
    raise AssertionError("the last candidate is always used")


def candidates(device: torch.device, precision: str, mode: str) -> Iterator[Execution]:
    """Executions to try, fastest first; with ``auto`` for the precision the last one is certain.

    Compilation takes minutes, so it is never tried unless it is named.
    """
    for what, value, known in (("precision", precision, PRECISIONS), ("execution", mode, MODES)):
        if value not in (AUTO, *known):
            raise OptionError(f"{what} must be one of {', '.join((AUTO, *known))}, got {value!r}")
    on_gpu = device.type == "cuda"
    if mode == "graph" and not on_gpu:
        raise OptionError(f"execution graph needs a CUDA device, and the network is on {device}")
    precisions = _precisions(on_gpu) if precision == AUTO else (precision,)
    if mode == "reference" and precision == AUTO:
        precisions = ("fp32",)
    modes = (("graph", "eager") if on_gpu else ("eager",)) if mode == AUTO else (mode,)
    for chosen in precisions:
        yield from (Execution(chosen, how) for how in modes)
    if precision == AUTO and "eager" not in modes:
        yield PLAIN
    if precision == AUTO and on_gpu:
        yield REFERENCE


def _precisions(on_gpu: bool) -> tuple[str, ...]:
    if on_gpu:
        half = ("bf16", "fp16") if torch.cuda.is_bf16_supported() else ("fp16",)
        return (*half, "tf32", "fp32")
    return ("bf16", "fp32") if torch.ops.mkldnn._is_mkldnn_bf16_supported() else ("fp32",)


Said = tuple[NDArray[np.uint8], NDArray[np.float32] | None]
"""Labels and velocities of a frame."""


def agreement_of(said: Sequence[Said], expected: Sequence[Said], empty_class: int) -> Agreement:
    """How far the same frames got the same labels and velocities."""
    rows = []
    for (labels, flow), (expected_labels, expected_flow) in zip(said, expected, strict=True):
        occupied = (labels != empty_class) | (expected_labels != empty_class)
        same = labels == expected_labels
        velocity = None
        if flow is not None and expected_flow is not None:
            away = np.linalg.norm(flow[occupied] - expected_flow[occupied], axis=-1)
            velocity = float(away.mean()) if away.size else 0.0
        share = float(same[occupied].mean()) if occupied.any() else 1.0
        rows.append((float(same.mean()), share, velocity))
    voxels, shares, velocities = zip(*rows, strict=True)
    known = [velocity for velocity in velocities if velocity is not None]
    return Agreement(min(voxels), min(shares), max(known) if known else None)


class SelfCheck:
    """Runs executions over the same frames, one after the other, so that one is in memory.

    Args:
        model: to run.
    """

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._frames = list(random_frames(model.card, FRAMES))
        self._reference = self._run(REFERENCE)

    def agreement(self, execution: Execution) -> Agreement:
        """Compare an execution with the reference."""
        empty = self._model.card.labels.empty_class
        return agreement_of(self._run(execution), self._reference, empty)

    def _run(self, execution: Execution) -> list[Said]:
        stream = OccupancyStream(self._model, execution=execution)
        predictions = [stream.step(frame) for frame in self._frames]
        del stream
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        return [(prediction.labels, prediction.flow) for prediction in predictions]
