"""The whole zoo at reduced size through the stream: every model of MODELS, none left out.

Models that become the same network when images and grid are small share it, so that its weights
are drawn once; every further card runs one frame. Networks whose every part, label set and backbone
is also in one before them are slow tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import small_card
from small_streams import drive, surround_rig

from occ_perception.frames import OccupancyPrediction
from occ_perception.models.card import ModelCard
from occ_perception.models.random_weights import fill_random_weights
from occ_perception.models.state import clone_state, state_from_tensors, state_tensors
from occ_perception.models.zoo import MODELS
from occ_perception.runtime.stream import OccupancyStream, StreamSnapshot
from occ_perception.runtime.weights import LoadedModel

TIMES_S = (10.0, 10.5, 11.0)
# Factors that keep an untrained network away from constant features and saturated logits.
SCALE = {"depth_net.context_conv.weight": 20.0, "alocc_head.mask_embed.4.weight": 0.1}


def networks() -> list[list[ModelCard]]:
    """Small cards, those with the same network together."""
    groups: list[list[ModelCard]] = []
    for card in map(small_card, MODELS.values()):
        same = next((group for group in groups if group[0].config == card.config), None)
        if same is None:
            groups.append([card])
        else:
            same.append(card)
    return groups


def as_parameters(groups: list[list[ModelCard]]) -> list[Any]:
    """A parameter per group, marked slow if the groups before it have all that it consists of."""
    seen: set[object] = set()
    parameters = []
    for group in groups:
        card, config = group[0], group[0].config
        parts = [getattr(config, name, None) for name in ("lift", "temporal", "head")]
        consists_of = {type(config), *map(type, parts), card.label_set, card.backbone}
        marks = pytest.mark.slow if consists_of <= seen else ()
        parameters.append(pytest.param(group, id=card.name, marks=marks))
        seen |= consists_of
    return parameters


@dataclass
class Run:
    """What a network did on three frames, and what it did afterwards.

    Attributes:
        card: the first of the network's cards.
        model: the network.
        others: further cards of the same network.
        outputs: raw ones of the three frames.
        predictions: of the three frames.
        states: what was remembered after each.
        again: predictions of the first two frames after a reset.
    """

    card: ModelCard
    model: LoadedModel
    others: list[ModelCard]
    outputs: list[Any]
    predictions: list[OccupancyPrediction]
    states: list[StreamSnapshot]
    again: list[OccupancyPrediction]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks gain nothing from threads, and lose a lot on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=as_parameters(networks()))
def run(request) -> Run:
    card, *others = request.param
    net = card.build()
    fill_random_weights(net, card, scale=SCALE)
    net.requires_grad_(False)
    model = LoadedModel(card, net, torch.device("cpu"), "random:blanket")
    outputs: list[Any] = []
    handle = net.register_forward_hook(lambda _net, _args, out: outputs.append(out[0]))
    stream, frames = OccupancyStream(model), frames_for(card)
    predictions, states = [], []
    for frame in frames:
        predictions.append(stream.step(frame))
        states.append(stream.snapshot())
    handle.remove()
    stream.reset("the test asked for it")
    again = [stream.step(frame) for frame in frames[:2]]
    return Run(card, model, others, outputs, predictions, states, again)


def frames_for(card: ModelCard, times_s=TIMES_S):
    rig = surround_rig(card.cameras, lidar=card.grid_frame == "lidar")
    return drive(times_s, rig, reference_camera=card.reference_camera)


def tensors_in(value) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything a network gave, by name."""
    if isinstance(value, torch.Tensor):
        yield "", value
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from ((f"{name}{rest}", t) for rest, t in tensors_in(getattr(value, name)))
    elif isinstance(value, tuple | list):
        for number, item in enumerate(value):
            yield from ((f".{number}{rest}", t) for rest, t in tensors_in(item))


def check(predictions: list[OccupancyPrediction], card: ModelCard) -> None:
    """A prediction agrees with the card in everything that the card says."""
    lidar = frames_for(card, TIMES_S[:1])[0].rig.ego_T_lidar
    has_flow = card.config.predicts_flow
    assert has_flow or card.label_set != "openocc"  # the set whose point is flow
    for number, prediction in enumerate(predictions):
        assert prediction.grid == card.grid
        assert prediction.labels.shape == card.grid.dims
        assert prediction.class_names == card.labels.class_names
        assert prediction.empty_class == card.labels.empty_class
        assert prediction.labels.max() < card.labels.num_classes
        assert not (prediction.labels == card.excluded_class).any()
        assert (prediction.flow is not None) == has_flow
        assert np.array_equal(prediction.ego_T_grid, np.eye(4) if lidar is None else lidar)
        assert list(prediction.camera_stamps_ns) == list(card.cameras)
        assert prediction.history_length == (number if card.history_frames else 0)
        assert prediction.committed == (card.history_frames > 0)


def test_predictions_are_what_the_card_says(run: Run) -> None:
    check(run.predictions, run.card)
    for card in run.others:
        model = replace(run.model, card=card)
        check([OccupancyStream(model).step(frame) for frame in frames_for(card, TIMES_S[:1])], card)


def test_outputs_are_finite_and_follow_the_images(run: Run) -> None:
    for output in run.outputs:
        assert [
            name
            for name, tensor in tensors_in(output)
            if tensor.is_floating_point() and not tensor.isfinite().all()
        ] == []
    first, last = (dict(tensors_in(output)) for output in (run.outputs[0], run.outputs[-1]))
    assert first, "the network gave nothing"
    assert any(
        tensor.shape != last[name].shape or not torch.equal(tensor, last[name])
        for name, tensor in first.items()
    )


def test_state_is_finite_and_kept_exactly_where_the_card_says_so(run: Run) -> None:
    for state in run.states:
        tensors = state_tensors(state.state)
        assert bool(tensors) == (run.card.history_frames > 0)
        assert [name for name, tensor in tensors.items() if not tensor.isfinite().all()] == []


def test_reset_forgets_everything(run: Run) -> None:
    assert [p.history_length for p in run.again] == [p.history_length for p in run.predictions[:2]]
    for expected, prediction in zip(run.predictions, run.again, strict=False):
        assert np.array_equal(prediction.labels, expected.labels)


def test_the_state_survives_a_file(run: Run, tmp_path) -> None:
    path = tmp_path / "state.safetensors"
    save_file(state_tensors(clone_state(run.states[1].state)), path)
    restored = state_from_tensors(run.model.net.initial_state(1), load_file(path))
    stream = OccupancyStream(run.model)
    stream.restore(replace(run.states[1], state=restored))
    prediction = stream.step(frames_for(run.card)[2])
    assert np.array_equal(prediction.labels, run.predictions[2].labels)
    assert prediction.history_length == run.predictions[2].history_length
    expected = state_tensors(run.states[2].state)
    got = state_tensors(stream.snapshot().state)
    assert got.keys() == expected.keys()
    assert [name for name, tensor in got.items() if not torch.equal(tensor, expected[name])] == []
