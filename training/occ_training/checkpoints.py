"""Checkpoints of a run: folders that appear only when they are complete.

``step_0008005/`` holds ``trainer.ckpt`` (weights, optimiser, schedules, averages),
``slot_0003.safetensors`` per slot of the global batch (its temporal state) and
``weights.safetensors`` under checkpoint keys, for ``occ run --weights``.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from occ_perception.errors import OccError, OptionError
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint import CheckpointError
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_training.ema import WeightAverage, float_entries
from occ_training.module import OccupancyModule

TRAINER_FILE = "trainer.ckpt"
WEIGHTS_FILE = "weights.safetensors"
_FOLDER = re.compile(r"step_(\d{7,})")


class DivergedError(OccError):
    """A weight is not finite."""


class Checkpoints(pl.Callback):
    """Writes a checkpoint at an interval of steps or minutes and at the end; keeps the last ones.

    Lightning's ``ModelCheckpoint`` writes one file from one process. Here every process writes the
    state of its slots, so that another number of processes can resume, and all files of a
    checkpoint appear together.

    Args:
        folder: of the run's checkpoints.
        every: interval in steps.
        minutes: after which one is written in between; None = never.
        kept: how many are kept.
        batch: slots of the global batch.
        average: averaged weights, which become ``weights.safetensors``; None = trained weights.

    Attributes:
        last: the checkpoint that the run resumes from, None for a new run.
    """

    def __init__(
        self,
        folder: Path,
        every: int,
        minutes: float | None,
        kept: int,
        batch: int,
        average: WeightAverage | None,
    ) -> None:
        self._folder = folder
        self._every = every
        self._minutes = minutes
        self._saved_at = time.monotonic()
        self._kept = kept
        self._batch = batch
        self._average = average
        self.last = next(reversed(finished_checkpoints(folder)), None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the state of the slots if the run resumes."""
        assert isinstance(pl_module, OccupancyModule)
        if self.last is not None:
            restore_slots(pl_module, self.last, slots_of(trainer, self._batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save if a checkpoint is due."""
        assert isinstance(pl_module, OccupancyModule)
        step = trainer.global_step
        if step % self._every == 0 or step == trainer.max_steps or self._is_time(trainer):
            self.save(trainer, pl_module)
            self._saved_at = time.monotonic()

    def _is_time(self, trainer: pl.Trainer) -> bool:
        """Whether the minutes have passed; the clock of one process decides for all."""
        if self._minutes is None:
            return False
        over = time.monotonic() - self._saved_at > 60.0 * self._minutes
        return trainer.strategy.broadcast(over)

    def save(self, trainer: pl.Trainer, training: OccupancyModule) -> None:
        """Write a checkpoint of the current step; every process calls this.

        Raises:
            DivergedError: a weight is not finite; earlier checkpoints stay.
        """
        self._refuse_diverged(trainer.global_step, training.net)
        final = self._folder / f"step_{trainer.global_step:07d}"
        unfinished = self._folder / f".{final.name}.unfinished"
        if trainer.is_global_zero:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        trainer.strategy.barrier()
        tensors = training.slots.tensors()
        for row, slot in enumerate(slots_of(trainer, self._batch)):
            one = {name: value[row].clone().contiguous() for name, value in tensors.items()}
            save_file(one, _slot_file(unfinished, slot))
        trainer.save_checkpoint(unfinished / TRAINER_FILE)
        if trainer.is_global_zero:
            self._save_weights(training, unfinished / WEIGHTS_FILE)
        trainer.strategy.barrier()
        if trainer.is_global_zero:
            shutil.rmtree(final, ignore_errors=True)
            unfinished.rename(final)
            for old in finished_checkpoints(self._folder)[: -self._kept]:
                shutil.rmtree(old)

    def _refuse_diverged(self, step: int, net: nn.Module) -> None:
        lost = [name for name, tensor in float_entries(net).items() if not tensor.isfinite().all()]
        if lost:
            raise DivergedError(
                f"{lost[0]} and {len(lost) - 1} other weights are no longer finite after "
                f"{step} steps; the same command resumes from the last checkpoint in "
                f"{self._folder}; if that fails too, start a run with a smaller optimiser.lr"
            )

    def _save_weights(self, training: OccupancyModule, path: Path) -> None:
        if self._average is None:
            save_weights(training.net, training.card, path)
        else:
            with self._average.applied(training.net):
                save_weights(training.net, training.card, path)


def finished_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders of a run, oldest first."""
    found = [path for path in folder.glob("step_*") if _FOLDER.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Number of completed steps at a checkpoint."""
    return int(checkpoint.name.removeprefix("step_"))


def slots_of(trainer: pl.Trainer, batch: int) -> range:
    """The slots of the global batch that belong to this process.

    Raises:
        OptionError: the batch is not a multiple of the number of processes.
    """
    each, rest = divmod(batch, trainer.world_size)
    if rest:
        raise OptionError(
            f"a global batch of {batch} cannot be divided by {trainer.world_size} processes; "
            "change `batch` in the run file to a multiple, or the number of devices"
        )
    return range(trainer.global_rank * each, (trainer.global_rank + 1) * each)


def restore_slots(training: OccupancyModule, checkpoint: Path, mine: range) -> None:
    """Restore the state of this process's slots from a checkpoint.

    Raises:
        CheckpointError: the checkpoint has fewer slots: it belongs to a run with another batch.
    """
    missing = [slot for slot in mine if not _slot_file(checkpoint, slot).is_file()]
    if missing:
        raise CheckpointError(
            f"{checkpoint} has no state of slots {missing}; it was written with another global "
            "batch. Use that batch, or start a new run from its weights.safetensors"
        )
    slots = [load_file(_slot_file(checkpoint, slot)) for slot in mine]
    if all(slots):
        joined = {name: torch.stack([slot[name] for slot in slots]) for name in slots[0]}
        training.slots.restore(joined, training.device)


def save_weights(net: nn.Module, card: ModelCard, path: Path) -> None:
    """Write a network's tensors under their checkpoint keys, as safetensors."""
    tensors = {
        checkpoint_key(name, card.names): tensor.detach().cpu().clone().contiguous()
        for name, tensor in net.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt", "model": card.name})


def _slot_file(folder: Path, slot: int) -> Path:
    return folder / f"slot_{slot:04d}.safetensors"
