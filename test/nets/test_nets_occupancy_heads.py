"""Height lift with finer columns, and prototypes of a softmax, against loops."""

from __future__ import annotations

import torch

from occ_perception.nets.bev_encoder import BevEncoderConfig, HeightLiftConfig, VoxelPlaces
from occ_perception.nets.occupancy_heads import SoftmaxPrototypeHeadConfig


def test_a_place_of_the_map_becomes_two_by_two_columns() -> None:
    torch.manual_seed(0)
    net = HeightLiftConfig(in_channels=3, channels=2, voxels=4, upscale=2, kernel=1).build()
    maps = torch.randn(1, 3, 3, 5)
    volume = net(maps)
    assert volume.shape == (1, 2, 6, 10, 4)
    for c, y, x, z in ((0, 0, 0, 0), (1, 3, 4, 2), (1, 5, 9, 3)):
        channel = ((c * 4 + z) * 2 + y % 2) * 2 + x % 2
        weight, bias = net.conv.weight[channel, :, 0, 0], net.conv.bias[channel]
        expected = weight @ maps[0, :, y // 2, x // 2] + bias
        torch.testing.assert_close(volume[0, c, y, x, z], expected)


def test_heights_of_a_volume_become_channels() -> None:
    config = BevEncoderConfig(
        in_channels=6, widths=(4, 4, 4), blocks=(1, 1, 1), strides=(1, 2, 2), out_channels=5
    )
    net = config.build().eval()
    volume = torch.randn(1, 2, 8, 8, 3)
    as_map = torch.stack([volume[:, c, ..., z] for c in range(2) for z in range(3)], dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net(volume), net(as_map), atol=0, rtol=0)


def test_single_voxels_have_the_logits_of_the_volume_bias_included() -> None:
    torch.manual_seed(0)
    head = SoftmaxPrototypeHeadConfig(classes=5, channels=4).build()
    with torch.no_grad():
        head.bias.copy_(torch.arange(5.0))
        volume = torch.randn(1, 4, 3, 2, 6)
        logits = head(volume)
        rows = volume[0].movedim(0, -1).reshape(-1, 4)
        torch.testing.assert_close(logits[0].movedim(0, -1).reshape(-1, 5), head.class_logits(rows))
        expected = head.prototypes() @ volume[0, :, 1, 1, 4] + torch.arange(5.0)
    torch.testing.assert_close(logits[0, :, 1, 1, 4], expected)


def test_single_voxels_are_lifted_as_all_are() -> None:
    """Values and gradients, at voxels in any order, some of them twice."""
    torch.manual_seed(0)
    net = HeightLiftConfig(in_channels=3, channels=2, voxels=4, upscale=2, kernel=1).build()
    maps = torch.randn(2, 3, 5, 6, requires_grad=True)  # (B, C, Y, X)
    volume = net(maps).transpose(2, 3)  # (B, C', X, Y, Z)
    sizes = (2, 12, 10, 4)
    places = VoxelPlaces(*(torch.randint(size, (300,)) for size in sizes))
    expected = volume[places.b, :, places.x, places.y, places.z]
    got = net.at(maps.transpose(2, 3), places)
    torch.testing.assert_close(got, expected)
    inputs = [maps, *net.parameters()]
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    for mine, other in zip(torch.autograd.grad(got.square().sum(), inputs), wanted, strict=True):
        torch.testing.assert_close(mine, other)
