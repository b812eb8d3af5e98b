"""A budget of CPU hours as a number of samples: measured once, when a run begins."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from lightning.pytorch.utilities import rank_zero_only

from occ_perception.models.card import ModelCard
from occ_perception.runtime.folding import put_channels_last
from occ_training.checkpoints import finished_checkpoints
from occ_training.cpu import cpu_precision, keep_freed_memory
from occ_training.data.sample import collate
from occ_training.module import OccupancyModule
from occ_training.recipe import TrainingRecipe
from occ_training.run_folder import CHECKPOINTS, stored_steps
from occ_training.sampler import SequenceDataset, SlotSampler, group_frames

_WARM_UP_STEPS, _MEASURED_STEPS = 1, 3


def samples_in(
    cpu_hours: float, recipe: TrainingRecipe, dataset: SequenceDataset, card: ModelCard, out: Path
) -> int:
    """Number of samples that a run of so many CPU hours has on this machine.

    A run that has begun keeps its number: its schedule must not depend on how busy the machine is.

    Args:
        cpu_hours: summed over all cores.
        recipe: of the run.
        dataset: its frames; reading them counts.
        card: model to train.
        out: folder of the run.
    """
    is_first = not getattr(rank_zero_only, "rank", 0)  # it starts the others, which follow it
    if finished_checkpoints(out / CHECKPOINTS) or not is_first:
        return stored_steps(out) * recipe.batch
    seconds = seconds_per_sample(recipe, dataset, card)
    steps = max(1, int(3600 * cpu_hours / seconds / recipe.batch))
    return steps * recipe.batch


def seconds_per_sample(recipe: TrainingRecipe, dataset: SequenceDataset, card: ModelCard) -> float:
    """CPU seconds of a training step per sample: reading, forward, losses, backward, update."""
    torch.manual_seed(recipe.seed)
    keep_freed_memory()
    recipe = replace(recipe, precision=cpu_precision(recipe.precision))
    training = OccupancyModule(card.build(), card, recipe)
    put_channels_last(training.net)
    optimiser = training.configure_optimizers()["optimizer"]
    stream = SlotSampler(
        group_frames(dataset.groups_F),
        recipe.batch,
        range(recipe.batch),
        recipe.seed,
        0,
        _WARM_UP_STEPS + _MEASURED_STEPS,
    )
    begun = 0.0
    for number, visits in enumerate(islice(stream, _WARM_UP_STEPS + _MEASURED_STEPS)):
        if number == _WARM_UP_STEPS:
            begun = time.process_time()
        batch = collate([dataset[visit] for visit in visits])
        losses = training.losses(batch, training(batch))
        torch.stack(list(losses.values())).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
    return (time.process_time() - begun) / (_MEASURED_STEPS * recipe.batch)
