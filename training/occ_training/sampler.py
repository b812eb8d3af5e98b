"""The frame of every batch slot at every training step, and the shares of evaluation processes.

A *group* is a run of frames that share a history. In training every slot of the global batch walks
through one group after the other, frame by frame, independent of the distribution of slots over
processes. In evaluation every group belongs to one process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from occ_training.data.dataset import Visit
from occ_training.data.records import DatasetError
from occ_training.data.sample import Sample

Groups = Sequence[Sequence[int]]


class SequenceDataset(Protocol):
    """Frames in groups, for training and evaluation.

    Attributes:
        groups_F: (frames,) int64 number of each frame's group; the frames of a group are
            consecutive and in time order.
    """

    groups_F: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of frames."""

    def __getitem__(self, item: int | Visit) -> Sample:
        """A frame; its augmentation depends on the number of the visit."""


def group_frames(groups_F: NDArray[np.int64]) -> list[range]:
    """Positions of the frames of each group, in their order."""
    borders = np.flatnonzero(np.diff(groups_F)) + 1
    ends = [*borders.tolist(), len(groups_F)]
    return [range(first, end) for first, end in zip([0, *borders.tolist()], ends, strict=True)]


class SlotSampler:
    """A batch sampler: for each step the frames of this process's slots.

    All slots share one endless stream of random permutations of the groups; slot j takes its
    elements j, j + slots, j + 2 slots, ... (the schedule of StreamPETR, arXiv 2303.11926).

    Args:
        groups: of the data set.
        slots: of the global batch.
        mine: the slots of this process.
        seed: of the permutations.
        first_step, last_step: range of steps; a resumed run starts in the middle.

    Raises:
        DatasetError: there are fewer groups than slots: two slots would share a group.
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
            raise DatasetError(
                f"the data set has {len(groups)} groups of frames for {slots} batch slots; "
                "each slot needs its own. Use a smaller global batch, more sequences, or "
                "more pieces per sequence (`splits`)"
            )
        self._groups = groups
        self._slots = slots
        self._mine = mine
        self._seed = seed
        self._steps = range(first_step, last_step)

    def __len__(self) -> int:
        return self._steps.stop  # of the whole run, for progress bars

    def __iter__(self) -> Iterator[list[Visit]]:
        walks = [islice(self.walk(slot), self._steps.start, None) for slot in self._mine]
        for step in self._steps:
            yield [Visit(next(walk), step) for walk in walks]

    def walk(self, slot: int) -> Iterator[int]:
        """Endless iterator over the frames of one slot of the global batch."""
        for group in islice(self._permutations(), slot, None, self._slots):
            yield from self._groups[group]

    def _permutations(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed)
        while True:
            yield from torch.randperm(len(self._groups), generator=generator).tolist()


def seed_of(*numbers: int) -> int:
    """A 32-bit seed from these numbers, the same on every machine."""
    return zlib.crc32(",".join(map(str, numbers)).encode())


def shares(groups: Groups, count: int) -> list[list[int]]:
    """Group numbers for ``count`` processes: each group once, with balanced loads.

    The longest group goes to the least loaded process, and so on; ties go to the lower number.
    """
    loads = [0] * count
    taken: list[list[int]] = [[] for _ in range(count)]
    for group in sorted(range(len(groups)), key=lambda g: -len(groups[g])):
        process = loads.index(min(loads))
        loads[process] += len(groups[group])
        taken[process].append(group)
    return [sorted(share) for share in taken]


def check_each_once(seen: Sequence[int], frames: int) -> None:
    """Check that every frame was evaluated exactly once.

    Raises:
        RuntimeError: one was not; the message lists frames that are missing or repeated.
    """
    counts = np.bincount(np.asarray(seen, dtype=np.int64), minlength=frames)
    missing, repeated = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
    if len(counts) > frames or len(missing) or len(repeated):
        raise RuntimeError(
            f"evaluation processed {len(seen)} frames of {frames}: missing "
            f"{missing[:10].tolist()}, repeated {repeated[:10].tolist()}, beyond the end "
            f"{np.flatnonzero(counts[frames:])[:10].tolist()}; the scores would be wrong"
        )
