"""Geometry fusion against a literal run, camera by camera and point by point."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.cameras import CameraTensors
from occ_perception.nets.measured_depth import measured_depth
from occ_perception.nets.temporal.geometry_fusion import GeometryFusionConfig, GeometryFusionState
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

DTYPE = torch.float64
N, C = 2, 5
GEOMETRY = ViewGeometry(
    (48, 64), DepthBins(1.0, 7.0, 1.0), VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (4, 4, 4)), N
)
D, (H, W) = GEOMETRY.depth.count, GEOMETRY.feature_size


@pytest.fixture
def net():
    torch.manual_seed(2)
    net = GeometryFusionConfig(in_channels=C).build(GEOMETRY).double().eval()
    for parameter in net.parameters():
        parameter.data.normal_()
    return net


def rotation(axis, angle):
    c, s = math.cos(angle), math.sin(angle)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    R = np.eye(4)
    R[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return R


def camera_motion(frame):
    """Camera now to the same camera one frame ago: forward and a little aside and around."""
    motions = []
    for camera in range(N):
        T = rotation(1, 0.05 * frame + 0.1 * camera) @ rotation(0, 0.03) @ rotation(2, 0.02)
        T[:3, 3] = 0.1, -0.05, 0.6 + 0.1 * frame
        motions.append(T)
    motions[1][:3, 3] = 0.3, 0.0, -1.5  # backwards: near points end up behind the camera
    return torch.from_numpy(np.stack(motions))[None]


def cameras(frame):
    K = torch.tensor([[120.0, 0, 90], [0, 130.0, 70], [0, 0, 1]], dtype=DTYPE)
    A = torch.tensor([[0.4 + 0.01 * frame, 0.01, 0], [-0.02, 0.45, 0], [0, 0, 1]], dtype=DTYPE)
    a = torch.tensor([-3.0 - frame, 2.0, 0], dtype=DTYPE)
    pose = torch.eye(4, dtype=DTYPE).expand(1, N, 4, 4)
    K = torch.stack([K, K * torch.tensor([1.1, 1.0, 1.0])[:, None]])[None]
    return CameraTensors.of(pose, K, A.expand(1, N, 3, 3), a.expand(1, N, 3))


def control(starts, frames):
    return StepControl(
        torch.tensor(starts),
        torch.eye(4, dtype=DTYPE).expand(len(starts), 4, 4),
        torch.tensor(frames),
        torch.cat([camera_motion(frame) for frame in frames]),
    )


def drawn(frame, *shape):
    generator = torch.Generator().manual_seed(40 + frame)
    return torch.randn(*shape, dtype=DTYPE, generator=generator)


def inputs(frame):
    base = drawn(frame, 1, N, D, H, W).sigmoid()
    depth = torch.where(drawn(frame, 1, N, *GEOMETRY.input_size) > 2.7, 9.0, 0.0)
    depth = depth * drawn(frame + 9, 1, N, *GEOMETRY.input_size).sigmoid()
    return drawn(frame, 1, N, C, H, W), base, measured_depth(depth, GEOMETRY)


class Literal:
    """As published, in numpy, one frustum point after the other."""

    def __init__(self, net):
        self.net = net

    def __call__(self, frame, start, with_measured):
        features, base, measured = (part for part in inputs(frame))
        out = np.zeros((N, D, H, W))
        stored = np.zeros((N, D, H, W))
        for camera in range(N):
            logits = self.conv(self.net.logits, features[0, camera].numpy())
            b = base[0, camera].numpy()
            one_hot, known = logits, np.zeros((1, H, W), bool)
            if with_measured:
                known = measured.known_BN1hw[0, camera].numpy()
                one_hot = measured.surface_BNDhw[0, camera].numpy()
            replaced, seen = np.where(known, one_hot, logits), np.where(known, one_hot, b)
            fused, keep = logits, replaced
            if not start:
                warped = self.warp(camera, frame)
                gate = self.gate(self.net.blend.gate, warped, logits)
                fused = np.where(warped != 0, gate * warped + (1 - gate) * logits, logits)
                keep = np.where(warped != 0, gate * warped + (1 - gate) * replaced, replaced)
            stored[camera] = keep
            s = np.exp(fused) / np.exp(fused).sum(0)
            gate = self.gate(self.net.output_gate, s, b)
            out[camera] = gate * s + (1 - gate) * seen
        self.volume, self.affine = stored, cameras(frame)
        return out

    def conv(self, layer, x):
        weight = layer.weight.detach().numpy()[..., 0, 0]
        return np.einsum("oc,chw->ohw", weight, x) + layer.bias.detach().numpy()[:, None, None]

    def gate(self, gate, first, second):
        hidden = np.maximum(self.conv(gate.layers[0], np.concatenate([first, second])), 0)
        return 1 / (1 + np.exp(-self.conv(gate.layers[2], hidden)))

    def warp(self, camera, frame):
        now, then = cameras(frame), self.affine
        K = now.K_BN33[0, camera].numpy()
        T = camera_motion(frame)[0, camera].numpy()
        out = np.zeros((D, H, W))
        for d, j, i in np.ndindex(D, H, W):
            u, v = 63 * i / (W - 1), 47 * j / (H - 1)
            depth = 1.0 + d
            A, a = now.image_rotation_BN33[0, camera], now.image_translation_BN3[0, camera]
            p = np.linalg.solve(A.numpy(), np.array([u, v, depth]) - a.numpy())
            p = np.linalg.solve(K, np.array([p[0] * p[2], p[1] * p[2], p[2]]))
            p = T[:3, :3] @ p + T[:3, 3]
            if p[2] < 1e-3:
                continue
            p = K @ p
            p = np.array([p[0] / p[2], p[1] / p[2], p[2]])
            A, a = then.image_rotation_BN33[0, camera], then.image_translation_BN3[0, camera]
            p = A.numpy() @ p + a.numpy()
            place = (
                (p[2] - 1.0) / (D - 1) * (D - 1),
                p[1] / (16 * H - 1) * (H - 1),
                p[0] / (16 * W - 1) * (W - 1),
            )
            out[d, j, i] = interpolate(self.volume[camera], place)
        return out


def interpolate(volume, place):
    total = 0.0
    for corner in np.ndindex(2, 2, 2):
        index = [math.floor(a) + bit for a, bit in zip(place, corner, strict=True)]
        if all(0 <= i < n for i, n in zip(index, volume.shape, strict=True)):
            share = np.prod([1 - abs(a - i) for a, i in zip(place, index, strict=True)])
            total += share * volume[tuple(index)]
    return total


def step(net, frame, start, state, with_measured):
    features, base, measured = inputs(frame)
    return net(
        features,
        base,
        state,
        control([start], [frame]),
        cameras(frame),
        measured if with_measured else None,
    )


@pytest.mark.parametrize("with_measured", [False, True])
@torch.no_grad()
def test_two_sequences_equal_the_literal_steps(net, with_measured):
    literal, state = Literal(net), net.initial_state(1, None, DTYPE)
    for frame, start in enumerate([True, False, False, True, False]):
        got, state = step(net, frame, start, state, with_measured)
        expected = torch.from_numpy(literal(frame, start, with_measured))[None]
        torch.testing.assert_close(got, expected, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(
            state.logits_BNDhw[0], torch.from_numpy(literal.volume), atol=1e-10, rtol=1e-10
        )


@torch.no_grad()
def test_the_past_is_seen_and_partly_missing(net):
    """Otherwise the comparison above would say little."""
    _, state = step(net, 0, True, net.initial_state(1, None, DTYPE), False)
    warped = net._warp(state, control([False], [1]), cameras(1))
    assert 0.2 < (warped == 0).double().mean() < 0.8


@torch.no_grad()
def test_two_streams_with_one_restarting_equal_two_single_runs(net):
    plans = [[True, False, False], [True, False, True]]
    singles = []
    for plan in plans:
        state = net.initial_state(1, None, DTYPE)
        for frame, start in enumerate(plan):
            weights, state = step(net, frame, start, state, True)
        singles.append((weights, state))
    state = net.initial_state(2, None, DTYPE)
    for frame in range(3):
        features, base, measured = (part for part in inputs(frame))
        rig = cameras(frame)
        weights, state = net(
            torch.cat([features] * 2),
            torch.cat([base] * 2),
            state,
            control([plan[frame] for plan in plans], [frame, frame]),
            CameraTensors(*(torch.cat([getattr(rig, name)] * 2) for name in vars(rig))),
            type(measured)(*(torch.cat([part] * 2) for part in measured)),
        )
    for b in range(2):
        torch.testing.assert_close(weights[b : b + 1], singles[b][0])
        for got, wanted in zip(state, singles[b][1], strict=True):
            torch.testing.assert_close(got[b : b + 1], wanted)


@torch.no_grad()
def test_a_start_reads_nothing_of_the_old_state(net):
    clean = net.initial_state(1, None, DTYPE)
    spoiled = GeometryFusionState(*(torch.full_like(part, float("nan")) for part in clean))
    for a, b in zip(
        step(net, 0, True, clean, True)[1], step(net, 0, True, spoiled, True)[1], strict=True
    ):
        assert torch.equal(a, b)
    assert torch.equal(step(net, 0, True, clean, True)[0], step(net, 0, True, spoiled, True)[0])


def test_measured_depth_takes_the_nearest_of_a_patch():
    depth = torch.zeros(1, 1, 48, 64)
    depth[0, 0, 3, 5], depth[0, 0, 9, 2] = 4.5, 2.99  # patch (0, 0): the nearer one, bin 1
    depth[0, 0, 20, 20] = 1.0  # patch (1, 1): the first bin's own edge
    depth[0, 0, 20, 40] = 0.99  # before the first bin
    depth[0, 0, 40, 5] = 6.99  # the last bin
    depth[0, 0, 40, 20] = 7.0  # behind it
    measured = measured_depth(depth, GEOMETRY)
    found = {tuple(place[-3:]) for place in measured.surface_BNDhw.nonzero().tolist()}
    assert found == {(1, 0, 0), (0, 1, 1), (5, 2, 0)}
    known = {tuple(place[-2:]) for place in measured.known_BN1hw.nonzero().tolist()}
    assert known == {(0, 0), (1, 1), (2, 0)}
