"""Training on a CPU: the format that it computes in, memory that stays, the time that it took."""

from __future__ import annotations

import ctypes
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_UNLIMITED = 2**31 - 1


def is_on_cpu(accelerator: str) -> bool:
    """Whether a run with this accelerator (``auto``, ``cpu``, ``gpu``) is one on CPUs."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def cpu_precision(precision: str) -> str:
    """``fp32`` instead of a half precision that this CPU has no instructions for.

    Without them a convolution in bfloat16 takes ten times as long as one in float32.
    """
    has_bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if precision == "fp32" or (precision == "bf16" and has_bf16):
        return precision
    rank_zero_info(f"this CPU does not compute in {precision}: computing in fp32")
    return "fp32"


def keep_freed_memory() -> None:
    """Let the allocator keep memory that is freed, for the life of this process.

    By default glibc gives every large block back to the system, which then has to clear it again
    at every step: a tenth of the time of a small network. Other allocators are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _UNLIMITED)


class CpuHours(pl.Callback):
    """Logs ``cpu_hours``: of all processes, since the run began, interruptions left out.

    What an interruption undoes does not count: the time stands in the checkpoint.
    """

    def __init__(self) -> None:
        self._before = 0.0
        self._begun = time.process_time()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        """Log the time so far; the processes work alike, so one stands for all."""
        pl_module.log("cpu_hours", self._seconds() * trainer.world_size / 3600.0)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._before = state_dict["seconds"]
        self._begun = time.process_time()

    def _seconds(self) -> float:
        return self._before + time.process_time() - self._begun
