"""Scene update: gradients against autograd, the layer against its definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ_perception.ops import gradient_steps
from occ_perception.ops.gradient_steps import SceneLayer, scene_apply, scene_gradient

B, N, C = 2, 57, 6


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    layer = SceneLayer(draw(B, C, C), draw(B, C), draw(B, C) + 1.0, draw(B, C))
    return draw(B, N, C) + 0.3, layer, draw(C, C), draw(C, C), draw(C, C)


def layer_norm(z, gain, shift):
    centred = z - z.mean(dim=-1, keepdim=True)
    deviation = (centred.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt()
    return gain[:, None] * centred / deviation + shift[:, None]


def through(layer, rows, projection):
    projected = rows @ projection.T
    hidden = projected @ layer.weight_BCC.mT + layer.bias_BC[:, None]
    return layer_norm(hidden, layer.gain_BC, layer.shift_BC)


def loss(layer, rows, key, value):
    """Mean squared error over voxels and channels, summed over the independent slots."""
    residual = through(layer, rows, key) - (rows @ value.T - rows @ key.T)
    return residual.square().mean(dim=(1, 2)).sum()


def test_gradients_equal_autograd(scene):
    rows, layer, key, value, _ = scene
    leaves = SceneLayer(*(p.clone().requires_grad_() for p in layer))
    expected = torch.autograd.grad(loss(leaves, rows, key, value), leaves)
    for got, wanted in zip(scene_gradient(rows, layer, key, value), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_applying_equals_the_definition(scene):
    rows, layer, query, _, _ = scene
    expected = through(layer, rows, query) + rows @ query.T
    torch.testing.assert_close(scene_apply(rows, layer, query), expected, rtol=1e-10, atol=1e-12)


def test_blocks_do_not_show(scene, monkeypatch):
    rows, layer, key, value, query = scene
    whole = (*scene_gradient(rows, layer, key, value), scene_apply(rows, layer, query))
    monkeypatch.setattr(gradient_steps, "_VOXELS_AT_ONCE", 10)
    parts = (*scene_gradient(rows, layer, key, value), scene_apply(rows, layer, query))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_gradients_of_a_training_loss_pass_through_the_step(scene):
    """The step is part of the graph: finite differences see what autograd says."""
    rows, layer, key, value, query = scene

    def adapted(key, value, query, weight):
        before = layer._replace(weight_BCC=weight)
        gradient = scene_gradient(rows, before, key, value)
        after = SceneLayer(*(p - g for p, g in zip(before, gradient, strict=True)))
        return scene_apply(rows, after, query)[:, ::9]

    inputs = [t.clone().requires_grad_() for t in (key, value, query, layer.weight_BCC)]
    assert torch.autograd.gradcheck(adapted, inputs)


def test_a_step_along_the_gradient_lowers_the_loss(scene):
    rows, layer, key, value, _ = scene
    gradient = scene_gradient(rows, layer, key, value)
    better = SceneLayer(*(p - 0.01 * g for p, g in zip(layer, gradient, strict=True)))
    assert loss(better, rows, key, value) < loss(layer, rows, key, value)


def test_a_constant_feature_stays_finite():
    rows = torch.zeros(1, 9, C)
    layer = SceneLayer(torch.eye(C)[None], torch.zeros(1, C), torch.ones(1, C), torch.zeros(1, C))
    eye = torch.eye(C)
    assert all(g.isfinite().all() for g in scene_gradient(rows, layer, eye, eye))
    assert torch.equal(scene_apply(rows, layer, eye), F.layer_norm(rows, (C,)))
