"""Velocity errors along rays and voxels, and the Occ Score that combines them with RayIoU.

Source: the OpenOcc benchmark of the CVPR 2024 occupancy-and-flow challenge; the score is the one
ALOcc (arXiv 2411.07725) reports. Legend: B frames, X Y Z voxels, C classes, N rays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LabelSet
from occ_perception.metrics.counting import MetricsError, per_class
from occ_perception.metrics.ray_iou import DEPTH_TOLERANCES_M, OCC3D_GRID, RayIoU

VELOCITY_ERRORS = ("AVE_TP", "AVE_GT_RAY", "AVE_VOXEL")

_TRUE_POSITIVE_ROW = DEPTH_TOLERANCES_M.index(2)

# Errors are summed as whole multiples of 2^-24 m/s (6e-8), so that a sum does not depend on the
# order of its terms; int64 then has room for 5e11 m/s in all.
_UNITS_PER_METRE_PER_SECOND = 2**24

_RAY_IOU_WEIGHT, _VELOCITY_WEIGHT = 0.9, 0.1


class FlowScore(RayIoU):
    """RayIoU, mean velocity errors (AVE) and the Occ Score.

    The flow of a ray is the flow at the voxel where it ends. With ``e`` the length of the
    difference between true and predicted (vx, vy), for each moving class k of the label set::

        AVE_TP[k]      = mean e over rays that are true positives of k at 2 m
        AVE_GT_RAY[k]  = mean e over rays whose true class is k, whatever was predicted
        AVE_VOXEL[k]   = mean e over voxels whose true class is k
        mAVE_TP, mAVE_GT_RAY, mAVE_VOXEL = means over k, classes without a value skipped
        OccScore       = 0.9 RayIoU + 0.1 max(1 - mAVE_TP, 0)

    Published tables have a column "mAVE" beside "mAVE_TP" without stating which of the other two it
    is; both are computed.

    Attributes:
        samples: (3, C) int64, rays or voxels behind each of the three errors.
        error_units: (3, C) int64, their summed errors in multiples of 2^-24 m/s.
        moving: (C,) bool, classes that carry flow.
    """

    samples: Tensor
    error_units: Tensor
    moving: Tensor

    def __init__(self, label_set: LabelSet, grid: VoxelGrid = OCC3D_GRID) -> None:
        super().__init__(label_set, grid)
        self.add_counter("samples", (len(VELOCITY_ERRORS), label_set.num_classes))
        self.add_counter("error_units", (len(VELOCITY_ERRORS), label_set.num_classes))
        moving = torch.zeros(label_set.num_classes, dtype=torch.bool)
        moving[list(label_set.moving_ids())] = True
        self.register_buffer("moving", moving, persistent=False)

    def update(  # type: ignore[override]
        self,
        preds: Any,
        target: Any,
        origins: Sequence[Any],
        preds_flow: Any,
        target_flow: Any,
    ) -> None:
        """Count a batch.

        Args:
            preds: (B, X, Y, Z) predicted class ids.
            target: (B, X, Y, Z) true class ids, 255 where unlabelled.
            origins: B arrays (T, 3), ray origins in the grid's frame, metres.
            preds_flow: (B, X, Y, Z, 2) predicted (vx, vy), m/s; any float type.
            target_flow: (B, X, Y, Z, 2) true (vx, vy), m/s; any float type.

        Raises:
            MetricsError: as in :meth:`RayIoU.update`; or a flow has a wrong shape, or is not finite
                where it is compared.
        """
        pred_BXYZ, true_BXYZ = self._checked(preds, target, origins)
        pred_BXYZ2 = self._flow(preds_flow, pred_BXYZ, "predicted flow")
        true_BXYZ2 = self._flow(target_flow, pred_BXYZ, "true flow")
        for frame, frame_origins in enumerate(origins):
            volumes = torch.stack([true_BXYZ[frame], pred_BXYZ[frame]])
            flows = torch.stack([true_BXYZ2[frame], pred_BXYZ2[frame]])
            hits = self._cast(volumes, frame_origins)
            true, pred = hits.values(volumes)
            ray_flows = hits.values(flows)
            matched = self._matches(true, pred, hits)[_TRUE_POSITIVE_ROW]
            self._count_frame(volumes, hits)
            self._add_errors(0, true[matched], ray_flows[:, matched])
            self._add_errors(1, true, ray_flows)
            self._add_errors(2, volumes[0].reshape(-1), flows.reshape(2, -1, 2))
        self.frames += len(pred_BXYZ)

    def scores(self, counters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Those of RayIoU, ``OccScore``, ``mAVE_*`` and ``AVE_*[class]`` for moving classes."""
        rays = super().scores(counters)
        moving = list(self.label_set.moving_ids())
        names = tuple(self.label_set.class_names[k] for k in moving)
        units = counters["error_units"].double() / _UNITS_PER_METRE_PER_SECOND
        errors = (units / counters["samples"])[:, moving]
        means = {
            f"m{name}": row.nanmean() for name, row in zip(VELOCITY_ERRORS, errors, strict=True)
        }
        velocity_term = (1.0 - means["mAVE_TP"]).clamp(min=0.0)
        result = {
            "OccScore": _RAY_IOU_WEIGHT * rays["RayIoU"] + _VELOCITY_WEIGHT * velocity_term,
            **rays,
            **means,
        }
        for name, row in zip(VELOCITY_ERRORS, errors, strict=True):
            result |= per_class(name, names, row)
        return result

    def _flow(self, flow: Any, labels_BXYZ: Tensor, what: str) -> Tensor:
        flow_BXYZ2 = torch.as_tensor(flow).to(self.device, torch.float32)
        expected = (*labels_BXYZ.shape, 2)
        if tuple(flow_BXYZ2.shape) != expected:
            raise MetricsError(
                f"{what}: expected (vx, vy) per voxel, shape {expected}, "
                f"got {tuple(flow_BXYZ2.shape)}"
            )
        return flow_BXYZ2

    def _add_errors(self, row: int, true: Tensor, flows: Tensor) -> None:
        """Add errors of samples with true classes (n,) and flows (2, n, 2) = truth, prediction."""
        known = true < self.label_set.num_classes
        compared = known.clone()
        compared[known] = self.moving[true[known]]
        classes = true[compared]
        error = (flows[0, compared] - flows[1, compared]).norm(dim=-1)
        if not error.isfinite().all():
            raise MetricsError(
                f"flow is not finite at {int((~error.isfinite()).sum())} of {error.numel()} places "
                "of moving classes; look for NaN or infinity in the prediction, then in the labels"
            )
        units = (error.double() * _UNITS_PER_METRE_PER_SECOND).round().long()
        self.samples[row] += torch.bincount(classes, minlength=len(self.moving))
        self.error_units[row].index_add_(0, classes, units)
