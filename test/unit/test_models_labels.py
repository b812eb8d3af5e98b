"""Class maps: dummy class, saturation, ties, excluded class."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from occ_perception.models.labels_from_logits import class_map
from occ_perception.models.zoo import get_card

OCC3D, SURROUND = get_card("alocc_2d_mini"), get_card("alocc_2d_mini_surroundocc")


def one_voxel(**logits):
    volume = torch.full((1, 19, 1, 1, 1), -5.0)
    for name, value in logits.items():
        volume[0, int(name[1:])] = value
    return volume


@pytest.mark.parametrize(
    ("logits", "expected"),
    [
        (one_voxel(k5=1.0), 4),  # index 5 of the head is class 4
        (one_voxel(k0=9.0, k7=1.0), 6),  # the dummy class never wins
        (one_voxel(k4=20.0, k9=25.0), 3),  # both are 1.0 after a float32 sigmoid: lowest id wins
        (one_voxel(k4=10.0, k9=12.0), 8),  # not saturated: the larger logit wins
        (one_voxel(), 0),
    ],
)
def test_published_class_rule(logits, expected):
    labels = class_map(logits, OCC3D)
    assert labels.dtype == torch.uint8
    assert labels.item() == expected


def test_surroundocc_never_answers_class_zero():
    assert class_map(one_voxel(k1=8.0, k3=2.0), SURROUND).item() == 2
    assert class_map(one_voxel(k1=8.0, k3=2.0), OCC3D).item() == 0


def test_equals_the_largest_logit_below_saturation_and_leaves_logits_alone():
    logits = 2 * torch.randn(2, 19, 6, 5, 4)
    kept = logits.clone()
    assert np.array_equal(class_map(logits, OCC3D), logits[:, 1:].numpy().argmax(axis=1))
    assert torch.equal(logits, kept)
