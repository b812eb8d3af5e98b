"""The recipe of a run folder: stored when a run starts, compared when it resumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only

from occ_perception.atomic import write_whole
from occ_perception.errors import OccError
from occ_training.checkpoints import finished_checkpoints
from occ_training.recipe import TrainingRecipe
from occ_training.run_file import changed, differences, plain_values

RECIPE_FILE, GATE_FILE = "recipe.json", "gate.json"
CHECKPOINTS, VALIDATION = "checkpoints", "validation"

# Fields that affect speed, what is stored, or when to evaluate, but not the training result.
_MAY_CHANGE = (
    *("steps", "precision", "recomputed", "workers", "note", "validate_every"),
    *("checkpoint_every", "checkpoint_minutes", "kept_checkpoints"),
    *("gate", "gate.step", "gate.floor", "gate.score"),
    *("town.validation_towns", "town.test_towns", "town.scored_frames"),
)


class RunError(OccError):
    """A folder holds another run."""


@rank_zero_only
def store_recipe(out: Path, recipe: TrainingRecipe) -> None:
    """Store the recipe of a run; first compare it with that of a run in the folder.

    A folder without a checkpoint has no run yet.

    Raises:
        RunError: the folder has a run with another recipe; the message lists the differences.
    """
    file = out / RECIPE_FILE
    wanted = plain_values(recipe)
    if file.is_file() and finished_checkpoints(out / CHECKPOINTS):
        there, here = _flat(json.loads(file.read_text())), _flat(wanted)
        differences = [
            f"{name} {there.get(name)} there, {here.get(name)} wanted"
            for name in sorted(there.keys() | here.keys())
            if there.get(name) != here.get(name) and name not in _MAY_CHANGE
        ]
        if differences:
            raise RunError(
                f"{out} holds another run: {'; '.join(differences)}; choose another folder, or "
                "start a new run there from its weights.safetensors"
            )
    write_whole(file, json.dumps(wanted, indent=1) + "\n")


def stored_recipe(out: Path, recipes: Mapping[str, Callable[[], TrainingRecipe]]) -> TrainingRecipe:
    """The recipe of the run in a folder.

    Raises:
        RunError: there is none.
    """
    stored = _stored(out)
    recipe = recipes[stored["name"]]()
    return changed(recipe, differences(plain_values(recipe), stored), str(out / RECIPE_FILE))


def stored_steps(out: Path) -> int:
    """The number of steps of the run in a folder.

    Raises:
        RunError: there is none.
    """
    return int(_stored(out)["steps"])


def _stored(out: Path) -> dict[str, Any]:
    file = out / RECIPE_FILE
    if not file.is_file():
        raise RunError(f"{out} holds no run: it has no {RECIPE_FILE}; `occ-train fit` starts one")
    stored: dict[str, Any] = json.loads(file.read_text())
    return stored


def _flat(values: dict[str, Any], lead: str = "") -> dict[str, Any]:
    """Nested values under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inner = _flat(value, f"{lead}{name}.") if isinstance(value, dict) else {lead + name: value}
        flat |= inner
    return flat
