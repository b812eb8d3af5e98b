"""What the checker puts down to rounding before motion fusion, and what it does not."""

from __future__ import annotations

import numpy as np
import torch
from flips import with_slack
from shaken import explained_by_rounding, spread
from verdict import compare

from occ_perception.models.inputs import NetOutputs


def outputs(value):
    return NetOutputs(logits_BKXYZ=torch.full((1, 2, 1, 1, 1), value))


def test_the_farthest_run_counts_twice():
    runs = [({"x": torch.tensor([1.0, 1.5])}, outputs(3.0)), ({"x": torch.ones(2)}, outputs(2.5))]
    values, farthest = spread({"x": torch.ones(2), "x|slack": torch.ones(2)}, outputs(2.0), runs)
    assert list(values) == ["x"] and values["x"].tolist() == [1.0, 2.0]
    assert (farthest.logits_BKXYZ == 4.0).all()


def test_deviations_pass_as_far_as_the_runs_differ_and_no_further():
    expected = np.ones(1000, np.float32)
    ours, changed = torch.ones(1000), torch.ones(1000)
    changed[:20] += 0.005
    values, _ = spread({"x": ours}, outputs(0.0), [({"x": changed}, outputs(0.0))])
    slack = with_slack({"x": ours}, values)["x|slack"].numpy()
    for wrong, passes in ((slice(0, 20), True), (slice(10, 30), False)):
        got = expected.copy()
        got[wrong] += 0.009
        strict = compare("x", got, expected, 1.0, ("nodes",))
        allowing = compare("x", got, expected, 1.0, ("nodes",), slack=slack)
        verdict = explained_by_rounding(strict, allowing)
        assert not strict.passed and verdict.passed == passes
        assert ("20 explained by rounding before motion fusion" in verdict.note) == passes
