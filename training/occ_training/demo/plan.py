"""What the demonstration checkpoint is trained on, and for how long."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from occ_perception.synthetic.seeds import GENERATOR_VERSION, SPLITS, random_for
from occ_training.demo.frames import Clip
from occ_training.schedules import Averaging, Fading

# Keyframes of a drive.
_DRIVE_FRAMES = 41
_MAY_CHANGE = (
    *("steps", "minutes", "batch", "precision", "lr", "first_clips", "gate_step", "gate_miou"),
    *("validation_towns", "test_towns", "scored_frames"),
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides about the result; what :meth:`identity` holds makes a run that run.

    Length, batch, precision, learning rate, gate and scoring may change when it goes on.

    Attributes:
        model: card of the zoo.
        seed: of clips, slots, augmentation and initial weights.
        towns: of the training split.
        drives: per town.
        clip_frames: consecutive keyframes per drive.
        steps, minutes: of training in all, waiting and scoring not counted; whichever is reached
            first ends it, and learning rate, true depth and true motion follow that one.
        batch: slots.
        precision: of the convolutional parts, ``bf16``, ``fp16`` or ``fp32``.
        lr: highest learning rate; it rises over ``warm_up_steps`` and falls along a cosine.
        weight_decay, clip_norm: of the optimiser.
        first_clips: that must be rendered before training begins.
        light: strength of random brightness and contrast.
        validation_towns, test_towns: how many towns are scored on, during training and at the end.
        scored_frames: keyframes of each.
        gate_step, gate_miou: training stops with an error where the mIoU on validation towns is
            not above the second after the first; a sign that something is wrong. Step 0: no gate.
    """

    model: str = "alocc_town"
    seed: int = 0
    towns: int = 400
    drives: int = 2
    clip_frames: int = 10
    steps: int = 12000
    minutes: float = 20.0
    batch: int = 16
    precision: str = "bf16"
    lr: float = 6e-4
    warm_up_steps: int = 200
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    first_clips: int = 24
    light: float = 0.15
    validation_towns: int = 8
    test_towns: int = 50
    scored_frames: int = 8
    gate_step: int = 1500
    gate_miou: float = 0.12

    def training_clips(self, step: int = 0) -> list[Clip]:
        """Those of a town stand together; another order for a run that goes on at another step.

        The first to be rendered are looked at most, so it should not be the same ones each time.
        """
        towns = random_for("demo clips", self.seed).permutation(len(SPLITS["train"]))[: self.towns]
        towns = random_for("demo order", self.seed, step).permutation(towns)
        return [self._clip(int(town), drive) for town in towns for drive in range(self.drives)]

    def validation_clips(self) -> list[Clip]:
        """One per town."""
        return self._scored("validation", self.validation_towns)

    def test_clips(self) -> list[Clip]:
        """One per town, none of which was trained or validated on."""
        return self._scored("test", self.test_towns)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the training that is done, 0 to 1, after so many steps and seconds."""
        return min(1.0, max(step / self.steps, seconds / (60.0 * self.minutes)))

    def learning_rate(self, step: int, progress: float) -> float:
        """Factor on ``lr``."""
        if step < self.warm_up_steps:
            return (step + 1) / self.warm_up_steps
        warmed = self.warm_up_steps / self.steps
        done = (progress - warmed) / (1.0 - warmed)
        return 0.01 + 0.99 * (1.0 + math.cos(math.pi * done)) / 2.0

    def depth_share(self, progress: float) -> float:
        """How much true depth helps the lifting: all at first, nothing from half of the way on."""
        return Fading(end=0.5).rate(progress)

    def motion_share(self, progress: float) -> float:
        """How much true classes help the flow head to match; they are gone after a third."""
        return Fading(begin=1 / 6, end=1 / 3).rate(progress)

    @property
    def averaging(self) -> Averaging:
        """Of the weights; faster than in long runs."""
        return Averaging(most=0.998, ramp=300.0, updates_at_start=0)

    def to_json(self) -> str:
        """All of it, and the version of the town's generator."""
        return json.dumps(self._values(), indent=1, sort_keys=True)

    def identity(self) -> dict[str, Any]:
        """Values in which a run and what goes on with it must agree."""
        return {name: value for name, value in self._values().items() if name not in _MAY_CHANGE}

    def _values(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "generator": GENERATOR_VERSION}

    def _scored(self, split: str, towns: int) -> list[Clip]:
        seeds = np.linspace(0, len(SPLITS[split]) - 1, towns).round().astype(int)
        return [Clip(SPLITS[split][n], 0, 8, self.scored_frames) for n in seeds]

    def _clip(self, town: int, drive: int) -> Clip:
        rng = random_for("demo clip", self.seed, town, drive)
        return Clip(
            town, drive, int(rng.integers(_DRIVE_FRAMES - self.clip_frames)), self.clip_frames
        )
