"""Training runs, from Python: :func:`fit` takes a recipe and a data set.

Progress is written to ``<out>/logs`` (CSV, and TensorBoard if it is installed), checkpoints to
``<out>/checkpoints``. A run that was interrupted resumes from its last checkpoint and gives the
same frames, points and weights as one without an interruption.
"""

from __future__ import annotations

import csv
import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy, Strategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch.utils.data import DataLoader

from occ_perception.errors import OptionError
from occ_perception.models.card import ModelCard
from occ_perception.models.network import Network
from occ_perception.models.zoo import get_card
from occ_perception.runtime.folding import put_channels_last
from occ_training.checkpoints import (
    TRAINER_FILE,
    WEIGHTS_FILE,
    Checkpoints,
    finished_checkpoints,
    slots_of,
    step_of,
)
from occ_training.cpu import CpuHours, cpu_precision, is_on_cpu, keep_freed_memory
from occ_training.data.sample import Batch, collate
from occ_training.ema import WeightAverage
from occ_training.initial_weights import load_initial_weights
from occ_training.module import OccupancyModule
from occ_training.recipe import TrainingRecipe
from occ_training.run_folder import CHECKPOINTS, GATE_FILE, VALIDATION, store_recipe
from occ_training.sampler import SequenceDataset, SlotSampler, group_frames
from occ_training.termination import Termination
from occ_training.validation import GateKeeper, Validation


def fit(
    recipe: TrainingRecipe,
    dataset: SequenceDataset,
    out: str | Path,
    *,
    card: ModelCard | None = None,
    accelerator: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    validation: SequenceDataset | None = None,
    callbacks: Sequence[pl.Callback] = (),
    log_every: int = 50,
    progress: bool = True,
) -> Path:
    """Train, or resume training.

    Args:
        recipe: of the run.
        dataset: frames to train on; it applies its own augmentation.
        out: folder of the run. If it has checkpoints, the run resumes from the last.
        card: model to train, for sizes that are not the zoo's; None = the recipe's.
        accelerator: as Lightning names it: ``auto``, ``cpu``, ``gpu``.
        devices: processes per machine, each with its own GPU.
        nodes: machines.
        validation: frames to evaluate on, without augmentation; None = no evaluation.
        callbacks: Lightning callbacks besides those of every run.
        log_every: steps between lines of the log.
        progress: whether a progress bar is shown.

    Returns:
        The weights file of the last checkpoint, averaged if the recipe averages.

    Raises:
        OptionError: the batch cannot be divided by the processes, or there is a gate and no
            validation data; the message says what to change.
        DatasetError: the data set is too small for the batch.
        RunError: the folder holds another run.
        GateError: the run fails its gate, or failed it before.
        DivergedError: a weight is not finite.
    """
    out = Path(out)
    if recipe.gate is not None and validation is None:
        raise OptionError(
            f"{recipe.name} has a gate and no validation data: give a validation data set, or "
            "set `gate` of the recipe to null"
        )
    store_recipe(out, recipe)
    on_cpu = is_on_cpu(accelerator)
    if on_cpu:
        recipe = replace(recipe, precision=cpu_precision(recipe.precision))
        keep_freed_memory()
    card = card or get_card(recipe.model)
    pl.seed_everything(recipe.seed, verbose=False)
    torch.set_float32_matmul_precision("highest")
    training = OccupancyModule(_new_network(card, recipe), card, recipe)
    if on_cpu:
        put_channels_last(training.net)  # a tenth faster
    average = WeightAverage(recipe.averaging) if recipe.averaging else None
    own: list[pl.Callback] = [LearningRateMonitor("step")]
    if progress:
        own.append(TQDMProgressBar(refresh_rate=10))
    if average is not None:
        own.append(average)
    if on_cpu:
        own.append(CpuHours())
    folder = out / CHECKPOINTS
    checkpoints = Checkpoints(
        folder,
        recipe.checkpoint_every,
        recipe.checkpoint_minutes,
        recipe.kept_checkpoints,
        recipe.batch,
        average,
    )
    # Checkpoints save the state of the other callbacks; the gate runs after that.
    last_ones: list[pl.Callback] = [checkpoints]
    if validation is not None:
        validating = Validation(validation, recipe.validate_every, average, out / VALIDATION)
        own.append(validating)
        if recipe.gate is not None:
            last_ones.append(GateKeeper(recipe.gate, validating, out / GATE_FILE))
    last_ones.append(Termination(checkpoints))
    last = checkpoints.last
    trainer = pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=_strategy(accelerator, devices, nodes),
        # fp16 needs gradient scaling; the network chooses the precision of each part itself.
        precision="16-mixed" if recipe.precision == "fp16" else "32-true",
        max_steps=recipe.steps,
        max_epochs=-1,
        gradient_clip_val=recipe.optimiser.clip_norm,
        sync_batchnorm=recipe.synchronised_norms,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=progress,
        logger=_loggers(out, 0 if last is None else step_of(last)),
        log_every_n_steps=log_every,
        callbacks=[*own, *callbacks, *last_ones],
    )
    with warnings.catch_warnings():
        # SlotSampler starts at the right step; Lightning cannot know that.
        warnings.filterwarnings("ignore", ".*dataloader is not resumable.*")
        trainer.fit(
            training,
            datamodule=TrainingData(recipe, dataset),
            ckpt_path=None if last is None else str(last / TRAINER_FILE),
            weights_only=False,  # written by this program
        )
    return finished_checkpoints(folder)[-1] / WEIGHTS_FILE


