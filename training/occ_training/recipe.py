"""The recipe of a training run: one value with everything that determines the result."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from occ_perception.errors import OccError
from occ_perception.models.card import ModelCard
from occ_training.data.bev_augmentation import BevAugmentation
from occ_training.data.dataset import Content, SampleOptions
from occ_training.data.images import ImageAugmentation
from occ_training.losses.terms import Term
from occ_training.optimiser import Optimiser
from occ_training.schedules import Averaging, CosineRampDown
from occ_training.town import TownData


class RecipeError(OccError):
    """There is no such recipe, or it cannot be changed or used like this."""


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A score that a run must reach; otherwise it ends with an error.

    Attributes:
        step: after which the score is checked.
        floor: the score must be above it.
        score: of the validation, PART/NAME of its log.
    """

    step: int
    floor: float
    score: str = "camera_mask/mIoU"


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """A training run.

    Attributes:
        name: of the recipe.
        model: card of the zoo.
        terms: of the loss.
        steps: optimiser steps.
        batch: samples per step, over all processes.
        town: frames of the synthetic town for training and scoring, for a run that needs no data
            set; None = a data set is given.
        ignore_unseen: supervise only what a ``camera`` sees, or a ``ray`` of the benchmark crosses;
            None supervises all voxels.
        history_from: first step at which the fusion of volumes uses the past.
        depth_fading: share of measured depth in the lifting; None = never.
        motion_fading: share of true classes in the flow head's matching; None = never.
        splits: pieces that each sequence is cut into.
        optimiser: and its learning rate.
        averaging: of weights; None keeps only the trained ones.
        image, bev: augmentation of images and of the grid; None for none.
        point_ids: classes of lidar points are the label set's, or always Occ3D's.
        precision: of the convolutional parts: ``fp32``, ``bf16`` or ``fp16``.
        recomputed: sub-modules that are recomputed in the backward pass, to save memory.
        synchronised_norms: batch statistics are taken over all processes.
        frozen_norms: batch norms keep their statistics.
        initial_weights: file to start from, or the name of a model whose checkpoint is stored on
            this machine; tensors that do not match keep their values.
        seed: of permutations, augmentation, drawn points and initial weights.
        workers: loader processes per trainer process.
        checkpoint_every: steps between checkpoints.
        checkpoint_minutes: minutes after which one is written in between; None = never.
        kept_checkpoints: how many are kept.
        validate_every: steps between evaluations; None = at the end only.
        gate: a score that the run must reach; None for none.
        note: differences from the reference run.
    """

    name: str
    model: str
    terms: tuple[Term, ...]
    steps: int
    batch: int = 16
    town: TownData | None = None
    ignore_unseen: Literal["camera", "ray"] | None = "camera"
    history_from: int = 0
    depth_fading: CosineRampDown | None = None
    motion_fading: CosineRampDown | None = None
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
    checkpoint_minutes: float | None = None
    kept_checkpoints: int = 2
    validate_every: int | None = None
    gate: Gate | None = None
    note: str = ""

    def without(self, content: Content) -> TrainingRecipe:
        """The same run without the terms that need ``content`` of a frame."""
        terms = tuple(term for term in self.terms if content not in term.contents)
        return replace(self, terms=terms)

    def lasting(self, samples: int) -> TrainingRecipe:
        """The same run over another number of samples, with its schedules scaled.

        Warm-up, averaging, the gate and the steps between checkpoints do not change. Convert a time
        budget to a number of samples before the run: a step depends on its number, not on time.

        Raises:
            RecipeError: there are fewer samples than in a batch.
        """
        if samples < self.batch:
            raise RecipeError(f"{samples} samples are fewer than a batch of {self.batch}")
        steps = samples // self.batch
        factor = steps / self.steps
        schedule = self.optimiser.schedule.scaled(factor)
        return replace(
            self,
            steps=steps,
            history_from=round(self.history_from * factor),
            depth_fading=self.depth_fading and self.depth_fading.scaled(factor),
            motion_fading=self.motion_fading and self.motion_fading.scaled(factor),
            optimiser=replace(self.optimiser, schedule=schedule),
        )

    def sample_options(self, card: ModelCard, labels: str | None = None) -> SampleOptions:
        """The sample options of this run.

        Args:
            card: model to train.
            labels: key of the labels in the data set, None = those of the model's label set.
        """
        contents = dict.fromkeys(content for term in self.terms for content in term.contents)
        if self.depth_fading or card.measures_depth:
            contents["depth"] = None
        if self.motion_fading:
            contents["labels"] = None
        if card.config.matches_images:
            contents["previous_images"] = None
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
