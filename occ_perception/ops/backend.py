"""The one place that decides which implementation of a heavy operation runs.

Networks import operations from here and nowhere else. Every operation is defined by its readable
reference; a faster twin has the same signature and is tested against it. The last lines say which
operations have one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from sysconfig import get_path
from typing import ParamSpec

import torch
from torch import Tensor

from occ_perception.ops.adaptive_mixing import LinearMap, adaptive_mixing
from occ_perception.ops.deformable import deformable_attention, deformable_conv, sample_bins
from occ_perception.ops.gradient_steps import (
    SceneLayer,
    displacement_gradient,
    scene_apply,
    scene_gradient,
)
from occ_perception.ops.history_warp import VoxelFrame, moved_voxels, voxel_frame, voxel_motion
from occ_perception.ops.occlusion_transfer import occlusion_transfer
from occ_perception.ops.sampling import (
    Corners,
    Views,
    first_views,
    linear_corners,
    row_parts,
    sample_rows,
    sample_views,
)
from occ_perception.ops.splat import grouped_soft_splat, hard_splat, soft_splat
from occ_perception.ops.stereo_cost import stereo_cost as _stereo_cost

__all__ = [
    "Corners",
    "LinearMap",
    "SceneLayer",
    "Views",
    "VoxelFrame",
    "adaptive_mixing",
    "deformable_attention",
    "deformable_conv",
    "displacement_gradient",
    "first_views",
    "grouped_soft_splat",
    "hard_splat",
    "linear_corners",
    "moved_voxels",
    "occlusion_transfer",
    "references_alone",
    "row_parts",
    "sample_bins",
    "sample_rows",
    "sample_views",
    "scene_apply",
    "scene_gradient",
    "soft_splat",
    "stereo_cost",
    "voxel_frame",
    "voxel_motion",
]


P = ParamSpec("P")

_HAS_NUMBA = find_spec("numba") is not None
# Triton builds what launches a kernel, with a C compiler and the headers of Python; compilers of
# graphs see kernels that torch knows as operations.
_HAS_TRITON = (
    find_spec("triton") is not None
    and any(map(which, ("gcc", "clang")))
    and Path(get_path("include"), "Python.h").is_file()
    and hasattr(torch.library, "wrap_triton")
    and hasattr(torch.compiler, "is_exporting")
)
_references_alone = False


@contextmanager
def references_alone() -> Iterator[None]:
    """Every operation of this process by its readable reference, while it is open."""
    global _references_alone
    before, _references_alone = _references_alone, True
    try:
        yield
    finally:
        _references_alone = before


def _with_twins(
    reference: Callable[P, Tensor], *, numba: str | None = None, triton: str | None = None
) -> Callable[P, Tensor]:
    """The operation by the fastest implementation that can take its tensors, else its reference.

    Exporters always see the reference: what they write runs where our kernels are not.

    Args:
        reference: defines the operation.
        numba: module of a function of the same name in compiled loops, for a CPU.
        triton: module that registers one with torch which launches a kernel, for a GPU. Modules
            are imported when they first run.
    """

    @wraps(reference)
    def operation(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if _references_alone:
            return reference(*args, **kwargs)
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        name = reference.__name__
        twin: Callable[P, Tensor] = reference
        if _HAS_NUMBA and numba and all(_suits_loops(tensor) for tensor in tensors):
            twin = getattr(import_module(numba), name)
        elif _may_launch() and triton and all(_suits_a_kernel(tensor) for tensor in tensors):
            _import(triton)
            twin = getattr(torch.ops.occ_perception, name)
        return twin(*args, **kwargs)

    return operation


@torch.compiler.assume_constant_result
def _import(module: str) -> None:
    """Compilers of graphs call this instead of tracing into the import."""
    import_module(module)


def _suits_loops(tensor: Tensor) -> bool:
    """Whether compiled loops can read a tensor: in main memory, in single precision, without a
    gradient to pass on, and of no tracing subclass."""
    return (
        type(tensor) is Tensor
        and tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and not _wants_gradient(tensor)
    )


def _suits_a_kernel(tensor: Tensor) -> bool:
    """Whether a kernel can read a tensor: on a GPU, in single or half precision, without a gradient
    to pass on. Compilers trace kernels, so a tracing subclass is none of its concern."""
    return (
        tensor.device.type == "cuda"
        and tensor.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and not _wants_gradient(tensor)
    )


def _may_launch() -> bool:
    if not _HAS_TRITON or torch.compiler.is_exporting():
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


def _wants_gradient(tensor: Tensor) -> bool:
    return tensor.requires_grad and torch.is_grad_enabled()


stereo_cost = _with_twins(
    _stereo_cost,
    numba="occ_perception.ops.stereo_cost_numba",
    triton="occ_perception.ops.stereo_cost_triton",
)
