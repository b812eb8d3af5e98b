"""Class biases: the score against loops, and a bias that is found where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from occ_training.class_bias import DrawnLogits, fit_class_bias, mean_score

from occ_perception.labels import LABEL_SETS

OCC3D = LABEL_SETS["occ3d"]
FREE = OCC3D.empty_class


def test_the_score_is_the_mean_of_both_intersections_over_unions() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.choice([0, 4, 11, FREE], (2, 500))
    ratios = [
        np.sum((labels == k) & (predicted == k)) / np.sum((labels == k) | (predicted == k))
        for k in (0, 4, 11)
    ]
    both, either = (labels != FREE) & (predicted != FREE), (labels != FREE) | (predicted != FREE)
    expected = 0.5 * (np.mean(ratios) + both.sum() / either.sum())
    got = mean_score(torch.from_numpy(predicted), torch.from_numpy(labels), OCC3D)
    assert got == pytest.approx(expected, rel=1e-9)


def test_a_head_that_calls_too_much_free_is_put_right() -> None:
    """Logits that a bias against free space would make perfect, less one class without a voxel."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.tensor([0, 4, 11, FREE])[torch.randint(4, (4000,), generator=generator)]
    logits = torch.rand(4000, OCC3D.num_classes, generator=generator)
    logits[torch.arange(4000), labels] += 1.0
    logits[:, FREE] += 1.4
    logits[:, 7] = -5.0
    drawn = DrawnLogits(logits, labels)
    before = mean_score(logits.argmax(1), labels, OCC3D)
    bias = fit_class_bias(drawn, OCC3D)
    after = mean_score((logits + bias).argmax(1), labels, OCC3D)
    assert before < 0.8 and after > 0.97
    assert float(bias[7]) == 0.0
    assert float(bias[FREE] - bias[[0, 4, 11]].mean()) == pytest.approx(-1.4, abs=0.45)
