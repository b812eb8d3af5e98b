"""Triton kernels in Triton's interpreter: programs in any order, every access to memory watched.

The interpreter runs a program after another with numpy on a CPU. It is chosen by TRITON_INTERPRET=1
before Triton is imported, so files of such tests (``interpreted_*.py``) run in a process of their
own; :func:`run_interpreted` starts it. What it cannot show are races within a program, what a
compiler makes of the kernel, and time.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None,
    reason="Triton is not installed; constraints/torch.txt names the version for a CPU-only torch",
)
_GUARD = 512


def run_interpreted(file: str, *arguments: str) -> None:
    """Run the tests of a file beside this one in the interpreter; fails with what it printed."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", Path(__file__).with_name(file), *arguments],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def guarded(values: Tensor) -> Tensor:
    """A copy with NaN before and behind it in memory."""
    room = torch.full((values.numel() + 2 * _GUARD,), float("nan"), dtype=values.dtype)
    inner = room[_GUARD : _GUARD + values.numel()].view(values.shape)
    return inner.copy_(values)


class Traffic:
    """What launches read and wrote.

    Attributes:
        stored: address of every element written, as often as it was.
        stray: reads outside the tensors that may be read.
        programs: how many ran.
    """

    def __init__(self, readable: Sequence[Tensor]) -> None:
        self.stored: list[np.ndarray[Any, Any]] = []
        self.stray = 0
        self.programs = 0
        self._readable = [(t.data_ptr(), t.data_ptr() + t.nbytes) for t in readable]

    def read(self, addresses: np.ndarray[Any, Any]) -> None:
        """Book one load."""
        inside = [(addresses >= start) & (addresses < end) for start, end in self._readable]
        self.stray += int((~np.any(inside, axis=0)).sum())

    def assert_written_once(self, *outputs: Tensor) -> None:
        """Whether every element of the outputs was written once, and nothing else at all."""
        wanted = [t.data_ptr() + t.element_size() * np.arange(t.numel()) for t in outputs]
        stored = np.sort(np.concatenate(self.stored).astype(np.int64))
        np.testing.assert_array_equal(stored, np.sort(np.concatenate(wanted)))


@contextmanager
def watched(*readable: Tensor, seed: int = 0) -> Iterator[Traffic]:
    """Book the traffic of the launches inside, whose programs run in a random order."""
    from triton.runtime.interpreter import interpreter_builder as builder

    traffic = Traffic(readable)
    load, store, set_program = (
        builder.create_masked_load,
        builder.create_masked_store,
        builder.set_grid_idx,
    )
    order: Iterator[tuple[int, ...]] = iter(())

    def masked_load(pointers: Any, mask: Any, *rest: Any) -> Any:
        traffic.read(pointers.data[mask.data])
        return load(pointers, mask, *rest)

    def masked_store(pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        traffic.stored.append(np.array(pointers.data[mask.data]))
        return store(pointers, value, mask, *rest)

    def set_shuffled_program(*program: int) -> None:
        nonlocal order
        if program == (0, 0, 0):
            programs = list(itertools.product(*map(range, builder.grid_dim)))
            random.Random(seed).shuffle(programs)
            order = iter(programs)
        traffic.programs += 1
        set_program(*next(order))

    with (
        patch.object(builder, "create_masked_load", masked_load),
        patch.object(builder, "create_masked_store", masked_store),
        patch.object(builder, "set_grid_idx", set_shuffled_program),
    ):
        yield traffic
