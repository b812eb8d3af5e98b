"""Our backbones are what they are called, and any timm model can stand in for them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from occ_perception.nets.backbones.basic_resnet import BasicResNetConfig
from occ_perception.nets.backbones.internimage import InternImageConfig
from occ_perception.nets.backbones.resnet import ResNetConfig
from occ_perception.nets.backbones.swin import PatchMerging, SwinConfig, WindowAttention, Windows
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
    with pytest.raises(ValueError, match="a map with one of twice its stride"):
        ImageEncoderConfig(backbone=ResNetConfig(out_strides=(4, 16))).build()


SMALL = {
    "swin": SwinConfig(channels=32, depths=(1, 1, 2, 1), out_strides=(4, 16, 32)),
    "internimage": InternImageConfig(channels=32, depths=(1, 1, 2, 1), out_strides=(4, 16, 32)),
}


@pytest.mark.parametrize("name", SMALL)
def test_transformer_backbones_give_what_the_encoder_and_the_matching_need(name):
    torch.manual_seed(0)
    net = SMALL[name].build().eval()
    images = torch.randn(2, 3, 96, 160)
    with torch.no_grad():
        maps, fine = net(images), net.fine(images)
    assert [tuple(m.shape) for m in maps] == [(2, 32, 24, 40), (2, 128, 6, 10), (2, 256, 3, 5)]
    assert net.out_channels == (32, 128, 256)
    assert torch.equal(maps[0], fine)


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_of_a_transformer_backbone_matters(name):
    # With three maps asked for: the published nets use no map of stride 8, and need no norm for it.
    torch.manual_seed(0)
    net = SMALL[name].build()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    sum(m.square().sum() for m in net(torch.randn(1, 3, 64, 64))).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_windows_attend_to_themselves_and_to_what_fills_them_up():
    torch.manual_seed(0)
    net = Windows(64)
    torch.nn.init.normal_(net.w_msa.relative_position_bias_table)
    tokens = torch.randn(1, 20, 33, 64)
    far = tokens.clone()
    far[:, 16:] += 1.0  # rows of the windows below
    with torch.no_grad():
        before, after = net(tokens), net(far)
        # The last window holds 4 rows and 1 column of the map; the rest is zeros that take part.
        corner = torch.zeros(1, 16, 16, 64)
        corner[:, :4, :1] = tokens[:, 16:, 32:]
        alone = net.w_msa(corner.view(1, 256, 64)).view(1, 16, 16, 64)
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.equal(before[:, 16:], after[:, 16:])
    torch.testing.assert_close(before[:, 16:, 32:], alone[:, :4, :1])


def test_window_attention_written_out():
    torch.manual_seed(0)
    net = WindowAttention(64)
    torch.nn.init.normal_(net.relative_position_bias_table)
    tokens = torch.randn(1, 256, 64)
    with torch.no_grad():
        got = net(tokens)
        query, key, value = net.qkv(tokens)[0].view(256, 3, 2, 32).unbind(1)
        rows = []
        for i in (0, 17, 255):
            heads = []
            for head in range(2):
                logits = key[:, head] @ query[i, head] / 32**0.5
                for j in range(256):
                    down, right = i // 16 - j // 16, i % 16 - j % 16
                    logits[j] += net.relative_position_bias_table[
                        (down + 15) * 31 + right + 15, head
                    ]
                heads.append(logits.softmax(0) @ value[:, head])
            rows.append(net.proj(torch.cat(heads)))
    torch.testing.assert_close(got[0, [0, 17, 255]], torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_merging_keeps_the_four_pixels_of_a_channel_together():
    net = PatchMerging(2)
    seen = []
    net.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    tokens = torch.tensor([[[[1.0, 10.0], [2.0, 20.0]], [[3.0, 30.0], [4.0, 40.0]]]])
    net(tokens)
    assert seen[0].flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]


def test_a_small_resnet_gives_maps_of_the_strides_it_was_asked_for():
    config = BasicResNetConfig(stem=6, widths=(8, 12, 16), blocks=(1, 2, 1), out_strides=(8, 16))
    net = config.build().eval()
    with torch.no_grad():
        maps = net(torch.randn(2, 3, 64, 96))
        assert [tuple(m.shape) for m in maps] == [(2, 12, 8, 12), (2, 16, 4, 6)]
        torch.testing.assert_close(
            net.fine(torch.ones(1, 3, 32, 32)), net(torch.ones(1, 3, 32, 32))[0]
        )
    assert net.out_channels == (12, 16)
    with pytest.raises(ValueError, match=r"no stage has stride \[32\]; there are \[4, 8, 16\]"):
        replace(config, out_strides=(16, 32)).build()
