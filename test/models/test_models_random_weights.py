"""The weight recipe against draws made by hand."""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch

from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card

CARD = get_card("alocc_2d_mini")


def generator(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def filled(**options):
    net = CARD.build()
    fill_random_weights(net, CARD, **options)
    return net.state_dict()


def assert_drawn(tensor, value):
    assert torch.equal(tensor, torch.from_numpy(np.asarray(value)).to(tensor.dtype))


def test_each_kind_of_tensor_is_drawn_from_its_published_name():
    state = filled()
    name = "img_backbone.layer2.0.conv2.weight"
    draw = generator(name).standard_normal((128, 128, 3, 3)) * math.sqrt(1 / (128 * 9))
    assert_drawn(state["image.backbone.layer2.0.conv2.weight"], draw)
    draw = generator("alocc_head.post_norm.weight").uniform(0.5, 1.5, 32)
    assert_drawn(state["head.norm.weight"], draw)
    draw = 0.1 * generator("final_conv.bias").standard_normal(512)
    assert_drawn(state["height.conv.bias"], draw)
    draw = generator("history_keyframe_cat_conv.1.running_var").uniform(0.5, 1.5, 40)
    assert_drawn(state["temporal.fuse.norm.running_var"], draw)
    draw = 0.1 * generator("depth_net.bn.running_mean").standard_normal(27)
    assert_drawn(state["depth.camera_norm.running_mean"], draw)
    assert state["image.backbone.bn1.num_batches_tracked"] == 0
    draw = generator("depth_net.bn.running_var").uniform(0.5, 1.5, 27)
    draw[:4] *= [1e6, 1e6, 1e6, 2.5e5]
    draw[9] *= 1e4
    assert_drawn(state["depth.camera_norm.running_var"], draw)


def test_suffix_and_scale_enter_by_published_name():
    name = "depth_net.context_conv.weight"
    scaled = filled(suffix=":7", scale={name: 20.0, "no.such.tensor": 3.0})
    draw = generator(name + ":7").standard_normal((40, 256, 1, 1)) * math.sqrt(1 / 256) * 20.0
    assert_drawn(scaled["depth.context_head.weight"], draw)


def test_no_tensor_is_left_as_it_was_built():
    first, second = filled(), filled(suffix=":1")
    same = [
        key for key in first if torch.equal(first[key], second[key]) and "num_batches" not in key
    ]
    assert same == []
