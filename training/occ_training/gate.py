"""A gate that a run has to pass: learning nothing should not take hours to be noticed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from occ_perception.atomic import write_whole
from occ_perception.errors import OccError
from occ_training.recipe import Gate
from occ_training.validation import Validation


class GateError(OccError):
    """The network learns too little; going on would waste the time."""


class GateKeeper(pl.Callback):
    """Ends a run with an error where its score is not above a floor after a step.

    Lightning's ``EarlyStopping`` would end it as if it were complete. What was reached is kept in
    a file of the run: a failed gate stays failed when the run is started again, and a passed one
    passed. A run that is beyond the step already is looked at at once. Comes behind the callback
    that writes checkpoints, so that nothing is lost where the floor is lowered.

    Args:
        gate: step, score and floor.
        validation: evaluates the network.
        file: of the run, for what was reached.

    Raises:
        GateError: before the run goes on, or in the step.
    """

    def __init__(self, gate: Gate, validation: Validation, file: Path) -> None:
        self._gate = gate
        self._validation = validation
        self._file = file
        self._reached: float | None = None
        if file.is_file():
            self._reached = json.loads(file.read_text())[gate.score]
            self._judge(self._reached)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Look at the score, once."""
        if self._reached is not None or trainer.global_step < self._gate.step:
            return
        scores = self._validation.scores(trainer, pl_module)
        if self._gate.score not in scores:
            raise GateError(
                f"the gate looks at {self._gate.score}, the validation has {', '.join(scores)}; "
                "change `gate.score`"
            )
        self._reached = scores[self._gate.score]
        if trainer.is_global_zero:
            facts = {self._gate.score: self._reached, "step": trainer.global_step}
            write_whole(self._file, json.dumps(facts) + "\n")
        self._judge(self._reached)

    def _judge(self, reached: float) -> None:
        if not reached > self._gate.floor:
            raise GateError(
                f"{self._gate.score} is {reached:.3f} at the gate, expected more than "
                f"{self._gate.floor:g}: the run learns too little, look at its losses; "
                f"--set gate.floor={reached - 0.01:.2f} goes on all the same"
            )
