"""The one place that decides which implementation of a heavy operation runs.

Networks import operations from here and nowhere else. Every operation is defined by its readable
reference; a faster twin has the same signature and is tested against it. The last lines say which
operations have one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec

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


def _or_compiled(reference: Callable[P, Tensor], module: str) -> Callable[P, Tensor]:
    """The operation in compiled loops where they can read its tensors, else its reference.

    Args:
        reference: defines the operation.
        module: has a function of the same name, written with numba; imported when it first runs.
    """

    @wraps(reference)
    def operation(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if all(_is_readable(value) for value in (*args, *kwargs.values())) and _has_numba():
            compiled: Callable[P, Tensor] = getattr(import_module(module), reference.__name__)
            return compiled(*args, **kwargs)
        return reference(*args, **kwargs)

    return operation


def _is_readable(value: Any) -> bool:
    """Whether compiled loops can read an argument: any number; tensors in main memory, in single
    precision, without a gradient to pass on, and of no tracing subclass."""
    if not isinstance(value, Tensor):
        return True
    return (
        type(value) is Tensor
        and value.device.type == "cpu"
        and value.dtype == torch.float32
        and not (value.requires_grad and torch.is_grad_enabled())
    )


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None


stereo_cost = _or_compiled(_stereo_cost, "occ_perception.ops.stereo_cost_numba")
