"""The one place that decides which implementation of a heavy operation runs.

Networks import operations from here and nowhere else. Every operation is defined by its readable
reference; a faster twin has the same signature and is tested against it.
"""

from occ_perception.ops.displacement_gradient.reference import displacement_gradient
from occ_perception.ops.history_warp.reference import cell_motion, moved_cells
from occ_perception.ops.linear_sampling.reference import Corners, linear_corners, sample_rows
from occ_perception.ops.occlusion_transfer.reference import occlusion_transfer
from occ_perception.ops.scene_update.reference import (
    SceneLayer,
    scene_apply,
    scene_gradient,
)
from occ_perception.ops.soft_splat.reference import soft_splat
from occ_perception.ops.stereo_cost.reference import stereo_cost

__all__ = [
    "Corners",
    "SceneLayer",
    "cell_motion",
    "displacement_gradient",
    "linear_corners",
    "moved_cells",
    "occlusion_transfer",
    "sample_rows",
    "scene_apply",
    "scene_gradient",
    "soft_splat",
    "stereo_cost",
]
