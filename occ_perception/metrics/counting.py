"""The base class of all metrics: integer counters that can be added.

A metric never stores predictions. Its state is int64 sums, so partial results merge by addition,
in any order and grouping, to exactly the same numbers as one pass.

Legend for shapes: B frames, X Y Z voxels of the grid, C classes (free space included).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from typing_extensions import Self

from occ_perception.errors import OccError
from occ_perception.labels import UNKNOWN_CLASS, LabelSet


class MetricsError(OccError):
    """Volumes that cannot be compared, or a score that cannot be computed for them."""


class CountingMetric(nn.Module, ABC):
    """A metric whose state is int64 counters.

    The methods are named as in torchmetrics: ``update`` takes a batch, ``compute`` returns the
    scores, ``merge`` adds another partial result, ``reset`` starts over. As an ``nn.Module`` it
    moves to a device with its parent; its counters are not saved in checkpoints.

    Attributes:
        frames: () int64, frames seen.
    """

    frames: Tensor

    def __init__(self, label_set: LabelSet) -> None:
        super().__init__()
        self.label_set = label_set
        self._counter_names: list[str] = []
        self.add_counter("frames", ())

    def add_counter(self, name: str, shape: tuple[int, ...]) -> None:
        """Declare a counter: int64 zeros of ``shape`` as the attribute ``name``."""
        self.register_buffer(name, torch.zeros(shape, dtype=torch.int64), persistent=False)
        self._counter_names.append(name)

    def counters(self) -> dict[str, Tensor]:
        """This process's counters by name (the live tensors, not copies)."""
        return {name: cast(Tensor, getattr(self, name)) for name in self._counter_names}

    @property
    def device(self) -> torch.device:
        """Device of the counters; inputs are moved there."""
        return self.frames.device

    def signature(self) -> tuple[Any, ...]:
        """Properties that must be equal to merge two partial results."""
        return (type(self).__name__, self.label_set)

    @abstractmethod
    def update(self, *args: Any, **kwargs: Any) -> None:
        """Count a batch of frames; each metric defines its arguments."""

    def merge(self, other: CountingMetric) -> Self:
        """Add the counts of ``other``, seen on different frames; returns self.

        Raises:
            MetricsError: ``other`` counts something else (another metric, label set or grid).
        """
        if self.signature() != other.signature():
            raise MetricsError(
                f"cannot merge {other.signature()} into {self.signature()}: "
                "partial results must come from equal metrics"
            )
        for name, counter in other.counters().items():
            self.counters()[name].add_(counter.to(self.device))
        return self

    def reset(self) -> None:
        """Set all counters to zero."""
        for counter in self.counters().values():
            counter.zero_()

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, 0-d float64 tensors: fractions of 1, velocities in m/s, NaN = no value.

        Scores of one class are called ``score[class]``; ``frames`` is the number of frames. If
        ``torch.distributed`` is initialised, the counts of all processes are summed first (one
        collective call, which every process must make), so every process gets the same scores. The
        counters do not change.
        """
        total = sum_over_processes(self.counters())
        return {**self.scores(total), "frames": total["frames"].double()}

    @abstractmethod
    def scores(self, counters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scores computed from ``counters``; each metric implements this."""


def sum_over_processes(counters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the counters, summed over all processes of the default group, if there is one."""
    packed = torch.cat([counter.reshape(-1) for counter in counters.values()])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(packed)
    pieces = torch.split(packed, [counter.numel() for counter in counters.values()])
    return {
        name: piece.reshape(counter.shape)
        for (name, counter), piece in zip(counters.items(), pieces, strict=True)
    }


def class_ids(
    volume: Any, what: str, label_set: LabelSet, device: torch.device, unknown_allowed: bool
) -> Tensor:
    """Labels (B, X, Y, Z) as int64 on ``device``, checked against the label set.

    Args:
        volume: integer tensor or array.
        what: its name in error messages.
        label_set: the label set.
        device: device of the result.
        unknown_allowed: whether 255 (unlabelled) may occur.

    Raises:
        MetricsError: not four axes, not integers, or an id outside the label set.
    """
    labels = torch.as_tensor(volume)
    if labels.ndim != 4 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise MetricsError(
            f"{what}: expected integer class ids (B, X, Y, Z), got {labels.dtype} "
            f"{tuple(labels.shape)}; a single frame needs a leading axis of 1"
        )
    labels = labels.to(device, torch.int64)
    wrong = (labels < 0) | (labels >= label_set.num_classes)
    if unknown_allowed:
        wrong &= labels != UNKNOWN_CLASS
    if wrong.any():
        raise MetricsError(
            f"{what}: ids {sorted(set(labels[wrong].tolist()))[:8]} are not in label set "
            f"{label_set.name!r} (0..{label_set.num_classes - 1}"
            f"{f', {UNKNOWN_CLASS} = unlabelled' if unknown_allowed else ''}); "
            "map the file's ids to the label set first"
        )
    return labels


def same_shape(preds: Tensor, target: Tensor, what: str = "mask") -> None:
    """Raise MetricsError unless both have one shape."""
    if preds.shape != target.shape:
        raise MetricsError(
            f"prediction has shape {tuple(preds.shape)}, {what} {tuple(target.shape)}; "
            "both must be [X, Y, Z] volumes of one grid with a leading batch axis"
        )


def intersection_over_union(intersection: Tensor, target: Tensor, preds: Tensor) -> Tensor:
    """``I / (G + P - I)`` in float64; NaN where neither volume has the class."""
    return intersection.double() / (target + preds - intersection).double()


def per_class(score: str, names: tuple[str, ...], values: Tensor) -> dict[str, Tensor]:
    """Entries ``score[name]`` for values (len(names),)."""
    return {f"{score}[{name}]": value for name, value in zip(names, values.unbind(), strict=True)}
