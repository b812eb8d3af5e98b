"""Checkpoints of a run: folders that appear whole, or not at all.

``step_0008005/`` holds ``trainer.ckpt`` (weights, optimiser, schedules, averages),
``slot_0003.safetensors`` per slot of the global batch (what its stream remembers) and
``weights.safetensors`` with published names, which ``occ run --weights`` takes.
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
    """Weights are no longer finite numbers."""


class Checkpoints(pl.Callback):
    """Writes a checkpoint every so many steps or minutes, and at the end; keeps the last ones.

    Lightning's ``ModelCheckpoint`` writes one file from one process. Here every process writes what
    its slots remember, so that another number of processes can go on, and all files of a
    checkpoint appear together.

    Args:
        folder: of the run's checkpoints.
        every: steps.
        minutes: after which one is written between those; None = never.
        kept: how many stay.
        batch: slots of the global batch.
        average: averaged weights, which become ``weights.safetensors`` where there are any.

    Attributes:
        last: the checkpoint that the run goes on from, None where it begins.
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
        """Where the run goes on, let the slots remember what they did."""
        assert isinstance(pl_module, OccupancyModule)
        if self.last is not None:
            restore_slots(pl_module, self.last, slots_of(trainer, self._batch))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Save where a checkpoint is due."""
        assert isinstance(pl_module, OccupancyModule)
        step = trainer.global_step
        if step % self._every == 0 or step == trainer.max_steps or self._is_time(trainer):
            self.save(trainer, pl_module)
            self._saved_at = time.monotonic()

    def _is_time(self, trainer: pl.Trainer) -> bool:
        """Whether the minutes are over; by the clock of one process, for all."""
        if self._minutes is None:
            return False
        over = time.monotonic() - self._saved_at > 60.0 * self._minutes
        return trainer.strategy.broadcast(over)

    def save(self, trainer: pl.Trainer, training: OccupancyModule) -> None:
        """Write the checkpoint of this moment; every process calls this.

        Raises:
            DivergedError: a weight is no longer a finite number; earlier checkpoints stay.
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
                f"{lost[0]} and {len(lost) - 1} other weights are no longer finite numbers after "
                f"{step} steps; the same command goes on from the last checkpoint in "
                f"{self._folder}; where that fails too, begin a run with a smaller optimiser.lr"
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
    """How many steps had been done at a checkpoint."""
    return int(checkpoint.name.removeprefix("step_"))


def slots_of(trainer: pl.Trainer, batch: int) -> range:
    """The slots of the global batch that are this process's.

    Raises:
        OptionError: the batch cannot be spread evenly.
    """
    each, rest = divmod(batch, trainer.world_size)
    if rest:
        raise OptionError(
            f"a global batch of {batch} cannot be spread over {trainer.world_size} processes; "
            "change `batch` in the run file to a multiple, or the number of devices"
        )
    return range(trainer.global_rank * each, (trainer.global_rank + 1) * each)


def restore_slots(training: OccupancyModule, checkpoint: Path, mine: range) -> None:
    """What this process's slots remembered at a checkpoint.

    Raises:
        CheckpointError: the checkpoint has fewer slots: it belongs to a run with another batch.
    """
    missing = [slot for slot in mine if not _slot_file(checkpoint, slot).is_file()]
    if missing:
        raise CheckpointError(
            f"{checkpoint} has no state of slots {missing}; it was written with another global "
            "batch. Go on with that one, or begin a new run from its weights.safetensors"
        )
    slots = [load_file(_slot_file(checkpoint, slot)) for slot in mine]
    if all(slots):
        joined = {name: torch.stack([slot[name] for slot in slots]) for name in slots[0]}
        training.slots.restore(joined, training.device)


def save_weights(net: nn.Module, card: ModelCard, path: Path) -> None:
    """Write a network's tensors under their published names, as safetensors."""
    tensors = {
        checkpoint_key(name, card.names): tensor.detach().cpu().clone().contiguous()
        for name, tensor in net.state_dict().items()
    }
    save_file(tensors, path, metadata={"format": "pt", "model": card.name})


def _slot_file(folder: Path, slot: int) -> Path:
    return folder / f"slot_{slot:04d}.safetensors"
