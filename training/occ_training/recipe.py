"""What a training run is: one value that holds everything that decides about its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from torch import nn

from occ_perception.errors import OccError
from occ_perception.models.zoo import ModelCard
from occ_training.data.bev_augmentation import BevAugmentation
from occ_training.data.dataset import Content, SampleOptions
from occ_training.data.pictures import ImageAugmentation
from occ_training.schedules import Averaging, Fading, LearningRate
from occ_training.supervision import Term

ParameterGroups = list[dict[str, Any]]


class RecipeError(OccError):
    """There is no such recipe, or it cannot be changed or used so."""


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW.

    Attributes:
        lr: base learning rate.
        weight_decay: of all parameters, norms and biases included, as published.
        groups: sorts the parameters into groups with a rate and decay of their own; None = one
            group with the numbers above.
        clip_norm: gradients are scaled down to this L2 norm.
        schedule: of the learning rate.
    """

    lr: float = 2e-4
    weight_decay: float = 1e-2
    groups: Callable[[nn.Module, Optimiser], ParameterGroups] | None = None
    clip_norm: float = 5.0
    schedule: LearningRate = field(default_factory=LearningRate)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """A training run.

    Attributes:
        name: of the recipe.
        model: card of the zoo.
        terms: of the loss.
        steps: optimiser steps.
        batch: samples per step, over all processes.
        ignore_unseen: learn only where a ``camera`` looks, or a ``ray`` of the benchmark passes.
        history_from: step from which on the fusion of volumes uses the past.
        depth_fading: how long measured depth helps the lifting; None = never.
        motion_fading: how long true classes help the flow head to match; None = never.
        splits: pieces that each sequence is cut into.
        optimiser: and its learning rate.
        averaging: of weights; None keeps the trained ones only.
        image, bev: augmentation of pictures and of the grid; None for none.
        point_ids: classes of lidar points are the label set's, or always Occ3D's.
        precision: of the convolutional parts: ``fp32``, ``bf16`` or ``fp16``.
        recomputed: sub-modules that are computed again in the backward pass, to save memory.
        synchronised_norms: batch statistics are taken over all processes.
        frozen_norms: batch norms keep their statistics.
        initial_weights: file to start from, or the name of a model whose checkpoint is kept on
            this machine; tensors that do not fit are left as they are.
        seed: of permutations, augmentation, drawn points and initial weights.
        workers: loader processes per trainer process.
        checkpoint_every: steps between checkpoints.
        kept_checkpoints: how many are kept.
        note: what is special about it.
    """

    name: str
    model: str
    terms: tuple[Term, ...]
    steps: int
    batch: int = 16
    ignore_unseen: Literal["camera", "ray"] | None = "camera"
    history_from: int = 0
    depth_fading: Fading | None = None
    motion_fading: Fading | None = None
    splits: int = 1
    optimiser: Optimiser = field(default_factory=Optimiser)
    averaging: Averaging | None = field(default_factory=Averaging)
    image: ImageAugmentation | None = field(default_factory=ImageAugmentation)
    bev: BevAugmentation | None = field(default_factory=BevAugmentation)
    point_ids: Literal["label_set", "occ3d"] = "label_set"
    precision: str = "fp32"
    recomputed: tuple[str, ...] = ()
    synchronised_norms: bool = True
    frozen_norms: bool = False
    initial_weights: Path | None = None
    seed: int = 0
    workers: int = 4
    checkpoint_every: int = 8005
    kept_checkpoints: int = 2
    note: str = ""

    def without(self, content: Content) -> TrainingRecipe:
        """The same run less the terms that need ``content`` of a frame."""
        terms = tuple(term for term in self.terms if content not in term.contents)
        return replace(self, terms=terms)

    def sample_options(self, card: ModelCard, labels: str | None = None) -> SampleOptions:
        """What a data set has to load for this run.

        Args:
            card: model to train.
            labels: key of the labels in the data set, None = those of the model's label set.
        """
        contents = dict.fromkeys(content for term in self.terms for content in term.contents)
        if self.depth_fading or card.measures_depth:
            contents["depth"] = None
        if self.motion_fading:
            contents["labels"] = None
        if card.config.matches_pictures:
            contents["previous_pictures"] = None
        return SampleOptions(
            contents=tuple(contents),
            labels=labels,
            ignore_unseen=self.ignore_unseen,
            image=self.image,
            bev=self.bev,
            pieces=self.splits,
            point_ids=self.point_ids,
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """A run as written in YAML: a recipe, what is changed in it, and where things are.

    Attributes:
        recipe: with the changes applied.
        data: data set to learn from, None where the file names none.
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


_RUN_FIELDS = ("recipe", "data", "labels", "validation", "devices", "nodes", "changes")


def read_run(name: str, recipes: Mapping[str, Callable[[], TrainingRecipe]]) -> RunFile:
    """A recipe by name, or a YAML file that names one and what is different.

    Raises:
        RecipeError: no such recipe, or the file is no YAML, has a field that does not exist, or a
            value of another kind.
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


def changed(recipe: Any, changes: Mapping[str, Any], where: str) -> Any:
    """A copy of a recipe (or a part of one) with other numbers.

    Args:
        recipe: dataclass to start from.
        changes: field -> value; a mapping changes fields of a part. Terms are code, not numbers:
            a run with other terms is another recipe function.
        where: they were written, for messages.

    Raises:
        RecipeError: a field does not exist or cannot be changed so, or a value is of another kind.
    """
    known = {f.name: getattr(recipe, f.name) for f in fields(recipe)}
    values: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known or name in ("terms", "groups", "model", "name"):
            allowed = [key for key in known if key not in ("terms", "groups", "model", "name")]
            raise RecipeError(
                f"{where}: {name!r} cannot be changed; what can is {', '.join(allowed)}"
            )
        current = known[name]
        if isinstance(value, Mapping) and is_dataclass(current):
            values[name] = changed(current, value, f"{where}, {name}")
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
