"""An output that is not a number is an error of its frame, never a grid of class 0."""

from __future__ import annotations

import math

import pytest
import torch
from small_streams import drive, small_card, surround_rig

from occ_perception.models.inputs import NetOutputs, SparseOutputs
from occ_perception.models.postprocess import NotFiniteError, decode
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.zoo import get_card
from occ_perception.nets.sparse.mask_decoder import MaskPrediction
from occ_perception.nets.sparse.voxel_decoder import VoxelLevel
from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import LoadedModel


@pytest.mark.parametrize("name", ["alocc_2d_mini", "alocc_2d_mini_surroundocc", "bevdetocc_sf"])
@pytest.mark.parametrize("spoilt", [1, 9, 18])
def test_one_voxel_without_a_number_is_enough(name: str, spoilt: int) -> None:
    card = get_card(name)
    logits = torch.randn(2, 19, 64, 40, 48, generator=torch.Generator().manual_seed(4))
    if card.excluded_class == spoilt - 1:
        spoilt += 1
    logits[1, spoilt, 60, 3, 5] = math.nan
    with pytest.raises(NotFiniteError, match="class scores are not numbers"):
        decode(NetOutputs(logits), card).require_numbers()
    logits[1, spoilt, 60, 3, 5] = math.inf
    decoded = decode(NetOutputs(logits), card)
    decoded.require_numbers()
    assert decoded.labels_BXYZ[1, 60, 3, 5] == spoilt - 1


def test_velocities_are_checked_as_well() -> None:
    card = get_card("alocc_flow_2d")
    logits, flow = torch.zeros(1, 18, 8, 8, 4), torch.zeros(1, 8, 8, 4, 2)
    decode(NetOutputs(logits, flow_BXYZ2=flow), card).require_numbers()
    flow[0, 1, 2, 3, 1] = math.nan
    with pytest.raises(NotFiniteError, match="velocities"):
        decode(NetOutputs(logits, flow_BXYZ2=flow), card).require_numbers()
    assert decode(NetOutputs(logits), card).flow_BXYZ2 is None


def test_so_are_the_masks_of_a_sparse_network() -> None:
    corners = torch.tensor([[[0, 0, 0], [1, 2, 3]]])
    masks, classes = torch.zeros(1, 4, 2), torch.zeros(1, 4, 17)
    card = get_card("sparseocc")
    for spoilt in (masks, classes):
        spoilt[0, 2, 1] = math.nan
        outputs = SparseOutputs(
            (VoxelLevel(corners, classes, classes),), (MaskPrediction(classes, masks),), (4, 4, 4)
        )
        with pytest.raises(NotFiniteError):
            decode(outputs, card).require_numbers()
        spoilt[0, 2, 1] = 0.0


def test_a_stream_refuses_the_frame_and_goes_on_with_the_next() -> None:
    card = small_card("alocc_2d_mini")
    net = card.build()
    fill_random_weights(net, card, suffix=":7")
    model = LoadedModel(card, net.eval(), torch.device("cpu"), "random:7")
    before, spoilt, after = drive([10.0, 10.5, 11.0], surround_rig(card.cameras))
    stream = OccupancyStream(model)
    stream.step(before)
    bias = dict(net.named_parameters())["height.conv.weight"]
    with torch.no_grad():
        kept = bias.flatten()[0].item()
        bias.view(-1)[0] = math.nan
        with pytest.raises(NotFiniteError, match="occ weights check"):
            stream.step(spoilt, commit=False)
        asked_only = stream.snapshot()
        assert asked_only.history is not None
        with pytest.raises(NotFiniteError):
            stream.step(spoilt)
        bias.view(-1)[0] = kept
    assert stream.snapshot().history is None, "the history may be what is not a number"
    prediction = stream.step(after)
    assert prediction.history_break == "the last output was not a number (NaN)"
    assert prediction.history_length == 0
