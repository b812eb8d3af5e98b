"""What every network of the zoo must do, whatever its parts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_networks import batched, inputs, small_network

from occ_perception.models.inputs import CameraTensors
from occ_perception.models.state import clone_state, state_from_tensors, state_tensors
from occ_perception.models.zoo import MODELS

NAMES = sorted({card.recipe: name for name, card in MODELS.items()}.values())  # one per recipe


@pytest.fixture(scope="module", params=NAMES)
def net(request):
    return small_network(MODELS[request.param])


def run(net, steps, state=None):
    """Outputs and final state of (scene, frame, position) steps of one stream."""
    state = net.initial_state(1) if state is None else state
    outputs = []
    with torch.no_grad():
        for step in steps:
            out, state = net(inputs(*step), state)
            outputs.append(out.logits_BKXYZ)
    return outputs, state


def close(a, b):
    return (a - b).abs().max() <= 1e-4 * b.std()


def test_logits_have_public_axes_and_depend_on_the_pictures(net):
    (first, second), _ = run(net, [(0, 0, 0), (0, 1, 0)])
    X, Y, Z = net.config.output_grid.dims
    assert first.shape == (1, net.config.head.classes, X, Y, Z)
    assert torch.isfinite(first).all()
    assert not close(first, second)


def test_a_restart_equals_a_fresh_stream(net):
    long, _ = run(net, [(0, 0, 0), (0, 1, 1), (1, 5, 0), (1, 6, 1)])
    fresh, _ = run(net, [(1, 5, 0), (1, 6, 1)])
    assert torch.equal(long[2], fresh[0])
    assert torch.equal(long[3], fresh[1])


def test_a_batch_with_one_restarting_stream_equals_two_single_runs(net):
    steps = [[(0, 0, 0), (0, 1, 1), (0, 2, 2)], [(1, 0, 0), (1, 1, 1), (1, 9, 0)]]
    singles = [run(net, stream)[0] for stream in steps]
    state = net.initial_state(2)
    with torch.no_grad():
        for t in range(3):
            out, state = net(batched(inputs(*steps[0][t]), inputs(*steps[1][t])), state)
            for b in range(2):
                assert close(out.logits_BKXYZ[b : b + 1], singles[b][t])


def test_a_saved_state_goes_on_bit_for_bit(net):
    outputs, _ = run(net, [(0, 0, 0), (0, 1, 1), (0, 2, 2)])
    _, halfway = run(net, [(0, 0, 0), (0, 1, 1)])
    restored = state_from_tensors(net.initial_state(1), state_tensors(clone_state(halfway)))
    again, _ = run(net, [(0, 2, 2)], restored)
    assert torch.equal(again[0], outputs[2])


def test_a_step_that_is_not_kept_leaves_the_state_alone(net):
    _, state = run(net, [(0, 0, 0), (0, 1, 1)])
    kept = state_tensors(clone_state(state))
    run(net, [(0, 7, 2)], state)
    assert all(torch.equal(kept[name], t) for name, t in state_tensors(state).items())


def test_order_of_cameras_does_not_matter(net):
    order = [3, 1, 5, 0, 4, 2]
    plain = inputs(0, 0, 0)
    shuffled = replace(
        plain,
        images_BN3HW=plain.images_BN3HW[:, order],
        cameras=CameraTensors(
            *(
                getattr(plain.cameras, n)[:, order]
                for n in (
                    "grid_T_cam_BN44",
                    "K_BN33",
                    "image_rotation_BN33",
                    "image_translation_BN3",
                )
            )
        ),
    )
    with torch.no_grad():
        a, _ = net(plain, net.initial_state(1))
        b, _ = net(shuffled, net.initial_state(1))
    assert close(b.logits_BKXYZ, a.logits_BKXYZ)


def test_one_forward_serves_training_too(net):
    net.train()
    try:
        state = net.initial_state(2)
        out, state = net(batched(inputs(0, 0, 0), inputs(1, 0, 0)), state)
        out, state = net(batched(inputs(0, 1, 1), inputs(1, 1, 1)), state)
        out.logits_BKXYZ.square().mean().backward()
    finally:
        net.eval()
    assert not any(t.requires_grad for t in state_tensors(state).values())
    idle = [n for n, p in net.named_parameters() if p.grad is None]
    assert all(name.startswith("head.image_embed.") for name in idle), idle
    net.zero_grad()
