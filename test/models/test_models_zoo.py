"""Every card says what the reference data say, and agrees with the network it builds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from occ_perception.models.card import ModelError
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.sparseocc.net import SparseOccConfig
from occ_perception.models.zoo import MODELS, get_card

GRID_CONSTANTS = {"view_transformer.dx", "view_transformer.bx", "view_transformer.nx"}


PUBLISHED = sorted(name for name, card in MODELS.items() if card.config_stem is not None)


@pytest.fixture(params=sorted(MODELS))
def card(request):
    return MODELS[request.param]


@pytest.fixture(params=PUBLISHED)
def published_card(request):
    return MODELS[request.param]


def as_list(value):
    return {k: list(v) if isinstance(v, tuple) else v for k, v in value.items()} if value else value


def test_card_equals_the_reference_facts(published_card, shared_dir):
    facts = json.loads((shared_dir / "reference/cards.json").read_text())["models"][
        published_card.name
    ]
    assert published_card.config_stem == facts["config"]
    assert as_list(published_card.published) == facts["published"]
    assert published_card.url == facts["checkpoint"]
    assert published_card.licence == facts["licence"]
    stated = {
        "model": published_card.title,
        "annotation": published_card.label_set,
        "backbone": published_card.backbone,
        "modality": published_card.modality,
        "mask_protocol": published_card.protocol,
    }
    for fact, value in stated.items():
        if fact in facts:  # of some models nothing was published
            assert value == (facts[fact].lower() if fact == "annotation" else facts[fact])
    assert published_card.sha256 is None


def test_every_published_key_is_accounted_for(published_card, shared_dir):
    keys = json.loads(
        (shared_dir / f"reference/keys/{published_card.config_stem}.json").read_text()
    )
    net = published_card.build()
    parameters = dict(net.named_parameters(remove_duplicate=False))
    ours = {
        checkpoint_key(key, published_card.names): (list(tensor.shape), key in parameters)
        for key, tensor in net.state_dict().items()
    }
    theirs = {
        key: (shape, kind == "param")
        for key, (shape, _dtype, kind) in keys.items()
        if key not in GRID_CONSTANTS and key not in published_card.unused_keys
    }
    assert ours == theirs


def test_card_agrees_with_its_recipe(card):
    config = card.config
    if isinstance(config, SparseOccConfig):
        assert config.voxels.classes == card.labels.num_classes
        assert config.masks.classes == card.labels.num_classes - 1  # free space is no mask
        assert (card.history_frames, card.history_spacing_s) == (7, 0.5)
        return
    # The published heads have one dummy class in front of the annotation's classes.
    assert config.head.classes == card.labels.num_classes + 1
    remembers = config.temporal is not None or config.stereo is not None
    assert (card.history_frames > 0) == remembers
    assert (card.history_spacing_s > 0) == remembers


def test_unknown_model_is_refused_with_the_names_there_are():
    with pytest.raises(ModelError, match=r"'alocc_4d'; did you mean .*alocc_3d.* models list"):
        get_card("alocc_4d")
    number = len(MODELS)
    with pytest.raises(ModelError, match=f"no model 'zzz'; `occ models list` prints all {number}"):
        get_card("zzz")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"label_set": "occ4d"}, "model fbocc: label_set is 'occ4d', expected one of occ3d"),
        ({"grid_frame": "map"}, "model fbocc: grid_frame is 'map', expected one of ego, lidar"),
        ({"channel_order": "gbr"}, "model fbocc: channel_order is 'gbr', expected one of bgr"),
        ({"reference_camera": "FRONT"}, "model fbocc: reference_camera is 'FRONT', expected"),
        ({"cameras": ("CAM_FRONT",)}, "model fbocc: cameras are CAM_FRONT, but .* has 6"),
    ],
)
def test_a_card_that_cannot_be_right_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        replace(get_card("fbocc"), **wrong)


@pytest.mark.parametrize("name", ["alocc_2d", "alocc_3d", "fbocc", "sparseocc"])
def test_a_resized_card_is_of_the_same_network_at_other_sizes(name):
    card = get_card(name)
    small = card.resized((64, 96), card.config.geometry.grid.with_columns((16, 8), 1.0))
    assert small.preprocessing == replace(card.preprocessing, input_size=(64, 96))
    scale = card.grid.dims[0] / card.config.geometry.grid.dims[0]  # a pyramid head refines voxels
    assert small.grid.dims == (16 * scale, 8 * scale, card.grid.dims[2])
    assert small.grid.lower == (-8.0, -4.0, card.grid.lower[2])
    assert small.grid.voxel_size[2] == card.grid.voxel_size[2]
    assert (small.cameras, small.history_frames) == (card.cameras, card.history_frames)
    with torch.device("meta"):
        shapes = [{k: t.shape for k, t in c.build().state_dict().items()} for c in (card, small)]
    # What is learnt per voxel of the plane is as large as the plane.
    other = {key for key in shapes[0] if shapes[0][key] != shapes[1][key]}
    assert all(key.startswith("refine.") for key in other)
    assert card.resized() == card


def test_the_demonstration_model_is_small_enough_to_be_shipped():
    card = get_card("alocc_town")
    net = card.build()
    assert sum(p.numel() for p in net.parameters()) <= 5_000_000
    tensors = sum(tensor.numel() for tensor in net.state_dict().values())
    assert 2 * tensors < 12e6  # bytes in half precision
    assert card.history_frames
    assert net.config.flow is not None
