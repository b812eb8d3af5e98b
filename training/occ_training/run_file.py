"""Run files in YAML: a recipe by name, changes to it, and the paths of its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

import yaml

from occ_training.losses.terms import TERMS, Term
from occ_training.recipe import RecipeError, TrainingRecipe

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run file: a recipe with its changes, and the paths of its data.

    Attributes:
        recipe: with the changes applied.
        data: training data set, None if the file names none.
        labels: key of its labels, None = those of the model's label set.
        validation: data set to evaluate on, None for none.
        devices: processes per machine: a number or ``auto``.
        nodes: machines.
    """

    recipe: TrainingRecipe
    data: Path | None = None
    labels: str | None = None
    validation: Path | None = None
    devices: int | str = "auto"
    nodes: int = 1


Recipe = TypeVar("Recipe", bound="DataclassInstance")
"""A recipe, or a part of one."""

_RUN_FIELDS = ("recipe", "data", "labels", "validation", "devices", "nodes", "changes")


def read_run(name: str, recipes: Mapping[str, Callable[[], TrainingRecipe]]) -> RunFile:
    """A recipe by name, or a YAML file that names a recipe and changes to it.

    Raises:
        RecipeError: no such recipe; or the file is not YAML, has an unknown field, or a value of
            the wrong kind.
    """
    if not name.endswith((".yaml", ".yml")):
        return RunFile(recipe=_recipe(name, recipes))
    path = Path(name)
    try:
        document = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict) or "recipe" not in document:
        raise RecipeError(f"{path}: expected a mapping with `recipe: NAME`; see config/training/")
    unknown = [key for key in document if key not in _RUN_FIELDS]
    if unknown:
        raise RecipeError(
            f"{path}: unknown {', '.join(unknown)}; there are {', '.join(_RUN_FIELDS)}"
        )
    recipe = changed(_recipe(document["recipe"], recipes), document.get("changes") or {}, str(path))
    given: dict[str, Any] = {
        key: Path(document[key]) if key in ("data", "validation") else document[key]
        for key in ("data", "labels", "validation", "devices", "nodes")
        if document.get(key) is not None
    }
    return RunFile(recipe=recipe, **given)


def changed(recipe: Recipe, changes: Mapping[str, Any], where: str) -> Recipe:
    """A copy of a recipe (or a part of one) with other values.

    Args:
        recipe: dataclass to start from.
        changes: field -> value; a mapping changes fields of a part. ``terms`` maps class names of
            loss terms to their fields: it changes a term, adds one that the recipe does not have,
            and null removes one.
        where: source of the changes, for messages.

    Raises:
        RecipeError: a field does not exist or cannot be changed, or a value has the wrong kind.
    """
    known = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known or name in _CODE:
            allowed = [key for key in known if key not in _CODE]
            raise RecipeError(
                f"{where}: {name!r} cannot be changed; fields that can: {', '.join(allowed)}"
            )
        current = known[name]
        if name == "terms":
            values[name] = _changed_terms(current, value, f"{where}, terms")
        elif isinstance(value, Mapping) and is_dataclass(current) and not isinstance(current, type):
            values[name] = changed(current, value, f"{where}, {name}")
        elif isinstance(value, Mapping) and (part := _part(recipe, name)) is not None:
            values[name] = _new_part(part, value, f"{where}, {name}")
        elif name == "initial_weights":
            values[name] = None if value is None else Path(value)
        elif isinstance(current, tuple) and isinstance(value, list):
            values[name] = tuple(value)
        elif value is None and (current is None or is_dataclass(current)):
            values[name] = None
        elif _same_kind(current, value):
            values[name] = type(current)(value)
        else:
            raise RecipeError(f"{where}: {name} is {value!r}, expected something like {current!r}")
    return replace(recipe, **values)


_CODE = ("groups", "model", "name")
"""Fields of a recipe that are code, or that identify it."""


