"""The parts of CausalOcc against their equations; no reference numbers exist for them."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from small_networks import inputs, small_network

from occ_perception.geometry import VoxelGrid
from occ_perception.models.zoo import MODELS
from occ_perception.nets.cameras import CameraTensors, PixelRays
from occ_perception.nets.lift import GroupedLiftConfig, NormalisedTransfer, OcclusionTransfer
from occ_perception.nets.normalised_convolution import NormalisedConvolutionConfig
from occ_perception.nets.pose_correction import PoseCorrectionConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry
from occ_perception.ops.backend import soft_splat

CAUSAL = sorted(name for name in MODELS if name.startswith("causal_"))


@pytest.fixture
def generator():
    torch.manual_seed(0)
    return torch.Generator().manual_seed(0)


def drawn(module, generator):
    """Random weights, so that nothing is zero by construction; statistics stay positive."""
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else 0.3 * noise)
    return module.eval()


def convolution(generator, channels=3):
    config = NormalisedConvolutionConfig(channels=channels, image_channels=4, hidden=5)
    return drawn(config.build().double(), generator)


def test_kernels_and_columns_of_the_mixing_add_up_to_one(generator):
    net = convolution(generator)
    spread, mix_BOC = net.kernels(torch.randn(2, 3, 4, 5, 6, dtype=torch.float64))
    assert spread.shape == (2, 3, 3, 3, 3) and (spread > 0).all()
    torch.testing.assert_close(spread.sum(dim=(2, 3, 4)), torch.ones(2, 3, dtype=torch.float64))
    torch.testing.assert_close(mix_BOC.sum(dim=1), torch.ones(2, 3, dtype=torch.float64))
    assert not torch.allclose(mix_BOC.sum(dim=2), torch.ones(2, 3, dtype=torch.float64))


def test_normalised_convolution_is_its_equation_voxel_by_voxel(generator):
    net = convolution(generator)
    volume = torch.randn(2, 3, 4, 3, 5, dtype=torch.float64, generator=generator)
    images = torch.randn(2, 3, 4, 5, 6, dtype=torch.float64, generator=generator)
    spread, mix = net.kernels(images)
    # Every voxel gives its neighbour at offset d the share of the kernel at d.
    given = torch.zeros(2, 3, 6, 5, 7, dtype=torch.float64)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                share = spread[:, :, i, j, k, None, None, None]
                given[:, :, i : i + 4, j : j + 3, k : k + 5] += share * volume
    given = F.elu(given[:, :, 1:-1, 1:-1, 1:-1])
    mixed = torch.stack(
        [(mix[:, o, :, None, None, None] * given).sum(dim=1) for o in range(3)], dim=1
    )
    torch.testing.assert_close(net(volume, images), (mixed + volume) / 2)


def test_normalised_convolution_keeps_the_mass_of_what_lies_inside(generator):
    net = convolution(generator)
    volume = torch.zeros(1, 3, 6, 5, 6, dtype=torch.float64)
    inner = torch.rand(1, 3, 4, 3, 4, dtype=torch.float64, generator=generator)
    volume[:, :, 1:-1, 1:-1, 1:-1] = inner  # positive: the ELU does nothing
    after = net(volume, torch.randn(1, 2, 4, 5, 6, dtype=torch.float64))
    torch.testing.assert_close(after.sum(), volume.sum())


def test_normalised_convolution_can_be_differentiated_twice(generator):
    net = convolution(generator, channels=2)
    volume = torch.rand(1, 2, 2, 2, 3, dtype=torch.float64, generator=generator) + 0.1
    images = torch.randn(1, 1, 4, 2, 2, dtype=torch.float64, generator=generator)
    volume.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: net(v, images), volume)
    assert torch.autograd.gradgradcheck(lambda v: net(v, images), volume)


def test_a_new_kernel_starts_with_its_centre_at_one():
    bias = NormalisedConvolutionConfig(channels=4).build().spread[-1].bias.view(4, 27)
    assert (bias[:, 13] == 1.0).all() and (bias >= 0).all()


def calibration(generator, cameras=2):
    pose = torch.eye(4).repeat(1, cameras, 1, 1)
    pose[0, :, :3] += 0.1 * torch.randn(cameras, 3, 4, generator=generator)
    return CameraTensors.of(
        grid_T_cam_BN44=pose,
        K_BN33=torch.tensor([[60.0, 0, 48], [0, 60, 40], [0, 0, 1]]).repeat(1, cameras, 1, 1),
        image_rotation_BN33=torch.eye(3).repeat(1, cameras, 1, 1),
        image_translation_BN3=torch.zeros(1, cameras, 3),
    )


def test_a_new_pose_correction_changes_nothing(generator):
    cameras = calibration(generator)
    net = PoseCorrectionConfig(channels=4).build().eval()
    corrected = net(torch.randn(1, 2, 4, 3, 5, generator=generator), cameras)
    assert torch.equal(corrected.grid_T_cam_BN44, cameras.grid_T_cam_BN44)


def test_pose_correction_adds_twelve_numbers_and_leaves_the_rest(generator):
    cameras = calibration(generator)
    net = drawn(PoseCorrectionConfig(channels=4).build(), generator)
    features = torch.randn(1, 2, 4, 3, 5, generator=generator)
    corrected = net(features, cameras)
    for camera in range(2):
        pose = cameras.grid_T_cam_BN44[0, camera]
        seen = net.summary(features[:, camera]).mean(dim=(2, 3))[0]
        delta = net.head(torch.cat([seen, pose[:3, :3].reshape(9), pose[:3, 3]]))
        expected = pose.clone()
        expected[:3, :3] += delta[:9].reshape(3, 3)
        expected[:3, 3] += delta[9:]
        torch.testing.assert_close(corrected.grid_T_cam_BN44[0, camera], expected)
    rotation = corrected.grid_T_cam_BN44[0, 0, :3, :3]
    assert not torch.allclose(rotation @ rotation.T, torch.eye(3), atol=0.05)
    assert corrected.K_BN33 is cameras.K_BN33


def small_lift(generator, moved):
    grid = VoxelGrid((-4.0, -3.0, 0.0), (1.0, 1.0, 1.0), (8, 6, 4))
    geometry = ViewGeometry((32, 48), DepthBins(1.0, 4.0, 0.5), grid, num_cameras=2)
    lift = GroupedLiftConfig(channels=4, groups=2).build(geometry)
    if moved:
        lift = drawn(lift, generator)
    weights = torch.rand(1, 4, 6, 2, 3, generator=generator)
    context = torch.randn(1, 2, 4, 2, 3, generator=generator)
    rays = PixelRays(calibration(generator), torch.eye(3)[None], geometry)
    return lift, rays, weights, context


def test_a_new_grouped_lift_places_points_like_the_plain_one(generator):
    lift, rays, weights, context = small_lift(generator, moved=False)
    volume = lift(rays, weights, context)
    voxels = rays.voxels(lift.pixels_hw2, lift.depths_D[:, None, None])
    for g in range(2):
        group = slice(2 * g, 2 * g + 2)
        expected = soft_splat(voxels, weights[:, g::2], context[:, :, group], (8, 6, 4))
        torch.testing.assert_close(volume[:, group], expected)
    assert volume.abs().sum() > 0


def test_offsets_move_pixels_and_depths(generator):
    lift, rays, weights, context = small_lift(generator, moved=True)
    offset = lift.offset(context[0]).view(1, 2, 6, 3, 2, 3)
    pixels = lift.pixels_hw2 + torch.stack([offset[:, :, :, 0], offset[:, :, :, 1]], dim=-1)
    voxels = rays.voxels(pixels, lift.depths_D[:, None, None] + offset[:, :, :, 2])
    expected = soft_splat(voxels, weights[:, 1::2], context[:, :, 2:], (8, 6, 4))
    torch.testing.assert_close(lift(rays, weights, context)[:, 2:], expected)


def test_normalised_transfer_gives_every_ray_one(generator):
    surface = torch.rand(1, 2, 8, 3, 4, generator=generator).softmax(dim=2)
    occluded = torch.rand(1, 2, 3, 3, 4, generator=generator)
    plain, even = OcclusionTransfer()(surface, occluded), NormalisedTransfer()(surface, occluded)
    assert (plain.sum(dim=2) > 1.01).any()
    torch.testing.assert_close(even.sum(dim=2), torch.ones(1, 2, 3, 4))
    torch.testing.assert_close(even / even[:, :, :1], plain / plain[:, :, :1])


def test_matching_uses_poses_as_they_came_and_the_rest_corrected_ones():
    net = small_network(MODELS["causal_bevdetocc"])
    seen = {}
    net.stereo.register_forward_hook(lambda _m, args, _o: seen.update(stereo=args[3]))
    net.lift.register_forward_hook(lambda _m, args, _o: seen.update(lift=args[0].cameras))
    net.depth.register_forward_hook(lambda _m, args, _o: seen.update(code=args[1]))
    step = inputs(0, 0, 0)
    with torch.no_grad():
        net(step, net.initial_state(1))
    given, corrected = step.cameras.grid_T_cam_BN44, seen["lift"].grid_T_cam_BN44
    assert torch.equal(seen["stereo"].grid_T_cam_BN44, given)
    assert not torch.allclose(corrected, given)
    assert torch.equal(seen["code"][..., 15:], corrected[..., :3, :].flatten(2))


@pytest.mark.parametrize("name", CAUSAL)
def test_outputs_carry_what_the_causal_loss_differentiates(name):
    """A share of the mass of some voxels, by the context, with a gradient of its own."""
    net = small_network(MODELS[name]).train()
    step = inputs(0, 0, 0)
    out, _ = net(step, net.initial_state(1))
    context = out.context_BNChw
    assert out.lifted_BCXYZ.shape == (1, context.shape[2], *net.config.geometry.grid.dims)
    mass = out.lifted_BCXYZ[0].sum(dim=0)[2:9, 1:6].sum()
    (share,) = torch.autograd.grad(mass, context, create_graph=True)
    assert share.abs().sum() > 0
    share.square().mean().backward()
    reached = {n.partition(".")[0] for n, p in net.named_parameters() if p.grad is not None}
    assert {"pose", "depth", "lift", "pre"} <= reached
    net.eval()
    with torch.no_grad():
        assert net(step, net.initial_state(1))[0].lifted_BCXYZ is None


@pytest.mark.parametrize("name", CAUSAL)
def test_cards_say_what_was_reported_and_that_nothing_else_exists(name, shared_dir):
    facts = json.loads((shared_dir / "reference/cards.json").read_text())["models"][name]
    card = MODELS[name]
    assert (card.title, card.published) == (facts["model"], facts["published"])
    assert (card.config_stem, card.url, card.licence) == (None, facts["checkpoint"], None)
    assert "no reference numbers" in card.note
