"""Evaluation of every frame of a data set, once, in sequence order, on any number of processes.

Sequences are distributed over processes and their counters are summed. Scores do not depend on the
number of processes, because history never crosses sequences and all counts are integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from occ_perception.atomic import atomic_path
from occ_perception.metrics import PROTOCOLS, Evaluation, FrameTruth, Report
from occ_perception.models.card import ModelCard
from occ_perception.models.inputs import Outputs
from occ_perception.models.network import Network
from occ_perception.models.postprocess import Decoded, decode
from occ_perception.models.zoo import get_card
from occ_perception.runtime.execution import Execution, prepared_step
from occ_perception.runtime.self_check import PLAIN, choose_execution
from occ_perception.runtime.transfer import download
from occ_perception.runtime.weights import LoadedModel, load_model
from occ_training.data.dataset import Content, OccupancyDataset, SampleOptions
from occ_training.data.index import DatasetIndex
from occ_training.data.sample import Batch, collate
from occ_training.parallel import WorkError, run_all
from occ_training.sampler import SequenceDataset, check_each_once, group_frames, shares

Counters = dict[str, dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class EvaluationTask:
    """What one process evaluates; it can be sent to another machine.

    Attributes:
        model: name of the card.
        weights: checkpoint; None = the model's own.
        random_seed: of random weights instead, None = no.
        device: ``auto``, ``cpu``, ``cuda:1`` ...
        precision, execution: how the network runs; ``auto`` is what the self-check chooses.
        data: index of the data set.
        labels: key of its labels, None = those of the model's label set.
        sequences: only these; None = all.
        parts: of the protocol, None = the default ones.
        groups: numbers of the groups to evaluate, None = all.
        history: False treats every frame as the first of its sequence.
        save: folder for predictions, None = they are not saved.
        workers: processes that load frames in the background.
    """

    model: str
    weights: Path | None = None
    random_seed: int | None = None
    device: str = "auto"
    precision: str = "fp32"
    execution: str = "eager"
    data: Path
    labels: str | None = None
    sequences: tuple[str, ...] | None = None
    parts: tuple[str, ...] | None = None
    groups: tuple[int, ...] | None = None
    history: bool = True
    save: Path | None = None
    workers: int = 2

    def dataset(self) -> OccupancyDataset:
        """The frames, without augmentation."""
        card = get_card(self.model)
        index = DatasetIndex.load(self.data)
        if self.sequences is not None:
            index = index.select(self.sequences)
        options = evaluation_options(card, self.labels, self.parts)
        if not self.history:
            options = replace(options, pieces=len(index))  # every frame is its own piece
        return OccupancyDataset(index, card, options)

    def chosen_execution(self, model: LoadedModel) -> Execution:
        """How the network runs on this process's device."""
        return choose_execution(model, self.precision, self.execution).execution


def evaluation_options(
    card: ModelCard, labels: str | None = None, parts: Sequence[str] | None = None
) -> SampleOptions:
    """The sample options that the protocol of a model needs.

    Args:
        card: of the model.
        labels: key of the labels in the data set.
        parts: of the protocol, None = the default ones.
    """
    known = PROTOCOLS[card.label_set].parts
    names = [n for n, part in known.items() if part.by_default] if parts is None else parts
    contents: list[Content] = ["labels"]
    if any("lidar_origins" in known[n].inputs.values() for n in names if n in known):
        contents.append("ray_origins")
    if card.measures_depth:
        contents.append("depth")
    return SampleOptions(contents=tuple(contents), labels=labels)


