"""What a demonstration is given, and what a run through the network brings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from occ_perception.errors import OccError

UNTRAINED = (
    "The network is untrained: its weights are random. The classes in its output mean nothing. The "
    "demonstration shows only how data flows from images to occupancy."
)


class DemoError(OccError):
    """The demonstration cannot run; the text says why."""


@dataclass
class Setting:
    """Settings of a demonstration.

    Attributes:
        bag: rosbag2 to play.
        model: name of the network.
        weights: its checkpoint; "" = random weights.
        seed: seed of random weights.
        device: see the node's parameter.
        lockstep: wait for every output instead of playing by time. Ignored for bags whose images
            have no stamps; they need a running /clock.
        output_timeout_s: how long to wait for an output in lockstep.
        layout: name or path; "" = recognise it.
        out: output folder.
    """

    bag: Path
    model: str
    weights: str
    seed: int
    device: str
    lockstep: bool
    output_timeout_s: float
    layout: str
    out: Path


@dataclass(frozen=True)
class Played:
    """Result of a run.

    Attributes:
        recorded: bag with the outputs; None if there were none.
        stamps_ns: of the grids, ascending.
        frame_sets: number of frame sets of the bag.
        without_output: the frame sets without an output, in words.
        latencies_ms: per grid, as ``latency_is`` says.
        latency_is: between which moments.
        drops: reason -> number of frame sets dropped for it; "?" = not reported.
        how: how the bag was played.
    """

    recorded: Path | None
    stamps_ns: list[int]
    frame_sets: int
    without_output: list[str]
    latencies_ms: list[float]
    latency_is: str
    drops: dict[str, str]
    how: str

    @property
    def grids(self) -> int:
        """Number of grids."""
        return len(self.stamps_ns)

    @property
    def rate_hz(self) -> float:
        """Grids per second of the bag's time; 0 if that is unknown."""
        stamps = self.stamps_ns
        if len(stamps) < 2 or stamps[-1] <= stamps[0]:
            return 0.0
        return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0])


@dataclass(frozen=True)
class Counted:
    """A progress bar with a total and the time that is left."""

    progress: Progress
    task: TaskID

    def at(self, done: int) -> None:
        """Show how many are done."""
        self.progress.update(self.task, completed=done)


@contextmanager
def counted(what: str, total: int | None) -> Iterator[Counted]:
    """Show progress on something that takes long; gone from the terminal when it ends.

    Args:
        what: a noun.
        total: how many there are; None = not known yet.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as progress:
        yield Counted(progress, progress.add_task(what, total=total))
