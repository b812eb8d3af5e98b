"""A CUDA device without a GPU: its tensors have shapes and types, and no numbers.

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
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.cpp_extension import include_paths

DEVICE = torch.device("cuda", 0)
_GUARD = Path(__file__).with_name("cuda_guard.cpp")


class NoCompilerError(Exception):
    """There is no C++ compiler for the device guard."""


@cache
def register_guard() -> None:
    """Let fake tensors of this process say ``cuda``; does nothing on a machine with CUDA.

    Raises:
        NoCompilerError: the guard must be compiled, and g++ is not installed.
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
    """Tensors of the device that are made while it is open are fake, those of the host are real.

    So the host computes as always. What it reads from the device is zero. Page-locked memory is
    ordinary memory here, and waiting for the device does nothing.
    """
    register_guard()
    without_wait = patch("torch.cuda.synchronize", lambda *_: None)
    with FakeTensorMode(allow_non_fake_inputs=True), _RealHost(), without_wait:
        yield


class _RealHost(TorchDispatchMode):
    """Runs what concerns the host alone with numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves = tree_leaves((args, kwargs))
        fakes = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
        devices = {leaf.type for leaf in leaves if isinstance(leaf, torch.device)}
        if func is torch.ops.aten._local_scalar_dense.default and fakes:
            with unset_fake_temporarily():
                return torch.zeros((), dtype=fakes[0].dtype).item()
        if not fakes and "cuda" not in devices:
            kwargs.pop("pin_memory", None)
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        output = func(*args, **kwargs)
        if isinstance(output, Tensor) and output.device.type == "cpu":  # down from the device
            with unset_fake_temporarily():
                return torch.zeros(output.shape, dtype=output.dtype)
        return output


def put_on_fake_cuda(net: nn.Module) -> None:
    """Replace parameters and buffers by tensors of the device of the same shapes, in place."""
    for part in net.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_on_device(parameter), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _on_device(buffer)


def _on_device(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
