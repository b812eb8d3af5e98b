"""Sixteen-frame history against a literal, frame by frame implementation of the published steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.concat_history import ConcatHistoryConfig, ConcatHistoryState
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.ops import sampling

DTYPE = torch.float64
C, T = 3, 4


def geometry(flat):
    grid = VoxelGrid((-2.0, -1.4, -1.0), (0.5, 0.4, 0.8), (8, 7, 1 if flat else 3))
    return ViewGeometry((64, 64), DepthBins(1.0, 4.0, 1.0), grid, 1)


def module(flat):
    torch.manual_seed(1)
    net = ConcatHistoryConfig(channels=C, frames=T).build(geometry(flat)).double().eval()
    for norm in (net.project.norm, net.fuse.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
    return net


class LiteralHistory:
    """The recurrence as published: one history tensor, an age vector, a full time plane."""

    def __init__(self, net, flat):
        self.net, self.flat = net, flat
        grid = geometry(flat).grid
        step, low = grid.voxel_size, grid.lower
        self.F = torch.eye(4, dtype=DTYPE)
        for a in range(2 if flat else 3):
            self.F[a, a], self.F[a, 3] = step[a], low[a]
        self.dims = grid.dims

    def __call__(self, x, start, E, aug):
        A = torch.eye(4, dtype=DTYPE)
        A[:3, :3] = aug
        if start:
            self.H, self.ages, self.A = [x] * T, [0] * T, A
        else:
            self.ages = [age + 1 for age in self.ages]
        M = self.F.inverse() @ self.A @ E @ A.inverse() @ self.F
        warped = [self.warp(h, M) for h in self.H]
        slots, ages = [x, *warped], [0, *self.ages]
        outputs = []
        for slot, age in zip(slots, ages, strict=True):
            plane = torch.full_like(slot[:, :1], 0.5 * age)
            outputs.append(
                F.relu(
                    self.net.project.norm(self.net.project.conv(torch.cat([slot, plane], dim=1)))
                )
            )
        self.H, self.ages, self.A = slots[:T], ages[:T], A
        return F.relu(self.net.fuse.norm(self.net.fuse.conv(torch.cat(outputs, dim=1))))

    def warp(self, h, M):
        X, Y, Z = self.dims
        shape = (Y, X) if self.flat else (Y, X, Z)
        out = torch.zeros_like(h)
        for voxel in torch.cartesian_prod(*[torch.arange(n) for n in shape]):
            y, x = voxel[0].item(), voxel[1].item()
            z = 1.0 if self.flat else voxel[2].item()
            q = M @ torch.tensor([x, y, z, 1.0], dtype=DTYPE)
            at = [q[1], q[0]] if self.flat else [q[1], q[0], q[2]]
            for bits in torch.cartesian_prod(*[torch.tensor([0, 1])] * len(at)):
                index = [math.floor(a) + int(b) for a, b in zip(at, bits, strict=True)]
                if all(0 <= i < n for i, n in zip(index, shape, strict=True)):
                    share = math.prod(1 - abs(float(a) - i) for a, i in zip(at, index, strict=True))
                    out[(0, slice(None), *voxel.tolist())] += share * h[(0, slice(None), *index)]
        return out


def drive(yaw, forward):
    E = torch.eye(4, dtype=DTYPE)
    c, s = math.cos(yaw), math.sin(yaw)
    E[:2, :2] = torch.tensor([[c, -s], [s, c]])
    E[0, 3], E[2, 3] = forward, 0.05
    return E


def flip(x, y):
    return torch.diag(torch.tensor([x, y, 1.0], dtype=DTYPE))


FRAMES = [  # start, motion, augmentation
    (True, torch.eye(4, dtype=DTYPE), flip(1, 1)),
    (False, drive(0.1, 0.7), flip(-1, 1)),
    (False, drive(-0.2, 0.4), flip(-1, -1)),
    (True, torch.eye(4, dtype=DTYPE), flip(1, -1)),
    (False, drive(0.05, 1.1), flip(1, 1)),
    (False, drive(0.0, 0.3), flip(1, 1)),
]


def features(frame, flat):
    generator = torch.Generator().manual_seed(100 + frame)
    shape = (1, C, 7, 8) if flat else (1, C, 7, 8, 3)
    return torch.randn(shape, dtype=DTYPE, generator=generator)


def control(starts, motions, positions):
    return StepControl(torch.tensor(starts), torch.stack(motions), torch.tensor(positions))


@pytest.mark.parametrize("with_gradients", [True, False])
@pytest.mark.parametrize("flat", [True, False])
def test_two_sequences_equal_the_literal_recurrence(flat, with_gradients, monkeypatch):
    monkeypatch.setattr(sampling, "_ROWS_AT_ONCE", 10)  # less than there are voxels
    with torch.set_grad_enabled(with_gradients):
        _equals_the_literal_recurrence(module(flat), flat)


def _equals_the_literal_recurrence(net, flat):
    literal = LiteralHistory(net, flat)
    state = net.initial_state(1, None, DTYPE)
    position = 0
    for frame, (start, E, aug) in enumerate(FRAMES):
        position = 0 if start else position + 1
        x = features(frame, flat)
        step = control([start], [E], [position])
        got, state = net(x, state, step, GridAugmentation.of(aug[None]))
        torch.testing.assert_close(got, literal(x, start, E, aug), atol=1e-11, rtol=1e-11)


@torch.no_grad()
def test_two_streams_with_one_restarting_equal_two_single_runs():
    net = module(flat=True)
    plans = [[0, 1, 2, 3, 4, 5], [0, 1, 2, 4, 5, 1]]  # rows of FRAMES; the second never restarts
    singles = []
    for plan in plans:
        state, position, outputs = net.initial_state(1, None, DTYPE), 0, []
        for frame, row in enumerate(plan):
            start, E, aug = FRAMES[row]
            position = 0 if start else position + 1
            step = control([start], [E], [position])
            y, state = net(features(frame, True), state, step, GridAugmentation.of(aug[None]))
            outputs.append(y)
        singles.append((outputs, state))
    state, positions = net.initial_state(2, None, DTYPE), [0, 0]
    for frame in range(len(FRAMES)):
        rows = [FRAMES[plan[frame]] for plan in plans]
        positions = [0 if r[0] else p + 1 for r, p in zip(rows, positions, strict=True)]
        step = control([r[0] for r in rows], [r[1] for r in rows], positions)
        x = features(frame, True).expand(2, -1, -1, -1)
        y, state = net(x, state, step, GridAugmentation.of(torch.stack([r[2] for r in rows])))
        for b in range(2):
            torch.testing.assert_close(y[b : b + 1], singles[b][0][frame])
    for b in range(2):
        torch.testing.assert_close(state.slots_BTYXC[b : b + 1], singles[b][1].slots_BTYXC)


@torch.no_grad()
def test_a_start_reads_nothing_of_the_old_state():
    net = module(flat=True)
    start = control([True], [torch.eye(4, dtype=DTYPE)], [0])
    clean = net.initial_state(1, None, DTYPE)
    dirty = ConcatHistoryState(
        torch.full_like(clean.slots_BTYXC, float("nan")), torch.full((1, 3, 3), float("nan"))
    )
    aug = GridAugmentation.of(flip(1, 1)[None])
    y_clean, next_clean = net(features(0, True), clean, start, aug)
    y_dirty, next_dirty = net(features(0, True), dirty, start, aug)
    assert torch.equal(y_clean, y_dirty)
    assert torch.equal(next_clean.slots_BTYXC, next_dirty.slots_BTYXC)


@torch.no_grad()
def test_a_step_leaves_its_state_and_inputs_as_they_were():
    net = module(flat=True)
    aug = GridAugmentation.of(flip(1, 1)[None])
    _, state = net(
        features(0, True),
        net.initial_state(1, None, DTYPE),
        control([True], [torch.eye(4, dtype=DTYPE)], [0]),
        aug,
    )
    kept, x = [t.clone() for t in state], features(1, True)
    step = control([False], [drive(0.1, 0.5)], [1])
    first, _ = net(x, state, step, aug)
    again, _ = net(x, state, step, aug)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(state, kept, strict=True))
    assert torch.equal(x, features(1, True))


def test_ages_grow_to_the_number_of_frames_since_the_start():
    net = module(flat=True)
    eye = torch.eye(4, dtype=DTYPE)
    ages = net._ages(control([True, False, False], [eye] * 3, [0, 2, 9]))
    assert ages.tolist() == [[0, 0, 0, 0, 0], [0, 1, 2, 2, 2], [0, 1, 2, 3, 4]]


def test_gradients_flow_through_the_current_frame_only():
    net = module(flat=True)
    state = net.initial_state(1, None, DTYPE)
    slots = state.slots_BTYXC.normal_().requires_grad_()
    x = features(0, True).requires_grad_()
    step = control([False], [drive(0.1, 0.5)], [1])
    state = ConcatHistoryState(slots, state.augmentation_B33)
    y, after = net(x, state, step, GridAugmentation.none(1))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert slots.grad is None
    assert not after.slots_BTYXC.requires_grad
