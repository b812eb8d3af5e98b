"""Validation during training, with the averaged weights, and the gate that checks a score."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from occ_perception.atomic import write_whole
from occ_perception.errors import OccError
from occ_perception.metrics import Evaluation
from occ_training.ema import WeightAverage
from occ_training.evaluate import evaluate_frames
from occ_training.module import OccupancyModule
from occ_training.recipe import Gate
from occ_training.sampler import SequenceDataset, check_each_once, group_frames, shares


class Validation(pl.Callback):
    """Evaluates at an interval of steps and at the end; each process takes a share of sequences.

    The scores go to the log as ``val/PART/SCORE``, and full reports to a folder. The temporal state
    of training does not change: evaluation starts every sequence with a new state.

    Args:
        dataset: frames without augmentation.
        every: interval in steps; None = at the end only.
        average: averaged weights to evaluate, None = the weights in training.
        folder: for ``step_N.json`` and ``step_N.csv``, None = no files.
        parts: of the protocol, None = the default ones.
    """

    def __init__(
        self,
        dataset: SequenceDataset,
        every: int | None,
        average: WeightAverage | None = None,
        folder: Path | None = None,
        parts: tuple[str, ...] | None = None,
    ) -> None:
        self._dataset = dataset
        self._every = every
        self.average = average
        self._folder = folder
        self._parts = parts
        self._latest: tuple[int, dict[str, float]] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Evaluate if it is due."""
        step = trainer.global_step
        if step == trainer.max_steps or (self._every and step % self._every == 0):
            self.scores(trainer, pl_module)

    def scores(self, trainer: pl.Trainer, training: pl.LightningModule) -> dict[str, float]:
        """PART/SCORE -> value at this step; every process calls this and gets the same values."""
        step = trainer.global_step
        if self._latest is not None and self._latest[0] == step:
            return self._latest[1]
        assert isinstance(training, OccupancyModule)
        net, card = training.net, training.card
        evaluation = Evaluation(card.label_set, self._parts, card.grid).to(training.device)
        mine = shares(group_frames(self._dataset.groups_F), trainer.world_size)[trainer.global_rank]
        modes = {module: module.training for module in net.modules()}
        with nullcontext() if self.average is None else self.average.applied(net):
            net.eval()
            seen = evaluate_frames(
                net, card, self._dataset, evaluation, training.device, groups=mine
            )
        for module, was_training in modes.items():
            module.training = was_training
        check_each_once(_from_all(seen), len(self._dataset))
        report = evaluation.report(f"{card.name}, step {step}")
        means = {
            f"{part}/{name}": value
            for part, scores in report.scores.items()
            for name, value in scores.items()
            if "[" not in name
        }
        training.log_dict({f"val/{n}": v for n, v in means.items()}, rank_zero_only=True)
        if self._folder is not None and trainer.is_global_zero:
            write_whole(self._folder / f"step_{step:07d}.json", report.to_json())
            write_whole(self._folder / f"step_{step:07d}.csv", report.to_csv())
        self._latest = step, means
        return means


def _from_all(seen: list[int]) -> list[int]:
    """The frames that all processes have evaluated."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return seen
    gathered: list[list[int]] = [[] for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(gathered, seen)
    return [index for part in gathered for index in part]


class GateError(OccError):
    """The score at the gate is too low, or the validation does not have it."""


class GateKeeper(pl.Callback):
    """Ends a run with an error if its score does not exceed a floor after a step.

    Lightning's ``EarlyStopping`` would end the run as if it were complete. The score is stored in a
    file of the run: a failed gate fails again when the run is restarted, and a passed one stays
    passed. A run that is already beyond the step is checked after its next step. This callback
    runs after the one that writes checkpoints, so that nothing is lost if the floor is lowered.

    Args:
        gate: step, score and floor.
        validation: evaluates the network.
        file: of the run, for the score.

    Raises:
        GateError: when the callback is made, or in the step.
    """

    def __init__(self, gate: Gate, validation: Validation, file: Path) -> None:
        self._gate = gate
        self._validation = validation
        self._file = file
        self._reached: float | None = None
        if file.is_file():
            self._reached = json.loads(file.read_text())[gate.score]
            self._check(self._reached)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Check the score, once."""
        if self._reached is not None or trainer.global_step < self._gate.step:
            return
        scores = self._validation.scores(trainer, pl_module)
        if self._gate.score not in scores:
            raise GateError(
                f"the gate checks {self._gate.score}, the validation has {', '.join(scores)}; "
                "change `gate.score`"
            )
        self._reached = scores[self._gate.score]
        if trainer.is_global_zero:
            facts = {self._gate.score: self._reached, "step": trainer.global_step}
            write_whole(self._file, json.dumps(facts) + "\n")
        self._check(self._reached)

    def _check(self, reached: float) -> None:
        if not reached > self._gate.floor:
            raise GateError(
                f"{self._gate.score} is {reached:.3f} at the gate, expected more than "
                f"{self._gate.floor:g}: the run learns too little, check its losses; "
                f"--set gate.floor={reached - 0.01:.2f} continues anyway"
            )
