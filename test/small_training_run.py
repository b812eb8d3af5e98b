"""One small training run in its own process: ``small_training_run.py OUT INDEX [options]``.

Prints the loss of every step. With ``--kill-at N`` the first process sends itself a signal, SIGKILL
unless ``--signal`` names another, after step N.
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.index import DatasetIndex
from occ_training.fit import fit
from small_training import small_card, small_recipe


class KillAt(pl.Callback):
    """Sends a signal to the first process."""

    def __init__(self, step: int, signal_name: str) -> None:
        self.step = step
        self.signal = signal.Signals[signal_name]

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            os.kill(os.getpid(), self.signal)


class NoDropout(pl.Callback):
    """Switches dropout off: its draws depend on the distribution of the batch over processes."""

    def on_train_start(self, _trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for module in pl_module.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("out", type=Path)
    arguments.add_argument("index", type=Path)
    arguments.add_argument("--steps", type=int, default=6)
    arguments.add_argument("--devices", type=int, default=1)
    arguments.add_argument("--kill-at", type=int)
    arguments.add_argument("--signal", default="SIGKILL")
    arguments.add_argument("--by-sample", action="store_true", help="nothing mixes samples")
    arguments.add_argument("--workers", type=int, default=0)
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    card = small_card()
    recipe = small_recipe(
        steps=chosen.steps,
        checkpoint_every=2,
        frozen_norms=chosen.by_sample,
        workers=chosen.workers,
    )
    dataset = OccupancyDataset(DatasetIndex.load(chosen.index), card, recipe.sample_options(card))
    fit(
        recipe,
        dataset,
        chosen.out,
        card=card,
        accelerator="cpu",
        devices=chosen.devices,
        callbacks=[
            *([KillAt(chosen.kill_at, chosen.signal)] if chosen.kill_at else []),
            *([NoDropout()] if chosen.by_sample else []),
        ],
        log_every=1,
        progress=False,
    )


if __name__ == "__main__":
    main()
