"""Scores of predictions against ground truth, frame by frame: classes, geometry, velocities."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid, invert_transform, transform_points
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS, LabelSet
from occ_perception.metrics.counting import MetricsError
from occ_perception.metrics.flow import FlowScore
from occ_perception.metrics.report import Report
from occ_perception.metrics.voxel_iou import VoxelIoU

# Flow is compared where a lidar on the roof would see a class that can move.
_LIDAR_EGO = (0.95, 0.0, 1.84)


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class.

    Attributes:
        name: name of the class.
        iou: intersection over union; NaN if the class is in neither volume.
        true_voxels, predicted_voxels: counted voxels, summed over all frames.
        velocity_error: mean length of the flow's error, m/s; NaN if there is no flow to compare.
    """

    name: str
    iou: float
    true_voxels: int
    predicted_voxels: int
    velocity_error: float


@dataclass(frozen=True)
class Scores:
    """Scores of a recording.

    Attributes:
        frames: number of frames compared.
        label_set: name of the classes' label set.
        in_view: True if only voxels that a camera sees were counted, False if all voxels with
            known ground truth were.
        mean_iou: mIoU over all classes but free space, a fraction of 1.
        geometry_iou: IoU of occupied against free, class ignored.
        velocity_error: mean of the moving classes' errors, m/s; NaN without flow.
        classes: every class but free space.
    """

    frames: int
    label_set: str
    in_view: bool
    mean_iou: float
    geometry_iou: float
    velocity_error: float
    classes: tuple[ClassScore, ...]

    def report(self, title: str) -> Report:
        """The scores to print or save."""
        scores = {"mIoU": self.mean_iou, "IoU": self.geometry_iou}
        scores |= {f"IoU[{one.name}]": one.iou for one in self.classes}
        if not math.isnan(self.velocity_error):
            scores["mAVE"] = self.velocity_error
            scores |= {f"AVE[{one.name}]": one.velocity_error for one in self.classes}
        part = "in view of a camera" if self.in_view else "all labelled voxels"
        return Report(title, self.label_set, self.frames, {part: scores})


class Scoring:
    """Accumulates scores over frames.

    Classes are compared by name. Voxel scores follow :class:`~occ_perception.metrics.VoxelIoU`.
    Velocity errors are ``AVE_GT_RAY`` of :class:`~occ_perception.metrics.FlowScore`, with rays
    from the position of the vehicle's lidar in that frame.
    """

    def __init__(self) -> None:
        self._voxels: VoxelIoU | None = None
        self._flow: FlowScore | None = None
        self._in_view = True

    def add(
        self,
        prediction: OccupancyPrediction,
        truth: OccupancyPrediction,
        in_view_XYZ: NDArray[np.bool_] | None,
    ) -> None:
        """Add one frame; both volumes have the same grid.

        Args:
            prediction: output of a model.
            truth: ground truth.
            in_view_XYZ: voxels to count; None counts all with known ground truth.

        Raises:
            MetricsError: the grids differ, the classes are those of no label set, or the
                prediction has a class that the ground truth's label set lacks.
        """
        if not _is_same_grid(prediction.grid, truth.grid):
            raise MetricsError(
                f"the prediction's grid is {prediction.grid}, the ground truth's {truth.grid}; "
                "score with ground truth of the model's own grid"
            )
        label_set = _label_set_of(truth)
        if self._voxels is None:
            self._voxels = VoxelIoU(label_set)
        labels = _renamed(prediction, label_set)
        known = truth.labels != UNKNOWN_CLASS
        counted = known if in_view_XYZ is None else known & in_view_XYZ
        self._voxels.update(labels[None], truth.labels[None], counted[None])
        self._in_view &= in_view_XYZ is not None
        if prediction.flow is not None and truth.flow is not None:
            if self._flow is None:
                self._flow = FlowScore(label_set, truth.grid)
            origin = transform_points(invert_transform(truth.ego_T_grid), np.array([_LIDAR_EGO]))
            self._flow.update(
                labels[None],
                truth.labels[None],
                [origin],
                np.asarray(prediction.flow, np.float32)[None],
                truth.flow[None],
            )

    def result(self) -> Scores | None:
        """The scores so far; None if no frame was added."""
        if self._voxels is None:
            return None
        voxels = {name: float(value) for name, value in self._voxels.compute().items()}
        flow: dict[str, float] = {}
        if self._flow is not None:
            flow = {name: float(value) for name, value in self._flow.compute().items()}
        label_set, confusion = self._voxels.label_set, self._voxels.confusion
        classes = tuple(
            ClassScore(
                name,
                voxels[f"IoU[{name}]"],
                int(confusion[class_id].sum()),
                int(confusion[:, class_id].sum()),
                flow.get(f"AVE_GT_RAY[{name}]", math.nan),
            )
            for class_id, name in enumerate(label_set.class_names)
            if class_id != label_set.empty_class
        )
        return Scores(
            frames=int(voxels["frames"]),
            label_set=label_set.name,
            in_view=self._in_view,
            mean_iou=voxels["mIoU"],
            geometry_iou=voxels["IoU"],
            velocity_error=flow.get("mAVE_GT_RAY", math.nan),
            classes=classes,
        )


def _is_same_grid(one: VoxelGrid, other: VoxelGrid) -> bool:
    """Whether voxels are the same to a thousandth of a metre; messages round."""
    if one.dims != other.dims:
        return False
    return np.allclose((one.lower, one.upper), (other.lower, other.upper), rtol=0.0, atol=1e-3)


def _label_set_of(truth: OccupancyPrediction) -> LabelSet:
    for label_set in LABEL_SETS.values():
        if label_set.class_names == truth.class_names:
            return label_set
    raise MetricsError(
        f"the ground truth's classes {', '.join(truth.class_names)} match no label set; known "
        f"label sets are {', '.join(LABEL_SETS)}"
    )


def _renamed(prediction: OccupancyPrediction, label_set: LabelSet) -> NDArray[np.uint8]:
    """The prediction's labels with the class ids of another label set."""
    ids = {name: class_id for class_id, name in enumerate(label_set.class_names)}
    ids[prediction.class_names[prediction.empty_class]] = label_set.empty_class
    unknown = [name for name in prediction.class_names if name not in ids]
    if unknown:
        raise MetricsError(
            f"the ground truth ({label_set.name}) has no class {', '.join(unknown)}, which "
            f"{prediction.model or 'the prediction'} has"
        )
    table = np.full(256, UNKNOWN_CLASS, np.uint8)
    table[: len(prediction.class_names)] = [ids[name] for name in prediction.class_names]
    labels: NDArray[np.uint8] = table[prediction.labels]
    return labels
