"""Depth from height: rays by an independent projection, and a network that begins as without."""

from __future__ import annotations

from dataclasses import replace

import torch

from occ_perception.geometry import VoxelGrid
from occ_perception.nets.cameras import CameraTensors, feature_pixels
from occ_perception.nets.depth_net import CAMERA_CODE_SIZE, DepthNetConfig
from occ_perception.nets.height_depth import HeightToDepthConfig
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GEOMETRY = ViewGeometry(
    (32, 64),
    DepthBins(1.0, 21.0, 0.5),
    VoxelGrid((-8.0, -6.0, -1.0), (0.5, 0.4, 1.6), (32, 30, 4)),
    num_cameras=1,
    feature_stride=8,
)
HEIGHT_M = 1.5


def level_camera() -> CameraTensors:
    """1.5 m above the ground, optical axis along the vehicle, input pixels as native ones."""
    pose = torch.tensor([[0.0, 0, 1, 0.3], [-1, 0, 0, 0.1], [0, -1, 0, HEIGHT_M], [0, 0, 0, 1]])
    K = torch.tensor([[40.0, 0, 31.5], [0, 40, 15.5], [0, 0, 1]])
    return CameraTensors.of(
        grid_T_cam_BN44=pose[None, None],
        K_BN33=K[None, None],
        image_rotation_BN33=torch.eye(3)[None, None],
        image_translation_BN3=torch.zeros(1, 1, 3),
    )


def test_the_height_bin_of_a_depth_is_that_of_the_point_there() -> None:
    config = HeightToDepthConfig()
    bins = config.build(8, 8, GEOMETRY).rays(level_camera()).bin_BNDhw
    _, v = feature_pixels(GEOMETRY).unbind(-1)
    slope_hw = (v - 15.5) / 40.0  # downwards per metre of depth, of a level camera
    for k in (0, 7, 39):
        depth = 1.0 + 0.5 * (k + 0.5)
        height_hw = HEIGHT_M - slope_hw * depth
        expected = torch.tensor(
            [[sum(edge < h for edge in config.edges) for h in row] for row in height_hw.tolist()]
        )
        apart = (bins[0, 0, k] - expected).abs()
        assert int(apart.max()) <= 1 and float((apart > 0).float().mean()) < 0.1  # on a border


def test_rays_have_direction_origin_and_slope() -> None:
    numbers = HeightToDepthConfig().build(8, 8, GEOMETRY).rays(level_camera()).numbers_BN7hw[0, 0]
    u, v = feature_pixels(GEOMETRY).unbind(-1)
    torch.testing.assert_close(numbers[0], torch.ones_like(u), atol=1e-4, rtol=0)
    torch.testing.assert_close(numbers[1], -(u - 31.5) / 40.0, atol=1e-4, rtol=0)
    torch.testing.assert_close(numbers[2], -3.0 * (v - 15.5) / 40.0, atol=1e-4, rtol=0)
    origin = torch.tensor([0.3, 0.1, HEIGHT_M])[:, None, None].expand(3, 4, 8)
    torch.testing.assert_close(numbers[3:6], 0.5 * origin, atol=1e-4, rtol=0)
    fall = ((v - 15.5) / 40.0 / HEIGHT_M).clamp(0.0, 0.5)
    torch.testing.assert_close(numbers[6], 4.0 * fall, atol=1e-4, rtol=0)


def test_a_network_begins_as_without_heights_and_learns_them() -> None:
    config = DepthNetConfig(
        context_channels=6, in_channels=8, width=8, aspp_channels=4, occluded_bins=None
    )
    plain = config.build(GEOMETRY).eval()
    net = replace(config, heights=HeightToDepthConfig()).build(GEOMETRY).eval()
    missing = net.load_state_dict(plain.state_dict(), strict=False)
    assert {key.split(".")[0] for key in missing.missing_keys} == {"heights"}
    features = torch.randn(1, 1, 8, 4, 8)
    code = torch.randn(1, 1, CAMERA_CODE_SIZE)
    assert net.heights is not None
    rays = net.heights.rays(level_camera())
    got, expected = net(features, code, None, rays), plain(features, code)
    torch.testing.assert_close(got.surface_BNDhw, expected.surface_BNDhw)
    torch.testing.assert_close(got.context_BNChw, expected.context_BNChw)

    # With one height certain, all of the distribution lies where the ray has that height.
    with torch.no_grad():
        net.heights.heights.bias[20] = 60.0
    surface = net(features, code, None, rays).surface_BNDhw
    at_height = rays.bin_BNDhw == 20
    reached = at_height.any(dim=2)
    assert bool(reached.any()) and not bool(reached.all())
    torch.testing.assert_close(
        (surface * at_height).sum(dim=2)[reached], torch.ones(int(reached.sum()))
    )