class TrainingData(pl.LightningDataModule):
    """The frames of this process's slots, from the current step on.

    Args:
        recipe: batch, seed, steps, workers.
        dataset: source of the samples.
    """

    def __init__(self, recipe: TrainingRecipe, dataset: SequenceDataset) -> None:
        super().__init__()
        self._recipe = recipe
        self._dataset = dataset

    def train_dataloader(self) -> DataLoader[Batch]:
        """Lightning calls this after it has read a checkpoint, so the step is known."""
        assert self.trainer is not None
        recipe = self._recipe
        stream = SlotSampler(
            group_frames(self._dataset.groups_F),
            recipe.batch,
            slots_of(self.trainer, recipe.batch),
            recipe.seed,
            self.trainer.global_step,
            recipe.steps,
        )
        return DataLoader(
            self._dataset,  # type: ignore[arg-type]
            batch_sampler=stream,
            collate_fn=collate,
            num_workers=recipe.workers,
            persistent_workers=recipe.workers > 0,
            pin_memory=torch.cuda.is_available(),
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the whole batch."""
        del dataloader_idx
        return batch.to(device)


def _new_network(card: ModelCard, recipe: TrainingRecipe) -> Network:
    net = card.build()
    if recipe.initial_weights is not None:
        rank_zero_info(load_initial_weights(net, card, recipe.initial_weights))
    return net


def _strategy(accelerator: str, devices: int | str, nodes: int) -> Strategy | str:
    """Data parallel if there is more than one process, with the settings of the reference runs."""
    count = devices
    if devices in ("auto", -1, "-1"):
        count = 1 if accelerator == "cpu" else max(1, torch.cuda.device_count())
    if int(count) * nodes == 1:
        return "auto"
    return DDPStrategy(broadcast_buffers=False, find_unused_parameters=False)


def _loggers(out: Path, step: int) -> list[Logger]:
    table = CSVLogger(out, name="logs", version="csv", flush_logs_every_n_steps=1)
    _keep_rows(table, step)
    loggers: list[Logger] = [table]
    if importlib.util.find_spec("tensorboard") is not None:
        loggers.append(TensorBoardLogger(out, name="logs", version="tensorboard"))
    return loggers


@rank_zero_only
def _keep_rows(table: CSVLogger, step: int) -> None:
    """Keep the rows of a resumed run; the logger itself would start a new table.

    Args:
        table: without any rows yet.
        step: from which the run resumes; rows of this and later steps are dropped.
    """
    file = Path(table.log_dir) / "metrics.csv"
    before = file.with_name("metrics.before.csv")
    if file.is_file() and not before.is_file():
        file.rename(before)
    if not before.is_file():
        return
    with before.open(newline="") as stream:
        whole = [line for line in stream if line.endswith("\n")]  # the last may be cut off
    rows = [row for row in csv.DictReader(whole) if int(row["step"]) < step]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Previous log files in this directory will be deleted")
        table.experiment.metrics += [{k: v for k, v in row.items() if v} for row in rows]
    table.save()
    before.unlink()
