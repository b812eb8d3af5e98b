"""RayIoU: compares simulated lidar rays in the prediction and in the ground truth.

Source: SparseOcc (arXiv 2312.17118). Unlike a voxel score under a visibility mask it does not
reward thick surfaces. Legend: B frames, X Y Z voxels, C classes, T origins, N rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LabelSet
from occ_perception.metrics.counting import (
    CountingMetric,
    MetricsError,
    class_ids,
    intersection_over_union,
    per_class,
    same_shape,
)
from occ_perception.metrics.raycast import RayHits, first_hits
from occ_perception.metrics.rays import lidar_directions
from occ_perception.metrics.voxel_iou import semantic_ids

OCC3D_GRID = VoxelGrid.from_ranges((-40.0, 40.0, 0.4), (-40.0, 40.0, 0.4), (-1.0, 5.4, 0.4))
"""Ego-frame grid of Occ3D and OpenOcc."""

DEPTH_TOLERANCES_M = (1, 2, 4)


class RayIoU(CountingMetric):
    """RayIoU at 1, 2 and 4 m of depth tolerance, and their mean.

    Truth and prediction are cast from the same origins, see
    :func:`~occ_perception.metrics.rays.lidar_origins`; a ray ends in the first voxel that is not
    free, and its depth is where it leaves that voxel. Rays whose true end is free are dropped. Over
    the others, with ``G[k]``, ``P[k]`` the rays of true and predicted class k::

        TP[t, k]   = rays of class k in both, depths less than t metres apart
        IoU[t, k]  = TP[t, k] / (G[k] + P[k] - TP[t, k])       NaN if k is in neither
        RayIoU@t   = mean over classes but free space, NaN skipped
        RayIoU     = mean of the three

    A true voxel of 255 (unlabelled) stops a ray but belongs to no class. No visibility mask.

    Attributes:
        grid: voxel layout of the volumes.
        directions: (14040, 3) float32 unit vectors.
        true_positives: (3, C) int64, row = tolerance.
        true_rays, predicted_rays: (C,) int64.
        rays: () int64, rays counted.
    """

    directions: Tensor
    true_positives: Tensor
    true_rays: Tensor
    predicted_rays: Tensor
    rays: Tensor

    def __init__(self, label_set: LabelSet, grid: VoxelGrid = OCC3D_GRID) -> None:
        super().__init__(label_set)
        self.grid = grid
        self.register_buffer("directions", torch.from_numpy(lidar_directions()), persistent=False)
        self.add_counter("true_positives", (len(DEPTH_TOLERANCES_M), label_set.num_classes))
        self.add_counter("true_rays", (label_set.num_classes,))
        self.add_counter("predicted_rays", (label_set.num_classes,))
        self.add_counter("rays", ())

    def signature(self) -> tuple[Any, ...]:
        """Equal for metrics of the same class, label set and grid."""
        return (*super().signature(), self.grid)

    def update(self, preds: Any, target: Any, origins: Sequence[Any]) -> None:
        """Count a batch.

        Args:
            preds: (B, X, Y, Z) predicted class ids.
            target: (B, X, Y, Z) true class ids, 255 where unlabelled.
            origins: B arrays (T, 3), ray origins in the grid's frame, metres.

        Raises:
            MetricsError: shapes differ or are not those of the grid, an id is not in the label set,
                or a frame has no origins.
        """
        pred_BXYZ, true_BXYZ = self._checked(preds, target, origins)
        for pred, true, frame_origins in zip(pred_BXYZ, true_BXYZ, origins, strict=True):
            volumes = torch.stack([true, pred])
            self._count_frame(volumes, self._cast(volumes, frame_origins))
        self.frames += len(pred_BXYZ)

    def scores(self, counters: dict[str, Tensor]) -> dict[str, Tensor]:
        """``RayIoU``, ``RayIoU@1`` (2, 4) and ``RayIoU@1[class]`` for classes but free space."""
        ratios = intersection_over_union(
            counters["true_positives"], counters["true_rays"], counters["predicted_rays"]
        )[:, semantic_ids(self.label_set)]
        names = tuple(self.label_set.class_names[k] for k in semantic_ids(self.label_set))
        result = {"RayIoU": ratios.nanmean()}
        for tolerance, row in zip(DEPTH_TOLERANCES_M, ratios, strict=True):
            result[f"RayIoU@{tolerance}"] = row.nanmean()
        for tolerance, row in zip(DEPTH_TOLERANCES_M, ratios, strict=True):
            result |= per_class(f"RayIoU@{tolerance}", names, row)
        return result

    def _checked(self, preds: Any, target: Any, origins: Sequence[Any]) -> tuple[Tensor, Tensor]:
        pred_BXYZ = class_ids(preds, "prediction", self.label_set, self.device, False)
        true_BXYZ = class_ids(target, "ground truth", self.label_set, self.device, True)
        same_shape(pred_BXYZ, true_BXYZ, "ground truth")
        if tuple(pred_BXYZ.shape[1:]) != self.grid.dims:
            raise MetricsError(
                f"volumes are {tuple(pred_BXYZ.shape[1:])} voxels, the rays were set up for "
                f"{self.grid.dims}; pass the volumes' grid to {type(self).__name__}"
            )
        shapes = [tuple(torch.as_tensor(frame_origins).shape) for frame_origins in origins]
        if len(shapes) != len(pred_BXYZ) or any(
            len(shape) != 2 or shape[0] == 0 or shape[1] != 3 for shape in shapes
        ):
            raise MetricsError(
                f"expected one array of ray origins (T >= 1, 3) for each of {len(pred_BXYZ)} "
                f"frames, got shapes {shapes}"
            )
        return pred_BXYZ, true_BXYZ

    def _cast(self, volumes: Tensor, origins: Any) -> RayHits:
        """Hits of truth (row 0) and prediction (row 1), rays with a free true end left out."""
        free = self.label_set.empty_class
        origins_T3 = torch.as_tensor(origins, dtype=torch.float64)
        hits = first_hits(volumes != free, origins_T3, self.directions, self.grid)
        solid = volumes[0].reshape(-1)[hits.voxels[0]] != free
        return RayHits(hits.voxels[:, solid], hits.distances[:, solid])

    def _count_frame(self, volumes: Tensor, hits: RayHits) -> None:
        true, pred = hits.values(volumes)
        classes = self.label_set.num_classes
        self.rays += true.numel()
        self.true_rays += torch.bincount(true[true < classes], minlength=classes)
        self.predicted_rays += torch.bincount(pred, minlength=classes)
        for row, matched in enumerate(self._matches(true, pred, hits)):
            self.true_positives[row] += torch.bincount(true[matched], minlength=classes)

    def _matches(self, true: Tensor, pred: Tensor, hits: RayHits) -> Tensor:
        """(3, N) bool: the ray is a true positive at that tolerance."""
        apart = (hits.distances[1] - hits.distances[0]).abs()
        return torch.stack([(true == pred) & (apart < limit) for limit in DEPTH_TOLERANCES_M])
