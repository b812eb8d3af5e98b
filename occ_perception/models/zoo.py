"""The released models by name. Their cards stand beside the recipes of their families."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Protocol

from occ_perception.models import alocc, bevdet, causalocc, fbocc, gdfusion, town
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.sparseocc import recipes as sparseocc


class Family(Protocol):
    """A module of recipes."""

    @property
    def CARDS(self) -> tuple[ModelCard, ...]:
        """Its models."""


_FAMILIES: tuple[Family, ...] = (alocc, gdfusion, bevdet, fbocc, sparseocc, causalocc, town)

MODELS: dict[str, ModelCard] = {card.name: card for family in _FAMILIES for card in family.CARDS}
"""Every model by name."""


def get_card(name: str) -> ModelCard:
    """The card called ``name``.

    Raises:
        ModelError: there is none; the message says which names are near.
    """
    if name in MODELS:
        return MODELS[name]
    near = get_close_matches(name, MODELS, n=5)
    meant = f"did you mean {', '.join(near)}? " if near else ""
    raise ModelError(f"no model {name!r}; {meant}`occ models list` prints all {len(MODELS)}")
