"""The one place that decides which implementation of a heavy operation runs.

Networks import operations from here and nowhere else. Every operation is defined by its readable
reference; a faster twin has the same signature and is tested against it.
"""

from functools import cache
from importlib.util import find_spec

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
from occ_perception.ops.history_warp import moved_voxels, voxel_motion
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
from occ_perception.ops.stereo_cost import reference as _stereo_reference

__all__ = [
    "Corners",
    "LinearMap",
    "SceneLayer",
    "Views",
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
    "voxel_motion",
]


def stereo_cost(
    current_nChw: Tensor, previous_nChw: Tensor, position_nhwD2: Tensor, outside_cost: float
) -> Tensor:
    """See :func:`occ_perception.ops.stereo_cost.reference.stereo_cost`."""
    arguments = (current_nChw, previous_nChw, position_nhwD2, outside_cost)
    if all(_is_plain(tensor) for tensor in arguments[:3]) and _has_numba():
        from occ_perception.ops.stereo_cost import numba

        return numba.stereo_cost(*arguments)
    return _stereo_reference.stereo_cost(*arguments)


def _is_plain(tensor: Tensor) -> bool:
    """Whether compiled loops can read it: in main memory, single precision, no tracing subclass."""
    return type(tensor) is Tensor and tensor.device.type == "cpu" and tensor.dtype == torch.float32


@cache
def _has_numba() -> bool:
    return find_spec("numba") is not None
