"""The voxel neck against the concatenation it avoids."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from occ_perception.nets.voxel_encoder import VoxelEncoderConfig, VoxelNeck


def test_neck_equals_convolving_the_concatenated_volume():
    torch.manual_seed(0)
    neck = VoxelNeck((3, 4, 5), 6).eval()
    neck.bn.running_mean.normal_()
    volumes = [torch.randn(1, 3, 8, 12, 4), torch.randn(1, 4, 4, 6, 2), torch.randn(1, 5, 2, 3, 1)]
    size = volumes[0].shape[-3:]
    together = torch.cat(
        [F.interpolate(v, size=size, mode="trilinear", align_corners=True) for v in volumes], dim=1
    )
    with torch.no_grad():
        expected = F.relu(neck.bn(neck.conv(together)))
        torch.testing.assert_close(neck(volumes), expected, atol=1e-5, rtol=1e-5)


def test_encoder_keeps_the_size_of_a_volume_of_three_different_sides():
    config = VoxelEncoderConfig(
        in_channels=2, widths=(2, 4, 4), blocks=(1, 2, 1), strides=(1, 2, 2), out_channels=5
    )
    with torch.no_grad():
        assert config.build()(torch.randn(1, 2, 8, 12, 4)).shape == (1, 5, 8, 12, 4)
