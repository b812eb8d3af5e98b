"""Metrics of occupancy predictions: voxel and ray scores of published protocols, flow errors.

Needs torch and numpy only. See docs/metrics.md for formulas, conventions and the quirks of the
reference evaluations that are kept.
"""

from occ_perception.metrics.counting import CountingMetric, MetricsError
from occ_perception.metrics.flow import FlowScore
from occ_perception.metrics.protocols import PROTOCOLS, Evaluation, FrameTruth
from occ_perception.metrics.ray_iou import OCC3D_GRID, RayIoU
from occ_perception.metrics.raycast import RayHits, first_hits
from occ_perception.metrics.rays import lidar_directions, lidar_origins
from occ_perception.metrics.report import Report
from occ_perception.metrics.voxel_iou import SurroundOccIoU, VoxelIoU

__all__ = [
    "OCC3D_GRID",
    "PROTOCOLS",
    "CountingMetric",
    "Evaluation",
    "FlowScore",
    "FrameTruth",
    "MetricsError",
    "RayHits",
    "RayIoU",
    "Report",
    "SurroundOccIoU",
    "VoxelIoU",
    "first_hits",
    "lidar_directions",
    "lidar_origins",
]
