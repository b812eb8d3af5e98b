"""Every model by name. Cards stand beside the recipes of their families.

Other packages add models by an entry point in the group ``occ_perception.models`` that names a
module with ``CARDS``, as the families here are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from occ_perception.errors import did_you_mean
from occ_perception.models import alocc, bevdet, causalocc, fbocc, gdfusion, town
from occ_perception.models.card import ModelCard, ModelError
from occ_perception.models.extensions import installed_extensions
from occ_perception.models.sparseocc import recipes as sparseocc


class Family(Protocol):
    """A module of recipes."""

    @property
    def CARDS(self) -> tuple[ModelCard, ...]:
        """Its models."""


_FAMILIES: tuple[Family, ...] = (alocc, gdfusion, bevdet, fbocc, sparseocc, causalocc, town)
_OWN_PACKAGE, _GROUP = "occ_perception", "occ_perception.models"


def find_models() -> dict[str, ModelCard]:
    """The models of this package and of those that are installed beside it, by name.

    Raises:
        ExtensionError: a package names a module that cannot be imported or has no ``CARDS``.
        ModelError: ``CARDS`` holds something else than cards, or two models have one name.
    """
    models: dict[str, ModelCard] = {}
    homes: dict[str, str] = {}
    own: list[tuple[str, Iterable[ModelCard]]] = [(_OWN_PACKAGE, f.CARDS) for f in _FAMILIES]
    for package, cards in own + installed_extensions(_GROUP, "CARDS"):
        for card in cards:
            if not isinstance(card, ModelCard):
                raise ModelError(
                    f"CARDS of package {package} must hold ModelCard values only, got {card!r}"
                )
            if card.name in models:
                raise ModelError(
                    f"two models are called {card.name}: one of package {homes[card.name]}, one "
                    f"of package {package}. Rename one, or uninstall its package"
                )
            models[card.name], homes[card.name] = card, package
    return models


MODELS = find_models()
"""Every model by name."""


def get_card(name: str) -> ModelCard:
    """The card called ``name``.

    Raises:
        ModelError: there is none; the message says which names are near.
    """
    if name in MODELS:
        return MODELS[name]
    meant = " ".join(filter(None, (did_you_mean(name, MODELS), "`occ models list` prints all")))
    raise ModelError(f"no model {name!r}; {meant} {len(MODELS)}")
