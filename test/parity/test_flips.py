"""What the checker puts down to places next to a node, and what it does not."""

from __future__ import annotations

import numpy as np
import torch
from flips import explained_by_flips, gradient_on_the_other_side, with_slack
from verdict import compare

from occ_perception.ops.backend import displacement_gradient

SIZES = (4, 5)


def fields():
    generator = torch.Generator().manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    voxels = torch.stack([rows, columns], dim=-1).view(1, 20, 2)
    displacement = 0.3 + 0.4 * torch.rand(1, 20, 2, generator=generator)
    return displacement, torch.randn(1, 20, 2, generator=generator), voxels


def test_only_places_next_to_a_node_take_the_other_slope():
    displacement, stored, voxels = fields()
    displacement[0, 7] = torch.tensor([1.0 + 5e-6, 0.5])  # between rows 2 and 3, by a hair
    ours = displacement_gradient(displacement, stored, voxels, SIZES)
    other = gradient_on_the_other_side(displacement, stored, voxels, SIZES)
    differs = (ours - other).abs().amax(dim=-1)[0] > 1e-3
    assert differs.nonzero().flatten().tolist() == [7]
    displacement[0, 7, 0] = 1.0 - 5e-6  # what it would have been a hair earlier
    earlier = displacement_gradient(displacement, stored, voxels, SIZES)
    torch.testing.assert_close(other[0, 7], earlier[0, 7], atol=1e-3, rtol=1e-3)


def test_a_place_at_the_edge_of_the_grid_takes_the_step_or_none():
    displacement, stored, voxels = fields()
    displacement[0, 0] = torch.tensor([-1e-5, 0.5])
    assert (displacement_gradient(displacement, stored, voxels, SIZES)[0, 0] == 0).all()
    assert (gradient_on_the_other_side(displacement, stored, voxels, SIZES)[0, 0] != 0).any()


def test_deviations_pass_as_far_as_flips_explain_them_and_no_further():
    expected = np.ones(1000, np.float32)
    got, flipped = torch.ones(1000), torch.ones(1000)
    flipped[:20] += 0.01
    slack = with_slack({"x": got}, {"x": flipped})["x|slack"].numpy()
    for wrong, passes in ((slice(0, 20), True), (slice(10, 30), False)):
        values = expected.copy()
        values[wrong] += 0.009
        strict = compare("x", values, expected, 1.0, ("nodes",))
        verdict = explained_by_flips(
            strict, compare("x", values, expected, 1.0, ("nodes",), slack=slack)
        )
        assert not strict.passed and verdict.passed == passes
        assert ("20 explained by places next to a node" in verdict.note) == passes
