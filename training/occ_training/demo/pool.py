"""Frames that other processes render while the trainer trains."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from occ_perception.models.zoo import ModelCard
from occ_training.demo.frames import Clip, TownFrame, render_clip


class RenderError(RuntimeError):
    """A clip could not be rendered; the text names it."""


class FramePool:
    """Clips in the order they were asked for, each there as soon as it is rendered.

    Args:
        clips: what to render; ``pool[n]`` is the n-th of them.
        card: model the frames are for.
        processes: that render; 0 renders in this process, when a clip is first needed.
        together: so many consecutive clips go to one process (those of a town, which is built
            once then).
    """

    def __init__(
        self, clips: Sequence[Clip], card: ModelCard, processes: int, together: int = 1
    ) -> None:
        self.clips = tuple(clips)
        self._render = partial(_numbered, card=card)
        self._done: dict[int, list[TownFrame]] = {}
        self._order: list[int] = []
        self._failure: BaseException | None = None
        self._together = together
        self._changed = threading.Condition()
        self._workers: Any = None
        if processes:
            # Fresh processes: a fork of one that uses a GPU or threads would not be safe.
            self._workers = multiprocessing.get_context("spawn").Pool(processes, _one_thread)
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
        """Until at least ``count`` clips are there.

        Raises:
            RenderError: a clip failed.
        """
        count = min(count, len(self.clips))
        while self._workers is None and len(self._order) < count:
            self._keep(*self._render((len(self._order), self.clips[len(self._order)])))
        with self._changed:
            self._changed.wait_for(lambda: len(self._order) >= count or self._failure is not None)
        if self._failure is not None:
            raise RenderError(f"rendering failed: {self._failure}") from self._failure

    def _collect(self) -> None:
        try:
            for number, frames in self._workers.imap_unordered(
                self._render, list(enumerate(self.clips)), chunksize=self._together
            ):
                self._keep(number, frames)
        except BaseException as error:  # whoever waits must hear of it
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _keep(self, number: int, frames: list[TownFrame]) -> None:
        with self._changed:
            self._done[number] = frames
            self._order.append(number)
            self._changed.notify_all()


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _numbered(job: tuple[int, Clip], card: ModelCard) -> tuple[int, list[TownFrame]]:
    number, clip = job
    try:
        return number, render_clip(clip, card)
    except Exception as error:
        raise RuntimeError(f"{clip}: {type(error).__name__}: {error}") from error
