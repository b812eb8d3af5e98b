"""Which frame every batch slot sees in every step, and which process evaluates which sequence.

A *group* is a run of frames that share a history. In training every slot of the global batch walks
through one group after the other, frame by frame; nothing here depends on how the slots are spread
over processes. In evaluation every group belongs to one process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from occ_training.data.sample import Sample

Groups = Sequence[Sequence[int]]


class SequenceDataset(Protocol):
    """Frames that training and evaluation can walk through.

    Attributes:
        groups: positions of the frames of every group, in the order of time. Every frame is in
            exactly one.
    """

    groups: Groups

    def __len__(self) -> int:
        """Number of frames."""

    def sample(self, index: int, rng: np.random.Generator | None = None) -> Sample:
        """Frame ``index``; augmented from ``rng`` where the data set augments, plain without."""


class Draw(NamedTuple):
    """One frame to be loaded.

    Attributes:
        index: of the frame.
        seed: of its augmentation.
    """

    index: int
    seed: int


class SlotStreams:
    """A batch sampler: step after step, the frames of this process's slots.

    All slots share one endless stream of random permutations of the groups; slot j takes its
    elements j, j + slots, j + 2 slots, ... (the schedule of StreamPETR, arXiv 2303.11926).

    Args:
        groups: of the data set.
        slots: of the global batch.
        mine: those of this process.
        seed: of permutations and augmentation.
        first_step, last_step: the steps to give; a run that goes on begins in the middle.

    Raises:
        ValueError: there are fewer groups than slots: a group would be walked twice at once.
    """

    def __init__(
        self,
        groups: Groups,
        slots: int,
        mine: range,
        seed: int,
        first_step: int,
        last_step: int,
    ) -> None:
        if len(groups) < slots:
            raise ValueError(
                f"the data set has {len(groups)} groups of frames for {slots} batch slots; "
                "each slot needs one of its own. Use a smaller global batch, more sequences, or "
                "cut sequences into more pieces"
            )
        self._groups = groups
        self._slots = slots
        self._mine = mine
        self._seed = seed
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Draw]]:
        walks = [islice(self.walk(slot), self._steps.start, None) for slot in self._mine]
        for step in self._steps:
            yield [
                Draw(next(walk), seed_of(self._seed, step, slot))
                for slot, walk in zip(self._mine, walks, strict=True)
            ]

    def walk(self, slot: int) -> Iterator[int]:
        """Frames of one slot of the global batch, without end."""
        for group in islice(self._permutations(), slot, None, self._slots):
            yield from self._groups[group]

    def _permutations(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(len(self._groups), generator=generator).tolist()


class DrawnSamples(Dataset[Sample]):
    """A data set addressed by :class:`Draw`, for data loaders.

    Args:
        dataset: where samples come from.
    """

    def __init__(self, dataset: SequenceDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, draw: Draw) -> Sample:
        return self._dataset.sample(draw.index, np.random.default_rng(draw.seed))


def seed_of(*numbers: int) -> int:
    """A seed of 32 bits that belongs to these numbers, the same on every machine."""
    return zlib.crc32(",".join(map(str, numbers)).encode())


def shares(groups: Groups, count: int) -> list[list[int]]:
    """Group numbers for ``count`` processes: each group once, loads as even as groups allow.

    The longest group goes to the least loaded process, and so on; ties to the lower number.
    """
    loads = [0] * count
    taken: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(range(len(groups)), key=lambda g: -len(groups[g])):
        process = loads.index(min(loads))
        loads[process] += len(groups[group])
        taken[process].append(group)
    return [sorted(share) for share in taken]


def check_each_once(seen: Sequence[int], frames: int) -> None:
    """See that evaluation looked at every frame exactly once.

    Raises:
        RuntimeError: it did not; the message says which frames are missing or were seen twice.
    """
    counts = np.bincount(np.asarray(seen, dtype=np.int64), minlength=frames)
    missing, repeated = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
    if len(counts) > frames or len(missing) or len(repeated):
        raise RuntimeError(
            f"evaluation saw {len(seen)} frames of {frames}: missing {missing[:10].tolist()}, "
            f"seen twice {repeated[:10].tolist()}, beyond the end "
            f"{np.flatnonzero(counts[frames:])[:10].tolist()}; the scores would be wrong"
        )
