"""Our ResNet is the ResNet, and any timm model can stand in for it."""

from __future__ import annotations

import pytest
import timm
import torch

from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backbones.timm_backbone import TimmBackboneConfig
from occ_perception.nets.image_encoder import ImageEncoderConfig


@pytest.mark.parametrize("depth", [50, 101])
def test_resnet_equals_timm_with_the_same_parameter_names(depth):
    torch.manual_seed(0)
    theirs = timm.create_model(
        f"resnet{depth}", features_only=True, out_indices=(1, 2, 3, 4)
    ).eval()
    ours = ResNetConfig(depth=depth, out_strides=(4, 8, 16, 32)).build().eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for got, expected in zip(ours(image), theirs(image), strict=True):
            torch.testing.assert_close(got, expected)


def test_resnet_returns_the_strides_that_were_asked_for():
    net = ResNetConfig(out_strides=(4, 16)).build().eval()
    with torch.no_grad():
        maps = net(torch.randn(1, 3, 64, 32))
    assert [tuple(m.shape) for m in maps] == [(1, 256, 16, 8), (1, 1024, 4, 2)]
    assert net.out_channels == (256, 1024)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "swin_tiny_patch4_window7_224"]
)
def test_any_timm_backbone_fits_the_image_encoder(name):
    # Swin checks its input size and returns channels last; both must be hidden by the adapter.
    size = (224, 224) if name.startswith("swin") else (64, 96)
    encoder = ImageEncoderConfig(backbone=TimmBackboneConfig(name=name), channels=24).build().eval()
    with torch.no_grad():
        features = encoder(torch.randn(1, 2, 3, *size)).merged_BNChw
    assert features.shape == (1, 2, 24, size[0] // 16, size[1] // 16)


def test_timm_backbone_without_the_stride_is_refused_by_name():
    with pytest.raises(ValueError, match=r"resnet18 has no features at stride \[64\]; it has"):
        TimmBackboneConfig(name="resnet18", out_strides=(32, 64)).build()


def test_image_encoder_refuses_a_backbone_with_the_wrong_strides():
    with pytest.raises(ValueError, match="strides 16 and 32"):
        ImageEncoderConfig(backbone=ResNetConfig(out_strides=(8, 16))).build()
