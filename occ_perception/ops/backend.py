"""The one place that decides which implementation of a heavy operation runs.

Networks import operations from here and nowhere else. Every operation is defined by its readable
reference; a faster twin has the same signature and is tested against it.
"""

from occ_perception.ops.history_warp.reference import cell_motion, moved_cells, sample_cells
from occ_perception.ops.occlusion_transfer.reference import occlusion_transfer
from occ_perception.ops.soft_splat.reference import soft_splat

__all__ = ["cell_motion", "moved_cells", "occlusion_transfer", "sample_cells", "soft_splat"]
