"""A costmap and the obstacles of a prediction: what a planner on the ground needs of a volume."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.mapping.cost_rules import CostRules
from occ_perception.mapping.ground import ground_voxels, heights_above_ground

UNKNOWN_COST = -1


@dataclass(frozen=True, eq=False)
class GroundView:
    """A prediction as seen from the ground.

    Attributes:
        obstacles: (X, Y, Z) occupied voxels in the band of heights, without the ground.
        costs: (X, Y) int8, 0 (free) to 100 (never enter), -1 (unknown).
    """

    obstacles: NDArray[np.bool_]
    costs: NDArray[np.int8]


def view_from_ground(prediction: OccupancyPrediction, rules: CostRules) -> GroundView:
    """The obstacles of a prediction, and the cost of every column.

    A column costs as much as its dearest obstacle or its ground. It is unknown if it has no
    obstacle, and neither its ground nor the lowest voxel of the band was observed: what is seen
    above a parked car says nothing about the road behind it. Without observed space every column is
    known, except those of unlabelled voxels.

    Args:
        prediction: volume, and its observed voxels if they are known.
        rules: costs and the band of heights.
    """
    labels = prediction.labels
    costs_of = rules.table(prediction.class_names, prediction.empty_class)
    ground = ground_voxels(prediction)
    above = heights_above_ground(prediction)
    low, high = rules.band_m
    in_band = (above > low) & (above < high)
    known = labels != UNKNOWN_CLASS
    obstacles = in_band & known & ~ground & (labels != prediction.empty_class)
    # The lowest ground voxel is the one that the heights refer to.
    surface = ground & (above < 0.0)
    costs = np.where(obstacles | surface, costs_of[labels], 0).max(axis=2).astype(np.int8)
    observed = known if prediction.observed is None else prediction.observed & known
    lowest = in_band & (np.cumsum(in_band, axis=2) == 1)
    is_known = (observed & (surface | lowest)).any(axis=2) | obstacles.any(axis=2)
    return GroundView(obstacles, np.where(is_known, costs, UNKNOWN_COST).astype(np.int8))
