"""Triton kernels compiled for GPUs that need not be there, and what the compiler made of them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

# Shared memory that one block may ask for, in bytes, by compute capability (CUDA C++ Programming
# Guide, "Technical Specifications per Compute Capability"): H200, RTX 40 and Jetson Orin.
SHARED_MEMORY = {90: 232448, 89: 101376, 87: 166912}
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Compiled:
    """A kernel for one architecture.

    Attributes:
        registers: per lane.
        stack: bytes per lane in local memory, where registers that do not fit are spilled.
        shared: bytes per block.
        ptx: its assembly, before ptxas.
        sass: its machine code, disassembled.
    """

    registers: int
    stack: int
    shared: int
    ptx: str
    sass: str


def compile_kernel(
    kernel: Any,
    types: dict[str, str],
    constants: dict[str, int],
    capability: int,
    folder: Path,
    **options: Any,
) -> Compiled:
    """A kernel as it is launched with pointers from torch, which are aligned to 16 bytes.

    Args:
        kernel: decorated with ``triton.jit``.
        types: Triton's type of each argument that is no constant, ``*fp32`` for a pointer.
        constants: the others.
        capability: 90 for 9.0.
        folder: for the machine code.
        options: of the launch, ``num_warps`` for example.
    """
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    pointers = [i for i, name in enumerate(signature) if signature[name].startswith("*")]
    source = ASTSource(
        kernel, signature, constants, {(i,): [["tt.divisibility", 16]] for i in pointers}
    )
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    binary = folder / "kernel.cubin"
    binary.write_bytes(made.asm["cubin"])
    usage = _tool("cuobjdump", "-res-usage", binary)
    (registers,) = re.findall(r"REG:(\d+)", usage)
    (stack,) = re.findall(r"STACK:(\d+)", usage)
    return Compiled(
        int(registers),
        int(stack),
        made.metadata.shared,
        made.asm["ptx"],
        _tool("nvdisasm", "-c", binary),
    )


def _tool(name: str, *arguments: str | Path) -> str:
    run = subprocess.run([_TOOLS / name, *arguments], capture_output=True, text=True, check=True)
    return run.stdout + run.stderr
