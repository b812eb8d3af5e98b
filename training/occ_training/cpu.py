"""Training on a CPU: the format that it computes in, and memory that stays."""

from __future__ import annotations

import ctypes
import sys

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
    if precision == "fp32" or (precision == "bf16" and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
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
