"""Class maps: dummy class, saturation, ties, excluded class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import NetOutputs
from occ_perception.models.postprocess import decode
from occ_perception.models.zoo import get_card

OCC3D, SURROUND = get_card("alocc_2d_mini"), get_card("alocc_2d_mini_surroundocc")
SOFTMAX = get_card("bevdetocc_sf")


def class_map(logits: torch.Tensor, card: ModelCard) -> torch.Tensor:
    return decode(NetOutputs(logits), card).labels_BXYZ


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


def test_a_softmax_does_not_saturate():
    saturated = one_voxel(k0=90.0, k4=20.0, k9=25.0)
    assert class_map(saturated, SOFTMAX).item() == 8
    assert class_map(saturated, OCC3D).item() == 3


@pytest.mark.parametrize("layout", ["XYZ", "YXZ"])
def test_equals_the_arg_max_of_a_softmax(layout):
    logits = 8 * torch.randn(2, 19, 6, 5, 4, generator=torch.Generator().manual_seed(1))
    if layout == "YXZ":
        logits = logits.transpose(2, 3).contiguous().transpose(2, 3)
    expected = logits[:, 1:].double().softmax(dim=1).argmax(dim=1)
    assert torch.equal(class_map(logits, SOFTMAX).long(), expected)


def literal(logits, card):
    """The published rule, word for word."""
    scores = logits[:, 1:].float().sigmoid()
    if card.excluded_class is not None:
        scores[:, card.excluded_class] = -1.0
    return scores.argmax(dim=1).to(torch.uint8)


def stress(shape, generator):
    """Logits where ties are the rule: saturated, underflowing, equal, and one step apart."""
    kind = torch.randint(0, 6, (shape[0], 1, *shape[2:]), generator=generator)
    noise = torch.randn(shape, generator=generator)
    coarse = torch.randint(-3, 4, shape, generator=generator).float()
    base = 8 * torch.randn(kind.shape, generator=generator)
    neighbours = torch.nextafter(base, base + coarse).expand(shape)
    choices = torch.stack(
        [4 * noise, coarse, 17 + noise, -104 + 2 * noise, neighbours, base + 1e-7 * coarse]
    )
    return choices.gather(0, kind[None].expand(1, *shape))[0]


@pytest.mark.parametrize("card", [OCC3D, SURROUND], ids=["all classes", "without class 0"])
@pytest.mark.parametrize("layout", ["XYZ", "YXZ", "ZYX", "strided"])
def test_equals_the_literal_rule_on_ties(card, layout):
    generator = torch.Generator().manual_seed(3)
    # More voxels than are looked at together, and no multiple of it. Multiples of 64: torch's
    # sigmoid rounds the last few values of a plane another way.
    logits = stress((2, 19, 64, 40, 48), generator)
    if layout == "YXZ":
        logits = logits.transpose(2, 3).contiguous().transpose(2, 3)
    elif layout == "ZYX":
        logits = logits.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    elif layout == "strided":
        wider = torch.full((2, 19, 64, 40, 50), 30.0)
        wider[..., :48] = logits
        logits = wider[..., :48]
    labels = class_map(logits, card)
    expected = literal(logits.contiguous(), card)
    assert torch.equal(labels, expected)
    assert labels.is_contiguous() and len(expected.unique()) > 15


@given(
    st.lists(
        st.floats(-120, 120, width=32) | st.sampled_from([0.0, 16.5, 17.0, 30.0, -200.0]),
        min_size=3,
        max_size=19,
    )
)
def test_single_voxels_follow_the_literal_rule(values):
    logits = torch.tensor(values).view(1, -1, 1, 1, 1)
    assert class_map(logits, OCC3D).item() == literal(logits, OCC3D).item()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_compared_in_float32(dtype):
    logits = (6 * torch.randn(1, 19, 8, 8, 16)).to(dtype)
    assert torch.equal(class_map(logits, OCC3D), literal(logits, OCC3D))
