"""Scores of predictions: classes by name, counted voxels only, flow of movable classes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import LABEL_SETS
from occ_perception.metrics import OCC3D_GRID, MetricsError
from occ_perception.metrics.recorded import Scoring

OCC3D = LABEL_SETS["occ3d"]


def occupancy(label_set_name: str = "occ3d") -> OccupancyPrediction:
    """A road, a wall behind, and a car on the road that drives at 5 m/s."""
    label_set = LABEL_SETS[label_set_name]
    ids = {name: number for number, name in enumerate(label_set.class_names)}
    labels = np.full(OCC3D_GRID.dims, label_set.empty_class, np.uint8)
    labels[:, :, 1] = ids["driveable_surface"]
    labels[180, :, 2:10] = ids["manmade"]
    labels[130:140, 95:100, 2:6] = ids["car"]
    flow = np.zeros((*OCC3D_GRID.dims, 2), np.float32)
    flow[130:140, 95:100, 2:6] = (5.0, 0.0)
    names, empty = label_set.class_names, label_set.empty_class
    return OccupancyPrediction(0, "base_link", OCC3D_GRID, np.eye(4), labels, names, empty, flow)


def test_the_ground_truth_itself_scores_1_with_any_label_set() -> None:
    for vocabulary in ("occ3d", "openocc"):
        scoring = Scoring()
        scoring.add(occupancy(vocabulary), occupancy(), None)
        result = scoring.result()
        assert result is not None
        assert (result.mean_iou, result.geometry_iou, result.velocity_error) == (1, 1, 0)
        assert not result.in_view
        ious = {entry.name: entry.iou for entry in result.classes if not math.isnan(entry.iou)}
        assert ious == {"driveable_surface": 1, "manmade": 1, "car": 1}


def test_only_voxels_in_view_count_and_errors_are_as_constructed() -> None:
    truth = occupancy()
    car = truth.labels == OCC3D.class_names.index("car")
    labels = truth.labels.copy()
    labels[180] = OCC3D.empty_class  # the wall is missed, but not in view
    labels[car & (np.indices(car.shape)[2] == 5)] = OCC3D.empty_class  # a quarter of the car
    flow = np.asarray(truth.flow).copy()
    flow[car] += (-3.0, 4.0)
    in_view = np.ones(truth.labels.shape, bool)
    in_view[180] = False
    scoring = Scoring()
    scoring.add(replace(truth, labels=labels, flow=flow), truth, in_view)
    result = scoring.result()
    assert result is not None
    assert result.in_view
    ious = {entry.name: entry.iou for entry in result.classes if not math.isnan(entry.iou)}
    assert ious == {"driveable_surface": 1, "car": pytest.approx(0.75)}
    assert result.mean_iou == pytest.approx(0.875)
    (score,) = (entry for entry in result.classes if entry.name == "car")
    assert (score.true_voxels, score.predicted_voxels) == (200, 150)
    # Rays that hit the car in the truth may hit what lies behind it in the prediction.
    assert 4.0 < score.velocity_error <= 5.0


def test_a_class_that_the_ground_truth_lacks_is_refused() -> None:
    unknown = replace(occupancy(), class_names=("dragon", *OCC3D.class_names[1:]))
    with pytest.raises(MetricsError, match="has no class dragon"):
        Scoring().add(unknown, occupancy(), None)
    with pytest.raises(MetricsError, match="match no label set"):
        Scoring().add(occupancy(), unknown, None)
    assert Scoring().result() is None


def test_other_grids_are_refused() -> None:
    moved = replace(OCC3D_GRID, lower=(-40.0, -40.0, -0.6))
    with pytest.raises(MetricsError, match=r"grid is .* the ground truth's"):
        Scoring().add(replace(occupancy(), grid=moved), occupancy(), None)


def test_the_report_has_every_class() -> None:
    scoring = Scoring()
    scoring.add(occupancy(), occupancy(), None)
    result = scoring.result()
    assert result is not None
    report = result.report("mine")
    assert (report.title, report.protocol, report.frames) == ("mine", "occ3d", 1)
    (part,) = report.scores.values()
    assert (part["mIoU"], part["IoU"], part["IoU[car]"], part["mAVE"]) == (1, 1, 1, 0)
    assert len([name for name in part if name.startswith("IoU[")]) == 17
