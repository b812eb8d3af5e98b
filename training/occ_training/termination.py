"""SIGTERM ends a run with a checkpoint, all its processes at the same step."""

from __future__ import annotations

import signal
import threading
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from occ_training.checkpoints import Checkpoints
from occ_training.module import OccupancyModule

EXIT_CODE = 128 + signal.SIGTERM
"""Exit code of a run that SIGTERM ended, as shells report it."""


class Termination(pl.Callback):
    """After SIGTERM to any process, every process finishes the step, saves, and exits.

    It takes the place of Lightning's handler, which broadcasts to the other processes from inside
    of the signal, where they do not expect it: both sides then wait for each other.

    Args:
        checkpoints: writes the checkpoint.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints
        self._is_asked = False
        self._is_ending = False

    def on_train_start(self, *_: Any) -> None:
        """Take SIGTERM over; Lightning restores the former handler when the run ends."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._is_asked = True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save if a process was asked to end."""
        assert isinstance(pl_module, OccupancyModule)
        self._is_ending = trainer.strategy.reduce_boolean_decision(self._is_asked, all=False)
        if self._is_ending:
            self._checkpoints.save(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """End the run before the next step: the one that was saved is in the log by now.

        Raises:
            SystemExit: with :data:`EXIT_CODE` in the first process. The others exit with 0: the
                first one would be killed at any other code of theirs.
        """
        if not self._is_ending:
            return
        rank_zero_info(
            f"SIGTERM: stopped after step {trainer.global_step} with a checkpoint; the same "
            "command resumes the run"
        )
        raise SystemExit(EXIT_CODE if trainer.is_global_zero else 0)