def _changed_terms(terms: tuple[Term, ...], changes: Any, where: str) -> tuple[Term, ...]:
    if not isinstance(changes, Mapping):
        raise RecipeError(
            f"{where}: expected terms by name, as in {{VoxelMasks: {{}}, ImageMasks: null}}, got "
            f"{changes!r}"
        )
    by_name: dict[str, Any] = {type(term).__name__: term for term in terms}
    for name, value in changes.items():
        if name not in TERMS:
            raise RecipeError(f"{where}: there is no term {name!r}; there are {', '.join(TERMS)}")
        if value is None:
            by_name.pop(name, None)
        elif not isinstance(value, Mapping):
            raise RecipeError(f"{where}: {name} is {value!r}, expected fields of it, or null")
        elif name in by_name:
            by_name[name] = changed(by_name[name], value, f"{where}, {name}")
        else:
            by_name[name] = _new_part(TERMS[name], value, f"{where}, {name}")
    return tuple(by_name.values())


def plain_values(value: Any) -> Any:
    """A recipe, or a part of one, as values for YAML and JSON; code by its name."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain_values(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, tuple):
        return [_term(item) if is_dataclass(item) else plain_values(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value.__name__ if callable(value) else value


def _term(term: Any) -> dict[str, Any]:
    return {type(term).__name__: plain_values(term)}


def _by_name(terms: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: values for term in terms for name, values in term.items()}


def differences(own: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The changes that turn plain values into others."""
    changes: dict[str, Any] = {}
    for name, value in other.items():
        if name == "terms":
            before, after = _by_name(own[name]), _by_name(value)
            if before != after:
                changes[name] = {**dict.fromkeys(before), **after}
        elif isinstance(value, Mapping) and isinstance(own[name], Mapping):
            if inner := differences(own[name], value):
                changes[name] = inner
        elif value != own[name]:
            changes[name] = value
    return changes


def as_run_file(recipe: TrainingRecipe) -> str:
    """A run file with all values of a recipe, as a template."""

    def changeable(values: dict[str, Any]) -> dict[str, Any]:
        kept = {name: value for name, value in values.items() if name not in _CODE}
        return {n: changeable(v) if isinstance(v, dict) else v for n, v in kept.items()}

    values = plain_values(recipe)
    values["terms"] = _by_name(values["terms"])
    document = {"recipe": recipe.name, "changes": changeable(values)}
    return f"# model {recipe.model}\n{yaml.safe_dump(document, sort_keys=False)}"


def _part(recipe: Any, name: str) -> type | None:
    """The dataclass of an optional field: Gate for ``Gate | None``."""
    kinds = get_args(get_type_hints(type(recipe))[name])
    return next((kind for kind in kinds if is_dataclass(kind) and isinstance(kind, type)), None)


def _new_part(part: Any, values: Mapping[str, Any], where: str) -> Any:
    """A part made from its required values and changed by the others."""
    own = fields(part)
    if unknown := [name for name in values if name not in {item.name for item in own}]:
        raise RecipeError(
            f"{where}: {unknown[0]!r} cannot be changed; fields that can: "
            f"{', '.join(item.name for item in own)}"
        )
    needed = {f.name for f in own if f.default is MISSING and f.default_factory is MISSING}
    if missing := sorted(needed - set(values)):
        raise RecipeError(f"{where}: {', '.join(missing)} must be given")
    given = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in needed}
    rest = {name: value for name, value in values.items() if name not in needed}
    return changed(part(**given), rest, where)


def _same_kind(current: Any, value: Any) -> bool:
    if isinstance(current, bool) or isinstance(value, bool):
        return isinstance(current, bool) and isinstance(value, bool)
    if isinstance(current, float):
        return isinstance(value, (int, float))
    return isinstance(current, (int, str)) and isinstance(value, type(current))


def _recipe(name: str, recipes: Mapping[str, Callable[[], TrainingRecipe]]) -> TrainingRecipe:
    if name not in recipes:
        raise RecipeError(f"no recipe {name!r}; there are {', '.join(sorted(recipes))}")
    return recipes[name]()
