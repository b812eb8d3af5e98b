"""The flow head against the published steps written out: unfold, repeat, concatenate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.flow_head import (
    FlowHead,
    FlowHeadConfig,
    FlowState,
    JoinMatching,
    MapMatching,
    MotionHint,
    expected_velocity,
)
from occ_perception.nets.grid_augmentation import GridAugmentation
from occ_perception.nets.temporal.step import StepControl
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GEOMETRY = ViewGeometry(
    (64, 64), DepthBins(1.0, 4.0, 1.0), VoxelGrid((-6.0, -4.0, -1.0), (1, 1, 0.4), (12, 8, 16)), 1
)
CONFIG = FlowHeadConfig(channels=4)


def step(start, forward=0.0):
    motion = torch.eye(4, dtype=torch.float64)
    motion[0, 3] = forward
    return StepControl(torch.tensor([start]), motion[None], torch.tensor([0 if start else 1]))


def head():
    torch.manual_seed(0)
    return CONFIG.build(GEOMETRY).eval()


def test_matching_equals_unfolding_the_previous_map():
    torch.manual_seed(1)
    now, then = torch.randn(2, 4, 12, 16), torch.randn(2, 4, 12, 16)
    then[:, :, :3] = 0.0  # nothing was there
    small = [
        F.interpolate(m, size=(6, 8), mode="bilinear", align_corners=True) for m in (now, then)
    ]
    windows = F.unfold(small[1], 11, dilation=2, padding=10).view(2, 4, 121, 6, 8)
    cost = -(F.normalize(small[0], dim=1)[:, :, None] * F.normalize(windows, dim=1)).sum(1) / 0.1
    cost = cost + 5.0 * (windows.sum(dim=1) == 0)
    got = MapMatching(CONFIG)(now, then)
    torch.testing.assert_close(got, -cost, atol=1e-4, rtol=1e-5)


def test_joining_equals_convolving_the_repeated_map():
    torch.manual_seed(2)
    join = JoinMatching(3, 4)
    matching, volume = torch.randn(2, 3, 5, 6), torch.randn(2, 4, 5, 6, 7)
    repeated = matching[..., None].expand(-1, -1, -1, -1, 7)
    with torch.no_grad():
        expected = F.relu(join.conv(torch.cat([repeated, volume], dim=1)))
        torch.testing.assert_close(join(matching, volume), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("number", "velocity"), [(0, -22.0), (44, 0.0), (87, 21.5)])
def test_a_certain_bin_is_its_velocity(number, velocity):
    bins = torch.full((1, 88, 2, 1, 1, 1), -100.0)
    bins[0, number, 0] = 100.0
    bins[0, 44, 1] = 100.0
    assert expected_velocity(bins).flatten().tolist() == pytest.approx([velocity, 0.0], abs=1e-4)


@torch.no_grad()
def test_the_previous_map_is_the_mean_over_heights_three_to_eight_shifted_by_the_motion():
    net = head()
    volume = torch.randn(1, 4, 8, 12, 16)
    aug = GridAugmentation.none(1)
    _, state = net(volume, net.initial_state(1, None, torch.float32), step(True), aug)
    mean = volume[..., 3:9].mean(dim=-1)
    torch.testing.assert_close(state.map_BYXC.movedim(-1, 1), mean)
    warped = net.history(state.map_BYXC, state, step(False, forward=1.0), aug)
    torch.testing.assert_close(warped[..., :-1], mean[..., 1:], atol=1e-5, rtol=1e-5)
    assert warped[..., -1].abs().max() < 1e-5  # the new column was never seen


@torch.no_grad()
def test_a_start_reads_no_state_and_the_map_is_stored_unwarped():
    net = head()
    volume, aug = torch.randn(1, 4, 8, 12, 16), GridAugmentation.none(1)
    clean = net.initial_state(1, None, torch.float32)
    junk = FlowState(torch.full_like(clean.map_BYXC, torch.nan), torch.full((1, 3, 3), torch.nan))
    fresh, _ = net(volume, clean, step(True), aug)
    again, state = net(volume, junk, step(True), aug)
    assert torch.equal(fresh.velocity_BYXZ2, again.velocity_BYXZ2)
    moved, after = net(volume, state, step(False, forward=2.0), aug)
    assert not torch.equal(moved.velocity_BYXZ2, fresh.velocity_BYXZ2)
    assert torch.equal(after.map_BYXC, state.map_BYXC)


def test_single_voxels_in_training_have_the_velocities_of_inference():
    net = head()
    volume, aug = torch.randn(1, 4, 8, 12, 16), GridAugmentation.none(1)
    state = net.initial_state(1, None, torch.float32)
    with torch.no_grad():
        at_inference, _ = net(volume, state, step(True), aug)
        net.train()
        net.encode.eval()
        in_training, _ = net(volume, state, step(True), aug)
        voxels = in_training.features_BCYXZ.movedim(1, -1).flatten(0, 3)
        velocity = expected_velocity(net.velocity_bins(voxels))
    expected = at_inference.velocity_BYXZ2.flatten(0, 3)
    torch.testing.assert_close(velocity, expected, atol=1e-5, rtol=1e-5)
    assert at_inference.features_BCYXZ is None and in_training.velocity_BYXZ2 is None


# --- true classes in place of features, while training --------------------------------------------


def matching_of(net: FlowHead, *arguments: object) -> torch.Tensor:
    """The distribution that the trained part of the head is given."""
    given = []
    handle = net.encode.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    net(*arguments)
    handle.remove()
    return given[0]


def published_true_scores(labels, before, motion, aug, aug_before):
    """Minus the cost of one-hot labels, warped with grid_sample and unfolded, in float64."""
    maps = []
    for volume in (labels, before):
        ids = torch.where(volume == 255, 18, volume.long())
        mean = F.one_hot(ids, 19)[..., 3:9, :].double().mean(dim=3)  # (B, X, Y, 19)
        maps.append(mean.permute(0, 3, 2, 1))
    now, then = maps
    Y, X = now.shape[2:]
    A = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    A[0, 3], A[1, 3] = GEOMETRY.grid.lower[0], GEOMETRY.grid.lower[1]
    G, G_before = torch.eye(4).double(), torch.eye(4).double()
    G[:3, :3], G_before[:3, :3] = aug.double(), aug_before.double()
    H = A.inverse() @ G_before @ motion @ G.inverse() @ A
    y, x = torch.meshgrid(torch.arange(Y), torch.arange(X), indexing="ij")
    voxels = torch.stack([x, y, torch.ones_like(x), torch.ones_like(x)], dim=-1).double() @ H.T
    places = torch.stack([2 * voxels[..., 0] / (X - 1) - 1, 2 * voxels[..., 1] / (Y - 1) - 1], -1)
    then = F.grid_sample(then, places[None], align_corners=True)
    small = [
        F.interpolate(m, size=(Y // 2, X // 2), mode="bilinear", align_corners=True)
        for m in (now, then)
    ]
    windows = F.unfold(small[1], 11, dilation=2, padding=10).unflatten(1, (19, 121))
    windows = windows.unflatten(-1, (Y // 2, X // 2))
    alike = (F.normalize(small[0], dim=1)[:, :, None] * F.normalize(windows, dim=1)).sum(dim=1)
    return alike / 0.1 - 5.0 * (windows.sum(dim=1) == 0)


@torch.no_grad()
def test_true_classes_are_matched_as_published_and_mixed_into_the_cost():
    net = head()
    generator = torch.Generator().manual_seed(3)
    volumes = torch.randn(2, 1, 4, 8, 12, 16, generator=generator)
    labels = torch.randint(0, 19, (2, 1, 12, 8, 16), generator=generator)
    labels = torch.where(labels == 18, 255, labels).byte()
    aug_before, aug = torch.diag(torch.tensor([-1.0, 1.0, 1.0])), torch.eye(3)
    aug[:2, :2] = torch.tensor([[0.96, -0.28], [0.28, 0.96]])  # another augmentation than before
    control = step(False, forward=1.5)
    empty = net.initial_state(1, None, torch.float32)
    _, state = net(volumes[0], empty, step(True), GridAugmentation.of(aug_before[None]))

    def matching(hint: MotionHint | None) -> torch.Tensor:
        return matching_of(net, volumes[1], state, control, GridAugmentation.of(aug[None]), hint)

    motion = control.previous_T_current_B44[0]
    true = published_true_scores(labels[1], labels[0], motion, aug, aug_before).float()
    assert (true < -4.9).any() and (true > 5.0).any()
    # The published steps end in a softmax: what both agree on is the scores up to a constant.
    features = matching(None).log()
    for rate in (1.0, 0.3):
        mixed = rate * true + (1.0 - rate) * features
        got = matching(MotionHint(labels[1], labels[0], rate))
        torch.testing.assert_close(got, mixed.softmax(dim=1), atol=1e-5, rtol=1e-3)
    assert torch.equal(matching(MotionHint(labels[1], labels[0], 0.0)), matching(None))


@torch.no_grad()
def test_true_classes_of_the_frame_before_are_not_read_at_a_start():
    net = head()
    volume, aug = torch.randn(1, 4, 8, 12, 16), GridAugmentation.none(1)
    state = net.initial_state(1, None, torch.float32)
    labels = torch.randint(0, 18, (2, 1, 12, 8, 16), dtype=torch.uint8)
    own, other = (
        matching_of(net, volume, state, step(True), aug, MotionHint(labels[0], before))
        for before in labels
    )
    assert torch.equal(own, other)


@torch.no_grad()
def test_true_classes_show_where_a_car_came_from():
    """It moved by two voxels of half resolution, which is one step of the displacements."""
    geometry = ViewGeometry(
        (64, 64),
        DepthBins(1.0, 4.0, 1.0),
        VoxelGrid((-20.0, -20.0, -1.0), (1, 1, 1), (40, 40, 16)),
        1,
    )
    net = CONFIG.build(geometry).eval()
    labels = torch.full((2, 1, 40, 40, 16), 17, dtype=torch.uint8)
    labels[:, :, :, :, :4] = torch.arange(40)[:, None, None] % 11  # ground that tells places apart
    labels[0, 0, 16:22, 18:24, 2:8] = 4
    labels[1, 0, 20:26, 18:24, 2:8] = 4
    volume, aug = torch.zeros(1, 4, 40, 40, 16), GridAugmentation.none(1)
    state = net.initial_state(1, None, torch.float32)
    hint = MotionHint(labels[1], labels[0])
    matching = matching_of(net, volume, state, step(False), aug, hint)
    inside = matching[0, :, 10, 11].view(11, 11)  # y, x of half resolution
    assert inside[5, 4] > 0.9 * inside.max()  # four voxels back along x
    assert inside[5, 5] < 0.5 * inside.max()
