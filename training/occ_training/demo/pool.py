"""Frames that other processes render while the trainer trains."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from occ_perception.errors import OccError
from occ_perception.models.zoo import ModelCard
from occ_training.demo.frames import Clip, TownFrame, render_clip

_PATIENCE_S = 300.0


class RenderError(OccError):
    """Clips could not be rendered; the text names the first."""


class FramePool:
    """Clips in the order they were asked for, each there as soon as it is rendered.

    A clip that cannot be rendered is listed in ``failures``; the others come all the same.

    Args:
        clips: what to render; none starts no process.
        card: model the frames are for.
        processes: that render, at low priority; 0 renders in this process, when a clip is first
            needed.
        together: so many consecutive clips go to one process (those of a town, which is built
            once then).
    """

    def __init__(
        self, clips: Sequence[Clip], card: ModelCard, processes: int, together: int = 1
    ) -> None:
        self.clips = tuple(clips)
        self.failures: list[str] = []
        self._render = partial(_numbered, card=card)
        self._done: dict[int, list[TownFrame]] = {}
        self._order: list[int] = []
        self._together = together
        self._changed = threading.Condition()
        self._workers: Any = None
        if processes and self.clips:
            # Fresh processes: a fork of one that uses a GPU or threads would not be safe.
            self._workers = multiprocessing.get_context("spawn").Pool(processes, _stand_back)
            threading.Thread(target=self._collect, name="frame pool", daemon=True).start()

    def __enter__(self) -> FramePool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._workers.terminate()
            self._workers.join()

    def __len__(self) -> int:
        """Clips that are there."""
        with self._changed:
            return len(self._order)

    def ready(self, position: int) -> list[TownFrame]:
        """The clip that came ``position``-th, whichever of the clips it is."""
        with self._changed:
            return self._done[self._order[position]]

    def wait_for(self, count: int) -> None:
        """Until at least ``count`` clips are there, or all.

        Raises:
            RenderError: so many cannot be rendered, or none came for minutes.
        """
        count = min(count, len(self.clips))
        while self._workers is None and len(self) < count and self._tried < len(self.clips):
            self._keep(*self._render((self._tried, self.clips[self._tried])))
        with self._changed:
            while len(self._order) < count:
                if self._tried == len(self.clips):
                    raise RenderError(
                        f"{len(self.failures)} of {len(self.clips)} clips could not be rendered, "
                        f"{count} are needed; the first: {self.failures[0]}"
                    )
                if not self._changed.wait(_PATIENCE_S):
                    raise RenderError(
                        f"no clip came for {_PATIENCE_S:.0f} s, {len(self._order)} of {count} are "
                        "there; if a process was killed for its memory, give fewer --processes"
                    )

    @property
    def _tried(self) -> int:
        return len(self._order) + len(self.failures)

    def _collect(self) -> None:
        for number, result in self._workers.imap_unordered(
            self._render, list(enumerate(self.clips)), chunksize=self._together
        ):
            self._keep(number, result)

    def _keep(self, number: int, result: list[TownFrame] | str) -> None:
        with self._changed:
            if isinstance(result, str):
                self.failures.append(result)
            else:
                self._done[number] = result
                self._order.append(number)
            self._changed.notify_all()


def _stand_back() -> None:
    """The trainer's process must never wait for those that render."""
    import torch

    torch.set_num_threads(1)
    os.nice(10)


def _numbered(job: tuple[int, Clip], card: ModelCard) -> tuple[int, list[TownFrame] | str]:
    """The number of the clip, and its frames or why there are none."""
    number, clip = job
    try:
        return number, render_clip(clip, card)
    except Exception as error:
        return number, f"{clip}: {type(error).__name__}: {error}"
