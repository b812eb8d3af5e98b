"""Prediction against ground truth, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import transform_points
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.views import ViewerError

UInt8 = NDArray[np.uint8]

CORRECT, WRONG_CLASS, MISSED, INVENTED, FREE = range(5)
VERDICTS = ("correct", "wrong class", "missed", "invented")
"""Names of the verdicts on voxels, in the order of their ids; FREE means correctly free."""

VERDICT_COLOURS = ((199, 206, 214), (245, 176, 30), (40, 96, 224), (222, 40, 52))

_NO_SUCH_CLASS = 254


@dataclass(frozen=True, eq=False)
class Comparison:
    """The verdict on every voxel of a prediction.

    Attributes:
        verdict_XYZ: uint8, see :data:`VERDICTS`; FREE where both are free, 255 where the ground
            truth is unknown or not counted.
        truth: the ground truth.
    """

    verdict_XYZ: UInt8
    truth: OccupancyPrediction

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Voxels per verdict of :data:`VERDICTS`."""
        correct, wrong, missed, invented, *_ = np.bincount(self.verdict_XYZ.ravel(), minlength=5)
        return int(correct), int(wrong), int(missed), int(invented)


def compare(
    prediction: OccupancyPrediction,
    truth: OccupancyPrediction,
    counted_XYZ: NDArray[np.bool_] | None = None,
) -> Comparison:
    """Compare classes by name.

    Args:
        prediction: output of a model.
        truth: ground truth; its unknown voxels are not compared.
        counted_XYZ: voxels to compare, such as those that a camera sees; None for all.

    Raises:
        ViewerError: the two have different grids.
    """
    same_size = prediction.grid.dims == truth.grid.dims
    if not same_size or not np.allclose(_corners(prediction), _corners(truth), atol=1e-2):
        raise ViewerError(
            f"the prediction's grid is {prediction.grid} with its lower corner at "
            f"{_corners(prediction)[0].round(2).tolist()} m in the ego frame, that of the ground "
            f"truth {truth.grid} at {_corners(truth)[0].round(2).tolist()} m; they must be the same"
        )
    ids = {name: number for number, name in enumerate(truth.class_names)}
    vocabulary = np.full(256, _NO_SUCH_CLASS, np.uint8)
    for number, name in enumerate(prediction.class_names):
        vocabulary[number] = ids.get(name, _NO_SUCH_CLASS)
    predicted = vocabulary[prediction.labels]

    occupied = (prediction.labels != prediction.empty_class) & (prediction.labels != UNKNOWN_CLASS)
    real = truth.labels != truth.empty_class
    verdict = np.full(truth.labels.shape, FREE, np.uint8)
    verdict[occupied & real] = WRONG_CLASS
    verdict[occupied & real & (predicted == truth.labels)] = CORRECT
    verdict[~occupied & real] = MISSED
    verdict[occupied & ~real] = INVENTED
    verdict[truth.labels == UNKNOWN_CLASS] = UNKNOWN_CLASS
    if counted_XYZ is not None:
        verdict[~counted_XYZ] = UNKNOWN_CLASS
    return Comparison(verdict, truth)


def _corners(prediction: OccupancyPrediction) -> NDArray[np.float64]:
    """The lower corner and its three neighbours along the axes, in ego."""
    lower, extent = np.asarray(prediction.grid.lower), np.asarray(prediction.grid.dims)
    corners = lower + np.diag(extent * np.asarray(prediction.grid.voxel_size))
    return transform_points(prediction.ego_T_grid, np.vstack([lower, corners]))
