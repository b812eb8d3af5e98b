"""CUDA tensors without a GPU and without numbers: shapes, types and devices alone.

Torch's fake tensors run every operation on shapes. A build without CUDA lets them say ``cuda`` once
a device guard is registered for that device; the one of ``cuda_guard.cpp`` does nothing.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.cpp_extension import include_paths

DEVICE = torch.device("cuda", 0)
_GUARD = Path(__file__).with_name("cuda_guard.cpp")


class NoCompilerError(Exception):
    """There is no C++ compiler for the device guard."""


@cache
def register_guard() -> None:
    """Let fake tensors of this process say ``cuda``; does nothing on a machine with CUDA.

    Raises:
        NoCompilerError: it must be compiled, and g++ is not installed.
    """
    if torch.cuda.is_available():
        return
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("g++ is not installed; it compiles the guard for fake CUDA tensors")
    libraries = Path(torch.__file__).parent / "lib"
    with TemporaryDirectory() as folder:
        library = Path(folder) / "cuda_guard.so"
        command = [compiler, "-shared", "-fPIC", "-std=c++20", str(_GUARD), "-o", str(library)]
        command += [f"-I{path}" for path in include_paths()]
        command += [f"-L{libraries}", "-lc10", f"-Wl,-rpath,{libraries}"]
        subprocess.run(command, check=True)
        ctypes.CDLL(str(library))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Tensors made while it is open are fake ones; real tensors may be operands."""
    register_guard()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def put_on_fake_cuda(net: nn.Module) -> None:
    """Replace parameters and buffers by fake CUDA tensors of the same shapes, in place."""
    for part in net.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_on_cuda(parameter), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _on_cuda(buffer)


def _on_cuda(tensor: Any) -> Any:
    return torch.empty_like(tensor, device=DEVICE)
