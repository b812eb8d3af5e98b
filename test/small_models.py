"""Networks of the zoo at small size, with random weights."""

from __future__ import annotations

import pytest
from small_sparse import small_sparse_card
from small_streams import small_card

from occ_perception.models.zoo import MODELS
from occ_perception.runtime.weights import LoadedModel, load_model


def small_model(name: str) -> LoadedModel:
    """A model of the zoo with small images and a small grid."""
    card = small_sparse_card(name) if name == "sparseocc" else small_card(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, name, card)
        return load_model(name, random_seed=1)