def evaluate(
    task: EvaluationTask,
    jobs: int = 1,
    ray_address: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Scores of a model on a data set.

    Args:
        task: without groups.
        jobs: local processes; with several GPUs each takes the next one in turn.
        ray_address: of a Ray cluster to use instead, one task per sequence. A task takes a GPU if
            the cluster has any and ``task.device`` is not ``cpu``.
        on_progress: called with (frames done, frames in all).

    Raises:
        WorkError: a process failed for a reason that a user can fix.
        RuntimeError: it failed for another reason, or a frame was not evaluated exactly once.
        OccError: raised by the data set, the protocol or :func:`load_model`.
    """
    dataset = task.dataset()
    card, frames = get_card(task.model), len(dataset)
    total = Evaluation(card.label_set, task.parts, card.grid)
    groups = group_frames(dataset.groups_F)
    dealt = shares(groups, max(1, jobs) if ray_address is None else len(groups))
    tasks = [
        replace(
            task,
            groups=tuple(share),
            # A process of a cluster sees only its own GPU, whatever this machine has.
            device=task.device if ray_address else _device_of(task.device, number),
        )
        for number, share in enumerate(dealt)
        if share
    ]
    seen: list[int] = []
    if len(tasks) == 1 and ray_address is None:
        loaded = load_model(task.model, task.weights, task.random_seed, task.device)
        seen += evaluate_frames(
            loaded.net,
            card,
            dataset,
            total,
            loaded.device,
            execution=task.chosen_execution(loaded),
            save=task.save,
            workers=task.workers,
            on_frame=None if on_progress is None else lambda n: on_progress(n, frames),
        )
    else:
        gpus = 0 if task.device == "cpu" else 1
        for outcome in run_all(evaluate_share, tasks, jobs, ray_address, gpus):
            if outcome.result is None:
                kind = RuntimeError if outcome.is_defect else WorkError
                raise kind(f"an evaluation process failed: {outcome.error}")
            indices, counters = outcome.result
            seen += indices
            add_counters(total, counters)
            if on_progress is not None:
                on_progress(len(seen), frames)
    check_each_once(seen, frames)
    return total.report(card.name)


def evaluate_share(task: EvaluationTask) -> tuple[list[int], Counters]:
    """One process's share of :func:`evaluate`: frames evaluated, and the counters of each part."""
    loaded = load_model(task.model, task.weights, task.random_seed, task.device)
    evaluation = Evaluation(loaded.card.label_set, task.parts, loaded.card.grid)
    seen = evaluate_frames(
        loaded.net,
        loaded.card,
        task.dataset(),
        evaluation,
        loaded.device,
        execution=task.chosen_execution(loaded),
        groups=task.groups,
        save=task.save,
        workers=task.workers,
    )
    return seen, {name: evaluation.part(name).counters() for name in evaluation.metrics}


def add_counters(evaluation: Evaluation, counters: Counters) -> None:
    """Add the counters of another process, for other frames."""
    for name, of_part in counters.items():
        own = evaluation.part(name).counters()
        for counter, value in of_part.items():
            own[counter].add_(value.to(own[counter].device))


@torch.no_grad()
def evaluate_frames(
    net: Network,
    card: ModelCard,
    dataset: SequenceDataset,
    evaluation: Evaluation,
    device: torch.device,
    *,
    execution: Execution = PLAIN,
    groups: Sequence[int] | None = None,
    save: Path | None = None,
    workers: int = 0,
    on_frame: Callable[[int], None] | None = None,
) -> list[int]:
    """Run a network on every frame of some groups, and update the evaluation.

    Args:
        net: in evaluation mode, on ``device``.
        card: its model.
        dataset: frames without augmentation, with what the protocol needs.
        evaluation: updated with each frame's output.
        device: where the network is.
        execution: how it runs.
        groups: numbers of the groups, None = all.
        save: folder for one ``<sequence>/<token>.npz`` per frame, None = nothing is saved.
        workers: processes that load frames in the background.
        on_frame: called with the number of frames so far.

    Returns:
        Positions of the frames, in the order of evaluation.
    """
    order = frame_order(dataset, groups)
    predicted = predict_frames(net, card, dataset, order, device, workers, execution)
    for number, (loaded, outputs) in enumerate(predicted, start=1):
        decoded = download(decode(outputs, card))
        decoded.require_numbers()
        labels = decoded.labels_BXYZ[0]
        flow = None if decoded.flow_BXYZ2 is None else decoded.flow_BXYZ2[0].half()
        evaluation.update(labels, frame_truth(loaded), flow)
        if save is not None:
            _save(save, loaded, labels, flow)
        if on_frame is not None:
            on_frame(number)
    return order


def frame_order(dataset: SequenceDataset, groups: Sequence[int] | None = None) -> list[int]:
    """Positions of the frames of some groups, None = all, group by group in the order of time."""
    runs = group_frames(dataset.groups_F)
    return [i for g in (range(len(runs)) if groups is None else groups) for i in runs[g]]


@torch.no_grad()
def predict_frames(
    net: Network,
    card: ModelCard,
    dataset: SequenceDataset,
    order: Sequence[int],
    device: torch.device,
    workers: int = 0,
    execution: Execution = PLAIN,
) -> Iterator[tuple[Batch, Outputs | Decoded]]:
    """Every frame as a batch of one on the CPU, and what a network makes of it with its history.

    Args:
        net: in evaluation mode, on ``device``.
        card: its model.
        dataset: frames without augmentation.
        order: positions, as from :func:`frame_order`.
        device: where the network is.
        workers: processes that load frames in the background.
        execution: how the network runs.
    """
    run = prepared_step(net, execution)
    loader: DataLoader[Batch] = DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=[[index] for index in order],
        collate_fn=collate,
        num_workers=workers,
    )
    state, position = net.initial_state(1, device), 0
    depth_rate = 1.0 if card.measures_depth else None
    for loaded in loader:
        batch = loaded.to(device)
        position = 0 if bool(loaded.start_B[0]) else position
        inputs = batch.inputs(torch.tensor([position], device=device), depth_rate)
        outputs, state = run(inputs, state)
        position += 1
        yield loaded, outputs


def frame_truth(batch: Batch) -> FrameTruth:
    """The ground truth of a batch of one frame."""

    def only(values: Sequence[Tensor] | Tensor | None) -> Tensor | None:
        return None if values is None else values[0]

    return FrameTruth(
        labels=only(batch.labels_BXYZ),
        camera_mask=only(batch.camera_mask_BXYZ),
        lidar_mask=only(batch.lidar_mask_BXYZ),
        flow=only(batch.flow_BXYZ2),
        lidar_origins=only(batch.lidar_origins),
        name=batch.tokens[0],
    )


def _save(folder: Path, batch: Batch, labels: Tensor, flow: Tensor | None) -> None:
    """Save one frame's output; the file appears only when it is complete."""
    file = folder / batch.sequences[0] / f"{batch.tokens[0]}.npz"
    arrays: dict[str, Any] = {"semantics": labels.numpy()}
    if flow is not None:
        arrays["flow"] = flow.numpy()
    with atomic_path(file) as unfinished:
        np.savez_compressed(unfinished, **arrays)


def _device_of(device: str, number: int) -> str:
    """The GPU of the n-th process, where there are several to choose from."""
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return f"cuda:{number % torch.cuda.device_count()}"
    return device
