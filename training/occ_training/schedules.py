"""Schedules of a training run, as functions of the step number.

Steps count from 0: ``step`` steps have been taken before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """Factors on the base rate: linear warm-up, then constant with optional drops or cosine decay.

    Attributes:
        warm_up_steps: length of the warm-up.
        warm_up_from: factor at step 0.
        drops: from each of these steps on the rate is multiplied by ``drop_factor`` once more.
        drop_factor: see ``drops``.
        fall: cosine decay from the full rate to ``fall_to``; None = no decay.
        fall_to: factor after the decay.
    """

    warm_up_steps: int = 200
    warm_up_from: float = 0.001
    drops: tuple[int, ...] = ()
    drop_factor: float = 0.2
    fall: CosineRampDown | None = None
    fall_to: float = 0.01

    def factor(self, step: int) -> float:
        """Factor on the base rate in this step."""
        dropped = self.drop_factor ** sum(step >= drop for drop in self.drops)
        if self.fall is not None:
            dropped *= self.fall_to + (1.0 - self.fall_to) * self.fall.rate(step)
        if step >= self.warm_up_steps:
            return dropped
        missing = 1.0 - step / self.warm_up_steps
        return dropped * (1.0 - missing * (1.0 - self.warm_up_from))

    def scaled(self, factor: float) -> LearningRate:
        """The schedule of a run that is ``factor`` times as long; the warm-up keeps its length."""
        drops = tuple(round(drop * factor) for drop in self.drops)
        return replace(self, drops=drops, fall=self.fall and self.fall.scaled(factor))


@dataclass(frozen=True, kw_only=True)
class CosineRampDown:
    """Share of ground truth that is mixed into the network's own prediction.

    1 up to ``begin``, then ``(1 + cos(pi (step - begin) / (end - begin))) / 2``, 0 after ``end``:
    the denoising of ALOcc (arXiv 2411.07725).

    Attributes:
        begin, end: steps.
    """

    begin: float = 0
    end: float

    def rate(self, step: float) -> float:
        """Share of the ground truth in this step."""
        if step <= self.begin:
            return 1.0
        if step > self.end:
            return 0.0
        return (1.0 + math.cos(math.pi * (step - self.begin) / (self.end - self.begin))) / 2.0

    def scaled(self, factor: float) -> CosineRampDown:
        """The schedule of a run that is ``factor`` times as long."""
        return CosineRampDown(begin=round(self.begin * factor), end=round(self.end * factor))


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """Exponential moving average of weights; its decay grows with the number of updates.

    ``decay = most * (1 - exp(-updates / ramp))``, as in YOLOX (arXiv 2107.08430).

    Attributes:
        most: limit of the decay.
        ramp: time constant of the growth, in updates.
        updates_at_start: number of updates that are counted before the first one.
    """

    most: float = 0.999
    ramp: float = 2000.0
    updates_at_start: int = 10560

    def decay(self, updates: int) -> float:
        """Decay at the update with this number (the first is 1)."""
        count = self.updates_at_start + updates
        return self.most * (1.0 - math.exp(-count / self.ramp))
