"""What the demonstration checkpoint is trained on, and for how long."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

import numpy as np

from occ_perception.synthetic.seeds import GENERATOR_VERSION, SPLITS, random_for
from occ_training.demo.frames import Clip
from occ_training.schedules import Averaging, Fading

# Keyframes of a drive.
_DRIVE_FRAMES = 41


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that decides about the result; two plans are the same run only if equal.

    Attributes:
        model: card of the zoo.
        seed: of clips, slots, augmentation and initial weights.
        towns: of the training split.
        drives: per town.
        clip_frames: consecutive keyframes per drive.
        steps, batch: of the optimiser.
        lr: highest learning rate; it rises over ``warm_up_steps`` and falls along a cosine.
        weight_decay, clip_norm: of the optimiser.
        first_clips: that must be rendered before training begins.
        light: strength of random brightness and contrast.
        validation_towns, test_towns: how many towns are scored on, during training and at the end.
        scored_frames: keyframes of each.
        gate_step, gate_miou: training stops with an error where the mIoU on validation towns is
            not above the second after the first; a sign that something is wrong.
    """

    model: str = "alocc_town"
    seed: int = 0
    towns: int = 400
    drives: int = 2
    clip_frames: int = 10
    steps: int = 9000
    batch: int = 16
    lr: float = 6e-4
    warm_up_steps: int = 200
    weight_decay: float = 1e-2
    clip_norm: float = 5.0
    first_clips: int = 64
    light: float = 0.15
    validation_towns: int = 8
    test_towns: int = 50
    scored_frames: int = 8
    gate_step: int = 1500
    gate_miou: float = 0.12

    def training_clips(self) -> list[Clip]:
        """Those of a town stand together."""
        rng = random_for("demo clips", self.seed)
        towns = rng.permutation(len(SPLITS["train"]))[: self.towns]
        return [self._clip(int(town), drive) for town in towns for drive in range(self.drives)]

    def validation_clips(self) -> list[Clip]:
        """One per town."""
        return self._scored("validation", self.validation_towns)

    def test_clips(self) -> list[Clip]:
        """One per town, none of which was trained or validated on."""
        return self._scored("test", self.test_towns)

    def learning_rate(self, step: int) -> float:
        """Factor on ``lr``."""
        if step < self.warm_up_steps:
            return (step + 1) / self.warm_up_steps
        done = (step - self.warm_up_steps) / max(1, self.steps - self.warm_up_steps)
        return 0.01 + 0.99 * (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0

    @property
    def depth_fading(self) -> Fading:
        """True depth helps the lifting at first."""
        return Fading(end=max(1, self.steps // 2))

    @property
    def averaging(self) -> Averaging:
        """Of the weights; faster than in long runs."""
        return Averaging(most=0.998, ramp=300.0, updates_at_start=0)

    def to_json(self) -> str:
        """For comparison with the plan of a run that is to go on."""
        values = {**dataclasses.asdict(self), "generator": GENERATOR_VERSION}
        return json.dumps(values, indent=1, sort_keys=True)

    def _scored(self, split: str, towns: int) -> list[Clip]:
        seeds = np.linspace(0, len(SPLITS[split]) - 1, towns).round().astype(int)
        return [Clip(SPLITS[split][n], 0, 8, self.scored_frames) for n in seeds]

    def _clip(self, town: int, drive: int) -> Clip:
        rng = random_for("demo clip", self.seed, town, drive)
        return Clip(
            town, drive, int(rng.integers(_DRIVE_FRAMES - self.clip_frames)), self.clip_frames
        )
