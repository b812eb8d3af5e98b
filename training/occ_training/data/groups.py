"""The frames of an index that a model can use, and the groups of frames that share a history."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from occ_training.data.index import DatasetIndex
from occ_training.data.records import DatasetError, FrameRecord

# A gap of more than this many median frame spacings starts a new history. Key frames of nuScenes
# jitter by a fifth.
_LONGEST_GAP = 2.5


@dataclass(frozen=True)
class LeftOut:
    """Frames that a model cannot use.

    Attributes:
        reasons: what frames lack -> number of frames that lack it.
        tokens: of the frames.
    """

    reasons: dict[str, int]
    tokens: tuple[str, ...]

    def summary(self, frames: int) -> str:
        """One line of text; empty if nothing was left out."""
        if not self.tokens:
            return ""
        reasons = ", ".join(f"{what} in {count}" for what, count in sorted(self.reasons.items()))
        return f"left out {len(self.tokens)} of {frames} frames: no {reasons}"


def usable_frames(
    index: DatasetIndex,
    cameras: Sequence[str],
    labels: Sequence[str] = (),
    points: bool = False,
    point_classes: bool = False,
    lidar_pose: bool = False,
) -> tuple[DatasetIndex, LeftOut]:
    """The frames that have everything requested, and what the others lack.

    Raises:
        DatasetError: no frame has everything; the message says what they lack.
    """
    kept, tokens = [], []
    reasons: Counter[str] = Counter()
    for frame in index.frames:
        lacking = [name for name in cameras if name not in frame.cameras]
        lacking += [f"{key} labels" for key in labels if key not in frame.labels]
        lidar = frame.lidar
        if points and (lidar is None or lidar.points is None):
            lacking.append("lidar points")
        if point_classes and (lidar is None or lidar.semantics is None):
            lacking.append("classes of lidar points")
        if lidar_pose and lidar is None:
            lacking.append("lidar pose")
        if lacking:
            reasons.update(lacking)
            tokens.append(frame.token)
        else:
            kept.append(frame)
    left_out = LeftOut(dict(reasons), tuple(tokens))
    if not kept:
        raise DatasetError(
            f"data set {index.header.name} at {index.root} has no frame for this model: "
            f"{left_out.summary(len(index)) or 'it is empty'}"
        )
    return replace(index, frames=tuple(kept)), left_out


def history_groups(frames: Sequence[FrameRecord], pieces: int = 1) -> np.ndarray:
    """(frames,) int64 number of the group with which each frame shares its history, ascending.

    A recording is a group. It is cut at long gaps, and into ``pieces`` parts of
    ``ceil(n / pieces)`` frames (``sequences_split_num`` of the reference code).
    """
    spacing_ns = _usual_spacing_ns(frames)
    runs: list[int] = []
    for position, frame in enumerate(frames):
        before = frames[position - 1] if position else None
        continues = (
            before is not None
            and before.sequence == frame.sequence
            and frame.stamp_ns - before.stamp_ns <= _LONGEST_GAP * spacing_ns
        )
        if continues:
            runs[-1] += 1
        else:
            runs.append(1)
    groups: list[int] = []
    for length in runs:
        number = groups[-1] + 1 if groups else 0
        piece = math.ceil(length / pieces)
        groups += [number + position // piece for position in range(length)]
    return np.array(groups, dtype=np.int64)


def _usual_spacing_ns(frames: Sequence[FrameRecord]) -> float:
    gaps = [
        after.stamp_ns - before.stamp_ns
        for before, after in itertools.pairwise(frames)
        if before.sequence == after.sequence
    ]
    return float(np.median(gaps)) if gaps else math.inf
