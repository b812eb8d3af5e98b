"""The pass rule for networks that enlarge rounding is no rule that passes everything."""

from __future__ import annotations

import numpy as np
import pytest
from rounding import within_rounding
from verdict import compare

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
    assert verdict.passed
    assert "rounding alone: max" in verdict.note


@pytest.mark.parametrize(("noise", "mistake"), [(1e-2, 3e-2), (1e-6, 1e-3), (0.0, 2e-4)])
def test_what_rounding_does_not_explain_fails(noise, mistake):
    assert not against(noise, mistake).passed


def test_a_few_large_deviations_fail_though_the_mean_is_small():
    own = compare("map", EXPECTED + 1e-2, EXPECTED, rms=1.0)
    wrong = EXPECTED.copy()
    wrong[7] += 0.5
    assert not within_rounding(compare("map", wrong, EXPECTED, rms=1.0), own).passed
