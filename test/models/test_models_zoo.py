"""Every card says what the reference data say, and agrees with the network it builds."""

from __future__ import annotations

import json

import pytest

from occ_perception.models.published_names import published_key
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
        published_key(key, published_card.names): (list(tensor.shape), key in parameters)
        for key, tensor in net.state_dict().items()
    }
    theirs = {
        key: (shape, kind == "param")
        for key, (shape, _dtype, kind) in keys.items()
        if key not in GRID_CONSTANTS and key not in published_card.unused_keys
    }
    assert ours == theirs


def test_card_agrees_with_its_recipe(card):
    config = card.recipe()
    assert card.grid == config.output_grid
    assert card.preprocessing.input_size == config.geometry.input_size
    assert len(card.cameras) == config.geometry.num_cameras
    assert card.reference_camera in card.cameras
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
    with pytest.raises(KeyError, match=r"no model 'alocc_4d'; there are .*alocc_2d_mini"):
        get_card("alocc_4d")


def test_the_demonstration_model_is_small_enough_to_be_shipped():
    card = get_card("alocc_town")
    net = card.build()
    assert sum(p.numel() for p in net.parameters()) <= 5_000_000
    tensors = sum(tensor.numel() for tensor in net.state_dict().values())
    assert 2 * tensors < 12e6  # bytes in half precision
    assert card.history_frames
    assert net.config.flow is not None
