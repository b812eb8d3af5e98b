"""What every dense network of the zoo must do, whatever its parts."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from small_networks import batched, inputs, small_network

from occ_perception.models.inputs import CameraTensors
from occ_perception.models.occupancy_net import OccupancyNetConfig
from occ_perception.models.state import clone_state, state_from_tensors, state_tensors
from occ_perception.models.zoo import MODELS
from occ_perception.nets.bev_encoder import VoxelPlaces
from occ_perception.nets.occupancy_heads import PrototypeHead

USUAL = (
    "alocc_2d_mini",
    "alocc_2d",
    "alocc_3d_depth",
    "alocc_flow_3d",
    "alocc_2d_gf",
    "alocc_3d_gf",
    "alocc_town",
)
REST = [
    pytest.param(name, marks=pytest.mark.slow(ci=name == "fbocc"))
    for name, card in sorted(MODELS.items())
    if not name.endswith("_nomask")
    and name not in USUAL
    and isinstance(card.config, OccupancyNetConfig)
]


@pytest.fixture(scope="module", params=[*USUAL, *REST])
def net(request):
    card = MODELS[request.param]
    return small_network(card)


def step_of(net, scene, frame, position):
    """Input of one slot for this network."""
    return inputs(
        scene, frame, position, net.config.geometry.num_cameras, depth=net.config.measured_depth
    )


def run(net, steps, state=None):
    """Outputs and final state of (scene, frame, position) steps of one stream."""
    state = net.initial_state(1) if state is None else state
    outputs = []
    with torch.no_grad():
        for step in steps:
            out, state = net(step_of(net, *step), state)
            outputs.append(out.logits_BKXYZ)
    return outputs, state


def close(a, b):
    return (a - b).abs().max() <= 1e-4 * b.std()


def test_logits_have_public_axes_and_depend_on_the_images(net):
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
            out, state = net(batched(*(step_of(net, *stream[t]) for stream in steps)), state)
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
    order = [3, 1, 0, 4, 2, 5][: net.config.geometry.num_cameras]  # of five cameras, too
    plain = step_of(net, 0, 0, 0)
    cameras = {
        field.name: getattr(plain.cameras, field.name)[:, order] for field in fields(CameraTensors)
    }
    depth = plain.depth and replace(plain.depth, depth_BNHW=plain.depth.depth_BNHW[:, order])
    shuffled = replace(
        plain,
        images_BN3HW=plain.images_BN3HW[:, order],
        cameras=CameraTensors(**cameras),
        depth=depth,
    )
    with torch.no_grad():
        a, _ = net(plain, net.initial_state(1))
        b, _ = net(shuffled, net.initial_state(1))
    assert close(b.logits_BKXYZ, a.logits_BKXYZ)


def test_flow_has_public_axes(net):
    if net.flow is None:
        pytest.skip("the network predicts no flow")
    with torch.no_grad():
        out, _ = net(step_of(net, 0, 0, 0), net.initial_state(1))
    X, Y, Z = net.config.output_grid.dims
    assert out.flow_BXYZ2.shape == (1, X, Y, Z, 2)
    assert out.flow_BXYZ2.abs().max() <= 22.0
    assert out.flow_features_BCXYZ is None


def test_one_forward_serves_training_too(net):
    net.train()
    try:
        state = net.initial_state(2)
        out, state = net(batched(step_of(net, 0, 0, 0), step_of(net, 1, 0, 0)), state)
        out, state = net(batched(step_of(net, 0, 1, 1), step_of(net, 1, 1, 1)), state)
        loss = out.logits_BKXYZ.square().mean()
        if out.flow_features_BCXYZ is not None:
            voxels = out.flow_features_BCXYZ.movedim(1, -1)[0, 0, 0]
            loss = loss + net.flow.velocity_bins(voxels).square().mean()
        loss.backward()
    finally:
        net.eval()
    assert not any(t.requires_grad for t in state_tensors(state).values())
    idle = [n for n, p in net.named_parameters() if p.grad is None]
    assert all(name.startswith("head.image_embed.") for name in idle), idle
    net.zero_grad()


def test_single_voxels_have_the_logits_that_they_have_among_all(net):
    if not isinstance(net.head, PrototypeHead):
        pytest.skip("the head looks at more than single voxels")
    places = VoxelPlaces(*(torch.tensor(v) for v in ([0, 0, 0], [0, 3, 1], [2, 1, 0], [1, 0, 3])))
    step, state = step_of(net, 0, 0, 0), net.initial_state(1)
    with torch.no_grad():
        logits = net(step, state)[0].logits_BKXYZ
        out, _ = net(replace(step, dense=False), state)
        assert out.logits_BKXYZ is None
        got = net.class_logits(out.volume_BCXYZ, places)
    torch.testing.assert_close(got, logits[places.b, :, places.x, places.y, places.z])
