"""The pass rule itself: what it lets through and what it does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from check import check_logits, check_samples
from golden_file import Samples
from verdict import Verdict, compare, compare_labels, conclusion

EXPECTED = np.linspace(-3, 3, 2000, dtype=np.float32)
RMS = float(np.sqrt(np.mean(EXPECTED.astype(np.float64) ** 2)))


def with_changes(count, size):
    changed = EXPECTED.copy()
    changed[:count] += size * RMS
    return changed


def test_equal_numbers_pass_with_zero_error():
    verdict = compare("x", EXPECTED, EXPECTED, RMS)
    assert (verdict.passed, verdict.max_error, verdict.beyond) == (True, 0.0, 0)


@pytest.mark.parametrize(("size", "passes"), [(0.9e-4, True), (1.2e-4, False)])
def test_one_corrupted_value_is_caught_at_the_tolerance(size, passes):
    verdict = compare("x", with_changes(1, size), EXPECTED, RMS)
    assert verdict.passed == passes
    assert verdict.max_error == pytest.approx(size, rel=1e-2)


@pytest.mark.parametrize(("count", "passes"), [(2, True), (3, False)])
def test_flips_pass_up_to_one_in_a_thousand_and_are_counted_with_their_cause(count, passes):
    verdict = compare("x", with_changes(count, 0.5), EXPECTED, RMS, ("arg-max bin",))
    assert verdict.passed == passes
    assert ("arg-max bin" in verdict.note) == passes
    assert f"beyond {count}/2000" in verdict.line()


def test_flips_without_a_named_cause_fail():
    assert not compare("x", with_changes(1, 0.5), EXPECTED, RMS).passed


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_none_fail(bad):
    broken = EXPECTED.copy()
    broken[7] = bad
    verdict = compare("x", broken, EXPECTED, RMS)
    assert not verdict.passed
    assert verdict.max_error == np.inf


@pytest.mark.parametrize(("flips", "passes"), [(0, True), (8, True), (9, False)])
def test_labels_agree_to_one_in_a_thousand(flips, passes):
    expected = np.zeros((20, 20, 20), np.uint8)
    got = expected.copy()
    got.flat[:flips] = 3
    assert compare_labels(got, expected).passed == passes


def test_labels_of_a_transposed_grid_fail():
    verdict = compare_labels(np.zeros((6, 8, 2), np.uint8), np.zeros((8, 6, 2), np.uint8))
    assert not verdict.passed
    assert "shape (6, 8, 2), expected (8, 6, 2)" in verdict.note


def stored(tensor, start=5, step=7, count=40):
    index = (start + step * np.arange(count)) % tensor.numel()
    values = tensor.reshape(-1).numpy()[index]
    return Samples(values, index, tuple(tensor.shape), float(tensor.square().mean().sqrt()))


def test_samples_are_taken_at_the_stored_positions_of_strided_tensors_too():
    tensor = torch.randn(3, 5, 11)
    assert check_samples("x", tensor, stored(tensor)).passed
    strided = tensor.transpose(0, 2).contiguous().transpose(0, 2)
    assert check_samples("x", strided, stored(tensor)).passed
    moved = tensor.clone()
    moved.view(-1)[12] += 1  # 5 + 1 * 7 is one of the stored positions
    assert not check_samples("x", moved, stored(tensor)).passed


def test_a_missing_or_reshaped_tensor_fails_by_name():
    tensor = torch.randn(3, 5, 11)
    assert "add a row to taps.py" in check_samples("x", None, stored(tensor)).note
    assert "shape (3, 11, 5)" in check_samples("x", tensor.transpose(1, 2), stored(tensor)).note


def test_logits_are_compared_in_the_axis_order_of_the_file():
    logits_KYXZ = torch.randn(4, 6, 5, 3)
    index = np.arange(0, 90, 7)
    expected = Samples(logits_KYXZ.flatten(1)[:, index].numpy(), index, (4, 6, 5, 3), rms=1.0)
    assert check_logits(logits_KYXZ.transpose(1, 2)[None], expected).passed
    assert not check_logits(logits_KYXZ[None], expected).passed


def test_values_read_at_steep_places_may_move_with_their_places():
    expected = np.ones(10)
    got = expected.copy()
    got[3] += 5e-4
    slack = np.zeros(10)
    assert not compare("x", got, expected, 1.0).passed
    slack[4] = 1e-3
    assert not compare("x", got, expected, 1.0, slack=slack).passed
    slack[3] = 1e-3
    verdict = compare("x", got, expected, 1.0, slack=slack)
    assert verdict.passed
    assert "1 more explained by rounding" in verdict.note


def test_a_files_conclusion_names_what_failed_and_what_only_rounding_explains():
    plain = Verdict("map", 0.0, 0.0, 1, 0, True)
    allowed = Verdict("labels", 0.1, 0.1, 1, 1, True, by_rounding=True)
    wrong = Verdict("lift", 1.0, 1.0, 1, 1, False)
    assert conclusion([plain, plain]) == "passed"
    expected = "passed, 2 of 3 comparisons only by measured rounding: labels x2"
    assert conclusion([plain, allowed, allowed]) == expected
    assert conclusion([plain, allowed, wrong]) == "FAILED: 1 comparisons: lift x1"
