"""When two sets of numbers count as equal: the pass rule, free of files and networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

TOLERANCE = 1e-4
"""Largest deviation relative to the tensor's rms."""
FLOW_TOLERANCE = 1e-3
"""The same for velocities."""
AGREEMENT = 0.999
"""Share of samples after the lift, and of labels, that must agree."""


@dataclass(frozen=True)
class Verdict:
    """How one tensor compares.

    Attributes:
        name: of the tensor.
        max_error, mean_error: relative to the rms.
        count: samples compared.
        beyond: how many of them deviate by more than the tolerance.
        passed: whether the pass rule holds.
        note: why it does not, or which discontinuities explain the deviating samples.
        by_rounding: whether it holds only because measured rounding is allowed for.
    """

    name: str
    max_error: float
    mean_error: float
    count: int
    beyond: int
    passed: bool
    note: str = ""
    by_rounding: bool = False

    def line(self) -> str:
        """One line for people."""
        word = "ok  " if self.passed else "FAIL"
        text = (
            f"{word} {self.name:32s} max {self.max_error:8.1e}  mean {self.mean_error:8.1e}  "
            f"beyond {self.beyond}/{self.count}"
        )
        return f"{text}  {self.note}" if self.note else text


def compare(
    name: str,
    got: np.ndarray,
    expected: np.ndarray,
    rms: float,
    discontinuities: tuple[str, ...] = (),
    tolerance: float = TOLERANCE,
    slack: np.ndarray | float = 0.0,
) -> Verdict:
    """Judge samples of one tensor.

    Args:
        name: of the tensor.
        got, expected: the samples.
        rms: of the whole expected tensor.
        discontinuities: names of operations before this tensor at which a correct implementation
            may flip single elements; without any, every sample must agree.
        tolerance: relative to ``rms``.
        slack: what each sample may deviate beyond that, absolute: values read at computed places
            move with the places' rounding where they are steep, and stored ones may be rounded.
    """
    difference = np.abs(got.astype(np.float64) - expected.astype(np.float64))
    error = np.where(np.isfinite(difference), difference, np.inf) / max(rms, 1e-30)
    beyond = int((error > tolerance + slack / max(rms, 1e-30)).sum())
    rounded = int((error > tolerance).sum()) - beyond
    passed, note = beyond == 0, f"{rounded} more explained by rounding" if rounded else ""
    if beyond and discontinuities:
        passed = beyond <= (1 - AGREEMENT) * error.size
        note = f"{beyond} explained by: {', '.join(discontinuities)}" if passed else ""
    if not passed:
        note = f"worst sample: got {got.flat[error.argmax()]:.7g}, expected " + (
            f"{expected.flat[error.argmax()]:.7g}"
        )
    return Verdict(name, float(error.max()), float(error.mean()), error.size, beyond, passed, note)


def compare_labels(got: np.ndarray, expected: np.ndarray) -> Verdict:
    """Judge a class map; errors are the share of voxels that differ."""
    if got.shape != expected.shape:
        note = f"class map has shape {got.shape}, expected {expected.shape}"
        return Verdict("labels", 1.0, 1.0, expected.size, expected.size, False, note)
    differ = int((got != expected).sum())
    share = differ / expected.size
    passed = share <= 1 - AGREEMENT
    return Verdict(
        "labels", float(differ > 0), share, expected.size, differ, passed, f"{1 - share:.4%} equal"
    )


def conclusion(verdicts: Iterable[Verdict]) -> str:
    """All of a file in one line: what failed, or what would without measured rounding."""
    verdicts = list(verdicts)
    failed = [v.name for v in verdicts if not v.passed]
    if failed:
        return f"FAILED: {len(failed)} comparisons: {_counted(failed)}"
    allowed = [v.name for v in verdicts if v.by_rounding]
    if not allowed:
        return "passed"
    return (
        f"passed, {len(allowed)} of {len(verdicts)} comparisons only by measured rounding: "
        f"{_counted(allowed)}"
    )


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{name} x{count}" for name, count in Counter(names).items())
