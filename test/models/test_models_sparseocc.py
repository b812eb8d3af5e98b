"""What the sparse network promises: repeatable, one frame's backbone per step, state as a value."""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import batched, inputs
from small_sparse import GRID, KEEP, small_sparse, small_sparse_card
from small_streams import drive, surround_rig

from occ_perception.models.inputs import CameraTensors
from occ_perception.models.postprocess import decode
from occ_perception.models.state import clone_state, state_from_tensors, state_tensors
from occ_perception.nets.sparse.frame_history import Frames
from occ_perception.nets.sparse.mask_points import EvenDrawsConfig, SeededDrawsConfig
from occ_perception.nets.sparse.pyramid import Pyramid
from occ_perception.runtime.folding import fold
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel

DRIVE = [(0, n, n) for n in range(9)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Small networks gain nothing from threads, and lose a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net():
    return small_sparse()


def run(net, steps, state=None):
    """Outputs and final state of (scene, frame, position) steps of one stream."""
    state = net.initial_state(1) if state is None else state
    outputs = []
    with torch.no_grad():
        for step in steps:
            out, state = net(inputs(*step), state)
            outputs.append(out)
    return outputs, state


def same(a, b) -> bool:
    """Whether two outputs are equal bit for bit."""
    return all(
        torch.equal(x, y)
        for one, two in zip((*a.levels, *a.predictions), (*b.levels, *b.predictions), strict=True)
        for x, y in zip(one, two, strict=True)
    )


def voxels_of(outputs, number=0) -> set[tuple[int, ...]]:
    return set(map(tuple, outputs.levels[-1].corner_BV3[number].tolist()))


def test_levels_hold_distinct_voxels_inside_their_parents(net) -> None:
    (out,), _ = run(net, [(0, 0, 0)])
    parents = None
    for level, size, kept in zip(out.levels, (4, 2, 1), KEEP, strict=True):
        voxels = level.corner_BV3[0]
        assert len(set(map(tuple, voxels.tolist()))) == kept
        assert (voxels >= 0).all() and (voxels < torch.tensor(GRID.dims)).all()
        assert (voxels % size == 0).all()
        if parents is not None:
            assert {tuple(c) for c in (voxels // (2 * size) * (2 * size)).tolist()} <= parents
        parents = set(map(tuple, voxels.tolist()))
        occupied = 1 - level.logits_BVK[0].softmax(dim=-1)[:, -1]
        assert (occupied.diff() <= 1e-6).all()  # the most probable first


def test_the_network_is_not_blind(net) -> None:
    """Guards the other tests: images, motion and history matter."""
    (first, other), _ = run(net, [(0, 0, 0), (0, 1, 0)])
    assert not same(first, other)
    (*_, remembered), _ = run(net, DRIVE[:3])
    assert not same(remembered, run(net, [(0, 2, 0)])[0][0])
    labels = decode(first, small_sparse_card()).labels_BXYZ
    assert len(labels.unique()) > 2


def test_the_same_seed_gives_the_same_answer_whatever_was_drawn_before(net) -> None:
    first, _ = run(net, DRIVE[:3])
    torch.manual_seed(99)
    torch.rand(7)
    second, _ = run(small_sparse(draws=SeededDrawsConfig(seed=0)), DRIVE[:3])
    assert all(same(a, b) for a, b in zip(first, second, strict=True))


def test_another_seed_gives_other_masks_over_the_same_voxels(net) -> None:
    (one,), _ = run(net, DRIVE[:1])
    (two,), _ = run(small_sparse(draws=SeededDrawsConfig(seed=1)), DRIVE[:1])
    assert voxels_of(one) == voxels_of(two)
    assert torch.equal(one.predictions[0].mask_logits_BQV, two.predictions[0].mask_logits_BQV)
    assert not torch.allclose(
        one.predictions[1].mask_logits_BQV, two.predictions[1].mask_logits_BQV
    )


def test_the_even_recipe_draws_nothing(net) -> None:
    torch.manual_seed(1)
    one, _ = run(small_sparse("sparseocc_even"), DRIVE[:2])
    torch.manual_seed(2)
    two, _ = run(small_sparse(draws=EvenDrawsConfig()), DRIVE[:2])
    assert all(same(a, b) for a, b in zip(one, two, strict=True))
    assert not same(one[0], run(net, DRIVE[:1])[0][0])


def test_a_stream_of_steps_equals_eight_frames_at_once(net) -> None:
    """All eight frames encoded together, places projected with each frame's own pose."""
    (*_, streamed), _ = run(net, DRIVE)
    newest = DRIVE[-1][1]
    ages = [inputs(0, newest - age, newest - age) for age in range(8)]
    motion = ages[0].control.previous_T_current_B44[0].numpy()
    images = torch.stack([step.images_BN3HW[0] for step in ages])
    projections = [
        step.cameras.pixel_T_grid_BN44[0] @ torch.from_numpy(np.linalg.matrix_power(motion, age))
        for age, step in enumerate(ages)
    ]
    with torch.no_grad():
        frames = Frames(
            maps=Pyramid(*(level[None] for level in net.image(images))),
            frame_BT=torch.arange(8)[None],
            pixel_T_grid_BTN44=torch.stack(projections)[None].float(),
        )
        at_once = net.decode(frames)
    assert voxels_of(at_once) == voxels_of(streamed)
    for a, b in zip(at_once.predictions[0], streamed.predictions[0], strict=True):
        assert (a.sort(-1)[0] - b.sort(-1)[0]).abs().max() < 1e-3 * b.std()
    card = small_sparse_card()
    assert (
        decode(at_once, card).labels_BXYZ == decode(streamed, card).labels_BXYZ
    ).float().mean() > 0.999


def test_images_are_encoded_once(net) -> None:
    seen = []
    handle = net.image.register_forward_hook(lambda _m, args, _out: seen.append(args[0].shape))
    run(net, DRIVE[:4])
    handle.remove()
    assert seen == [(1, 6, 3, 64, 96)] * 4


def test_frames_may_be_observed_without_an_answer(net) -> None:
    outputs, state = run(net, DRIVE[:4])
    quiet = net.initial_state(1)
    with torch.no_grad():
        for step in DRIVE[:3]:
            _, quiet = net.observe(inputs(*step), quiet)
    last, observed = run(net, DRIVE[3:4], quiet)
    assert same(last[0], outputs[3])
    kept = state_tensors(state)
    assert all(torch.equal(kept[name], t) for name, t in state_tensors(observed).items())


def test_more_than_seven_frames_back_nothing_is_remembered(net) -> None:
    (*_, long), _ = run(net, [(0, 50, 0), *[(0, n, 1) for n in range(8)]])
    (*_, other), _ = run(net, [(1, 60, 0), *[(0, n, 1) for n in range(8)]])
    assert same(long, other)


def test_a_restart_equals_a_fresh_stream(net) -> None:
    long, _ = run(net, [(0, 0, 0), (0, 1, 1), (1, 5, 0), (1, 6, 1)])
    fresh, _ = run(net, [(1, 5, 0), (1, 6, 1)])
    assert same(long[2], fresh[0])
    assert same(long[3], fresh[1])


def test_interleaved_streams_do_not_disturb_each_other(net) -> None:
    streams = [DRIVE[:3], [(1, 10, 0), (1, 11, 1), (1, 12, 2)]]
    alone = [run(net, steps)[0] for steps in streams]
    states = [net.initial_state(1), net.initial_state(1)]
    for t in range(3):
        for number, steps in enumerate(streams):
            (out,), states[number] = run(net, [steps[t]], states[number])
            assert same(out, alone[number][t])


def test_a_batch_with_one_restarting_stream_equals_two_single_runs(net) -> None:
    steps = [DRIVE[:3], [(1, 0, 0), (1, 1, 1), (1, 9, 0)]]
    singles = [run(net, stream)[0] for stream in steps]
    state, card = net.initial_state(2), small_sparse_card()
    with torch.no_grad():
        for t in range(3):
            out, state = net(batched(*(inputs(*stream[t]) for stream in steps)), state)
            for b in range(2):
                single = singles[b][t]
                assert len(voxels_of(out, b) ^ voxels_of(single)) <= 2
                agree = decode(out, card).labels_BXYZ[b] == decode(single, card).labels_BXYZ[0]
                assert agree.float().mean() > 0.999


def test_a_saved_state_goes_on_bit_for_bit(net, tmp_path) -> None:
    outputs, _ = run(net, DRIVE[:3])
    _, halfway = run(net, DRIVE[:2])
    save_file(state_tensors(clone_state(halfway)), tmp_path / "state.safetensors")
    restored = state_from_tensors(net.initial_state(1), load_file(tmp_path / "state.safetensors"))
    assert same(run(net, DRIVE[2:3], restored)[0][0], outputs[2])


def test_a_step_that_is_not_kept_leaves_the_state_alone(net) -> None:
    _, state = run(net, DRIVE[:2])
    kept = state_tensors(clone_state(state))
    run(net, [(0, 7, 2)], state)
    assert all(torch.equal(kept[name], t) for name, t in state_tensors(state).items())


def test_the_first_camera_in_the_cards_order_is_looked_at(net) -> None:
    """Unlike in the other networks, the order of cameras is part of the model."""
    plain = inputs(0, 0, 0)
    order = [3, 1, 0, 4, 2, 5]
    cameras = {
        field.name: getattr(plain.cameras, field.name)[:, order] for field in fields(CameraTensors)
    }
    shuffled = replace(
        plain, images_BN3HW=plain.images_BN3HW[:, order], cameras=CameraTensors(**cameras)
    )
    with torch.no_grad():
        a, _ = net(plain, net.initial_state(1))
        b, _ = net(shuffled, net.initial_state(1))
    assert not same(a, b)


def test_folded_norms_are_the_same_network(net) -> None:
    """The list of voxels is the same up to those that are equally probable; the golden file holds
    the rest (see the parity tests)."""
    rewritten = copy.deepcopy(net)
    fold(rewritten, torch.device("cpu"))
    assert not [m for m in rewritten.image.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for plain, folded in zip(run(net, DRIVE[:2])[0], run(rewritten, DRIVE[:2])[0], strict=True):
        assert len(voxels_of(plain) ^ voxels_of(folded)) <= 2
        a, b = (out.predictions[0].mask_logits_BQV.sort(dim=-1).values for out in (plain, folded))
        assert (a - b).abs().max() < 1e-3 * a.std()


def test_one_forward_serves_training_too() -> None:
    net = small_sparse().requires_grad_(True).train()
    state = net.initial_state(1)
    _, state = net.observe(inputs(*DRIVE[0]), state)
    out, state = net(inputs(*DRIVE[1]), state)
    assert [level.corner_BV3.shape[1] for level in out.levels] == [2 * keep for keep in KEEP]
    loss = sum(level.logits_BVK.square().mean() for level in out.levels)
    loss = loss + sum(
        p.mask_logits_BQV.square().mean() + p.class_logits_BQK.square().mean()
        for p in out.predictions
    )
    loss.backward()
    idle = [name for name, p in net.named_parameters() if p.grad is None]
    assert idle == []
    assert not any(t.requires_grad for t in state_tensors(state).values())


def test_a_stream_predicts_and_continues_from_a_snapshot(net) -> None:
    card = small_sparse_card()
    model = LoadedModel(card, net, torch.device("cpu"), "random:small")
    frames = drive([10.0, 10.5, 11.0], surround_rig(card.cameras))
    stream = OccupancyStream(model)
    first = [stream.step(frame) for frame in frames[:2]]
    snapshot = stream.snapshot()
    last = stream.step(frames[2])
    assert [p.history_length for p in (*first, last)] == [0, 1, 2]
    assert last.labels.shape == GRID.dims and last.flow is None
    stream.step(frames[0])
    stream.restore(snapshot)
    assert np.array_equal(stream.step(frames[2]).labels, last.labels)
