"""Frame sets that could not be processed: counted by kind, said, and reported."""

from __future__ import annotations

import re
import threading
import time
import traceback
from collections import Counter

import torch
from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.errors import is_out_of_memory, sentence_for
from occ_perception.models.postprocess import NotFiniteError

_LOG_EVERY_S = 5.0
# What errors of torch's devices begin with where they have no class of their own.
_DEVICE_ERROR = re.compile(r"(CUDA|cuDNN|cuBLAS|HIP)\b.*error", re.IGNORECASE)


class Failures:
    """Counts by kind; any thread may call any method.

    Args:
        logger: of the node; it gets each kind at most every 5 s.

    Attributes:
        last: why the last frame set was dropped; "" after one that was processed.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._said_at: dict[str, float] = {}
        self.last = ""

    def add(self, kind: str, text: str) -> None:
        """Count a frame set that is dropped, and say why."""
        now = time.monotonic()
        with self._lock:
            self._counts[kind] += 1
            self.last = text.splitlines()[0]
            is_due = now - self._said_at.get(kind, -_LOG_EVERY_S) >= _LOG_EVERY_S
            if is_due:
                self._said_at[kind] = now
        if is_due:
            self._logger.error(f"frame set dropped: {text}")

    def figures(self) -> dict[str, int]:
        """Counts for diagnostics."""
        with self._lock:
            kinds = {
                f"frame_sets_failed_{kind}": count for kind, count in sorted(self._counts.items())
            }
            return {"frame_sets_failed": self._counts.total(), **kinds}


def fault_of(error: Exception) -> tuple[str, str]:
    """The kind that an unexpected error is counted under, and what is said about it."""
    told = str(error).strip().splitlines()
    first = told[0] if told else type(error).__name__
    if isinstance(error, NotFiniteError):
        return "not_finite", str(error)
    if is_out_of_memory(error):
        return "out_of_memory", f"{sentence_for(error)} ({first})"
    if isinstance(error, OverflowError):
        return "overflow", f"a number is too large: {first}\n{traceback.format_exc()}"
    if _is_of_device(error):
        return "device", f"the device failed ({first}); if this goes on, start the node again"
    return type(error).__name__, f"{error}\n{traceback.format_exc()}"


def _is_of_device(error: Exception) -> bool:
    own_class = getattr(torch, "AcceleratorError", ())  # torch 2.8 and later
    return isinstance(error, own_class) or (
        isinstance(error, RuntimeError) and _DEVICE_ERROR.match(str(error)) is not None
    )
