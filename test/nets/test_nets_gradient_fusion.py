"""Gradient-descent fusion on the grid against a literal, unfused run of the published steps."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.gradient_fusion import GradientFusionConfig
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

DTYPE = torch.float64
C = 4
LOWER, STEP = (-2.0, -1.4, -1.0), (0.5, 0.4, 0.8)


def geometry(flat):
    grid = VoxelGrid(LOWER, STEP, (8, 7, 1 if flat else 3))
    return ViewGeometry((64, 64), DepthBins(1.0, 4.0, 1.0), grid, 1)


def module(flat, dtype=DTYPE):
    torch.manual_seed(1)
    net = GradientFusionConfig.of_width(C).build(geometry(flat)).to(dtype).eval()
    for parameter in net.parameters():
        parameter.data.normal_(std=0.5)
    for norm in (net.history.project.norm, net.history.fuse.norm):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
        norm.weight.data.uniform_(0.5, 1.5)
    return net


class Literal:
    """One stream, step by step as published: channels first, axes (Z, Y, X), autograd inside."""

    def __init__(self, net, flat):
        self.motion, self.history, self.scene = net.motion, net.history, net.scene
        self.md = 2 if flat else 3
        X, Y, Z = geometry(flat).grid.dims
        self.sizes = (X, Y, Z)
        self.F = torch.eye(4, dtype=DTYPE)
        for a in range(self.md):
            self.F[a, a], self.F[a, 3] = STEP[a], LOWER[a]
        self.p = torch.ones(1 if flat else Z, Y, X, 4, dtype=DTYPE)
        self.p[..., 0] = torch.arange(X)
        self.p[..., 1] = torch.arange(Y)[:, None]
        if not flat:
            self.p[..., 2] = torch.arange(Z)[:, None, None]

    def __call__(self, x, start, E, aug):
        """x (C, Z, Y, X) with Z = 1 for maps."""
        A = torch.eye(4, dtype=DTYPE)
        A[:3, :3] = aug
        if start:
            self.H, self.n, self.A = x, 0, A
            self.dW = torch.zeros(C, C, dtype=DTYPE)
            self.db = torch.zeros(C, 1, dtype=DTYPE)
        M = self.F.inverse() @ self.A @ E @ A.inverse() @ self.F
        q = (self.p @ M.T)[..., : self.md]  # Z Y X (x, y[, z])
        q = q + self.displace(x, q, start)
        fused = self.fuse(x, self.sample(self.H, q, "zeros"))
        voxel = x if start else fused
        self.H, self.A, self.n = fused, A, self.n + 1
        return self.adapt(voxel.flatten(1)).view(x.shape)

    def sample(self, volume, q, padding):
        """Volume (c, Z, Y, X) at q (Z, Y, X, (x, y[, z]))."""
        scale = torch.tensor([2.0 / (s - 1) for s in self.sizes[: self.md]], dtype=DTYPE)
        g = q * scale - 1.0
        if self.md == 2:
            volume, g = volume[:, 0], g[0]
        options = {"padding_mode": padding, "align_corners": True}
        sampled = F.grid_sample(volume[None], g[None], mode="bilinear", **options)[0]
        return sampled[:, None] if self.md == 2 else sampled

    def displace(self, x, q, start):
        predicted = F.conv3d(x[None], self.motion.predict.weight, self.motion.predict.bias)[0]
        u = predicted.clamp(-20, 20)
        if not start:
            with torch.enable_grad():
                leaf = u.clone().requires_grad_()
                place = q + leaf.movedim(0, -1)
                S = self.sample(self.U, place, "border")
                ((S - leaf).square().sum(0) / self.md).sum().backward()
            last = torch.tensor([s - 1 for s in self.sizes[: self.md]])
            inside = ((place >= 0) & (place <= last)).all(-1)
            u = torch.where(inside, u - 0.1 * leaf.grad.clamp(-20, 20), u)
        self.U = u
        return u.movedim(0, -1)

    def fuse(self, x, warped):
        h = self.history
        volumes = [
            x + self.code(self.n)[:, None, None, None],
            warped + self.code(max(self.n - 1, 0))[:, None, None, None],
        ]
        u = [self.layer(v, h.project) for v in volumes]
        return self.layer(torch.cat(u), h.fuse)

    def layer(self, volume, part):
        """1x1 convolution, batch norm, ReLU."""
        weight = part.conv.weight.flatten(1)[:, :, None, None, None]
        out = F.conv3d(volume[None], weight, part.conv.bias)
        norm = part.norm
        mean, var = norm.running_mean, norm.running_var
        return F.relu(F.batch_norm(out, mean, var, norm.weight, norm.bias, eps=1e-5))[0]

    def code(self, n):
        wave = torch.zeros(C, dtype=DTYPE)
        for i in range(C // 2):
            omega = math.exp(-2 * i * math.log(10000) / C)
            wave[2 * i] = math.sin(0.5 * n * omega)
            wave[2 * i + 1] = math.cos(0.5 * n * omega)
        net = self.history.time_code
        return net[2](F.relu(net[0](wave)))

    def adapt(self, x):
        """x (C, n)."""
        s = self.scene
        W0, b0, gain0, shift0 = (p[0] for p in (s.weight, s.bias, s.norm_weight, s.norm_bias))
        k, v, q = s.key.weight @ x, s.value.weight @ x, s.query.weight @ x
        with torch.enable_grad():
            leaves = [t.detach().clone().requires_grad_() for t in (self.dW, self.db)]
            norm = [t.detach().clone().requires_grad_() for t in (gain0, shift0)]
            z = self.normalise((W0 - leaves[0]) @ k + (b0 - leaves[1]), *norm)
            ((z - (v - k)) ** 2).mean().backward()
        self.dW = self.dW - leaves[0].grad  # dz/ddW has the opposite sign of dz/dW
        self.db = self.db - leaves[1].grad
        gain, shift = gain0 - norm[0].grad, shift0 - norm[1].grad
        return self.normalise((W0 - self.dW) @ q + (b0 - self.db), gain, shift) + q

    def normalise(self, z, gain, shift):
        mean = z.mean(0, keepdim=True)
        var = z.var(0, correction=0, keepdim=True)
        return gain * (z - mean) / (var + 1e-6).sqrt() + shift


def published_axes(features):
    """(1, C, Y, X[, Z]) to (C, Z, Y, X)."""
    volume = features[0] if features.dim() == 5 else features[0, ..., None]
    return volume.movedim(-1, 1)


def drive(frame):
    yaw, pitch = 0.08 * math.sin(frame), 0.02 * math.cos(frame)
    c, s = math.cos(yaw), math.sin(yaw)
    E = torch.eye(4, dtype=DTYPE)
    E[:3, :3] = torch.tensor([[c, -s, 0], [s, c, 0], [-pitch, 0, 1]], dtype=DTYPE)
    E[:3, 3] = torch.tensor([0.4 + 0.1 * (frame % 5), 0.07, 0.05])
    return E


def plan(frame, restart):
    """Start flag, ego motion and augmentation of a frame."""
    start = frame in (0, restart)
    flip = torch.diag(torch.tensor([-1.0 if frame % 2 else 1.0, 1.0, 1.0], dtype=DTYPE))
    return start, torch.eye(4, dtype=DTYPE) if start else drive(frame), flip


def features(frame, flat, dtype=DTYPE):
    generator = torch.Generator().manual_seed(100 + frame)
    shape = (1, C, 7, 8) if flat else (1, C, 7, 8, 3)
    return torch.randn(shape, dtype=DTYPE, generator=generator).to(dtype)


def control(rows, positions):
    return StepControl(
        torch.tensor([r[0] for r in rows]),
        torch.stack([r[1] for r in rows]),
        torch.tensor(positions),
    )


def augmentation(rows, dtype=DTYPE):
    return GridAugmentation.of(torch.stack([r[2] for r in rows]).to(dtype))


def run(net, flat, frames, restart, dtype=DTYPE):
    """Outputs of a stream, and its last state."""
    state, position, outputs = net.initial_state(1, None, dtype), 0, []
    for frame in range(frames):
        row = plan(frame, restart)
        position = 0 if row[0] else position + 1
        x = features(frame, flat, dtype)
        y, state = net(x, state, control([row], [position]), augmentation([row], dtype))
        outputs.append(y)
    return outputs, state


@pytest.mark.parametrize("flat", [True, False])
@torch.no_grad()
def test_twenty_four_frames_equal_the_literal_steps(flat):
    net = module(flat)
    literal = Literal(net, flat)
    outputs, _ = run(net, flat, frames=24, restart=20)
    for frame, got in enumerate(outputs):
        expected = literal(published_axes(features(frame, flat)), *plan(frame, 20))
        torch.testing.assert_close(published_axes(got), expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("flat", [True, False])
@torch.no_grad()
def test_single_precision_stays_close_over_many_frames(flat):
    """Slopes of the motion field jump at nodes, so isolated voxels may differ."""
    net, single = module(flat), module(flat, torch.float32)
    single.load_state_dict(net.state_dict())
    exact, _ = run(net, flat, frames=24, restart=20)
    rounded, _ = run(single, flat, frames=24, restart=20, dtype=torch.float32)
    for a, b in zip(exact, rounded, strict=True):
        error = (a - b.double()).abs() / a.square().mean().sqrt()
        assert (error > 1e-4).double().mean() < 1e-2
        assert error.median() < 1e-5


@pytest.mark.parametrize("flat", [True, False])
@torch.no_grad()
def test_two_streams_with_one_restarting_equal_two_single_runs(flat):
    net = module(flat)
    restarts = (3, 99)
    singles = [run(net, flat, frames=6, restart=restart) for restart in restarts]
    state, positions = net.initial_state(2, None, DTYPE), [0, 0]
    for frame in range(6):
        rows = [plan(frame, restart) for restart in restarts]
        positions = [0 if r[0] else p + 1 for r, p in zip(rows, positions, strict=True)]
        x = features(frame, flat)
        x = x.expand(2, *x.shape[1:])
        y, state = net(x, state, control(rows, positions), augmentation(rows))
        for b in range(2):
            torch.testing.assert_close(y[b : b + 1], singles[b][0][frame])
    for b in range(2):
        for pair, single in zip(state[:3], singles[b][1][:3], strict=True):
            for got, wanted in zip(pair, single, strict=True):
                torch.testing.assert_close(got[b : b + 1], wanted)


@torch.no_grad()
def test_a_start_reads_nothing_of_the_old_state():
    net = module(flat=False)
    row = plan(0, 0)
    clean = net.initial_state(1, None, DTYPE)

    def spoiled(part):
        if isinstance(part, torch.Tensor):
            return torch.full_like(part, float("nan"))
        return type(part)(*(spoiled(p) for p in part))

    def stepped(state):
        y, following = net(features(0, False), state, control([row], [0]), augmentation([row]))
        return [y, *following.motion, *following.history, *following.scene]

    for a, b in zip(stepped(clean), stepped(spoiled(clean)), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_a_step_leaves_its_state_and_inputs_as_they_were():
    net = module(flat=False)
    _, state = run(net, False, frames=2, restart=0)
    tensors = [*state.motion, *state.history, *state.scene, state.augmentation_B33]
    kept, x = [t.clone() for t in tensors], features(2, False)
    row = plan(2, 0)
    first, _ = net(x, state, control([row], [2]), augmentation([row]))
    again, _ = net(x, state, control([row], [2]), augmentation([row]))
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip(tensors, kept, strict=True))
    assert torch.equal(x, features(2, False))


@torch.no_grad()
def test_a_start_passes_features_on_and_stores_fused_ones():
    net = module(flat=False)
    row = plan(0, 0)
    step = control([row], [0])
    rows = features(0, False).movedim(1, -1).contiguous()
    voxels = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=DTYPE) for n in (7, 8, 3)), indexing="ij"), dim=-1
    )[None]
    empty = net.history.initial_state(1, None, DTYPE)
    passed, state = net.history(rows, voxels, empty, step)
    assert torch.equal(passed, rows)
    assert not torch.equal(state.fused_BYXC, rows)


@torch.no_grad()
def test_the_state_keeps_its_shapes():
    net = module(flat=False)
    before = net.initial_state(1, None, DTYPE)
    _, after = run(net, False, frames=2, restart=0)
    for a, b in zip(before[:3], after[:3], strict=True):
        assert [t.shape for t in a] == [t.shape for t in b]
        assert [t.dtype for t in a] == [t.dtype for t in b]


def test_training_reaches_every_layer_but_not_the_frame_before():
    net = module(flat=True)
    _, state = run(net, True, frames=2, restart=0)
    assert not state.history.fused_BYXC.requires_grad
    state.history.fused_BYXC.requires_grad_()
    row = plan(2, 0)
    y, following = net(features(2, True), state, control([row], [2]), augmentation([row]))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    assert state.history.fused_BYXC.grad is None
    assert not any(t.requires_grad for part in following[:3] for t in part)
