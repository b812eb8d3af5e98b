"""The ground, obstacles above it, and costs of columns, on volumes drawn by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS
from occ_perception.mapping.cost_rules import CostRules, CostRulesError, load_cost_rules
from occ_perception.mapping.costmap import UNKNOWN_COST, view_from_ground
from occ_perception.mapping.ground import ground_heights, ground_voxels, heights_above_ground

OCC3D = LABEL_SETS["occ3d"]
ROAD, SIDEWALK, CAR, TREE, FREE = (
    OCC3D.class_names.index(name)
    for name in ("driveable_surface", "sidewalk", "car", "vegetation", "free")
)
GRID = VoxelGrid((-4.0, -4.0, -1.0), (0.4, 0.4, 0.4), (20, 20, 16))
GROUND = 2  # layer from -0.2 to 0.2 m


def prediction(labels: np.ndarray, observed: np.ndarray | None = None) -> OccupancyPrediction:
    return OccupancyPrediction(
        stamp_ns=0,
        frame_id="base_link",
        grid=GRID,
        ego_T_grid=np.eye(4),
        labels=labels,
        class_names=OCC3D.class_names,
        empty_class=OCC3D.empty_class,
        observed=observed,
    )


def street() -> np.ndarray:
    """A level road, and nothing on it."""
    labels = np.full(GRID.dims, FREE, np.uint8)
    labels[:, :, GROUND] = ROAD
    return labels


def view(labels: np.ndarray, observed: np.ndarray | None = None):
    return view_from_ground(prediction(labels, observed), load_cost_rules())


def test_a_free_road_costs_nothing_and_an_obstacle_everything() -> None:
    labels = street()
    labels[5, 6, GROUND + 1 : GROUND + 5] = CAR
    labels[9, 6, GROUND] = SIDEWALK
    found = view(labels)
    assert found.costs[5, 6] == 100 and found.costs[9, 6] == 40
    found.costs[[5, 9], 6] = 0
    assert not found.costs.any()
    # The lowest voxel of the car touches the ground: its centre is 0.2 m above it.
    assert np.argwhere(found.obstacles).tolist() == [[5, 6, GROUND + n] for n in (2, 3, 4)]


def test_heights_count_from_the_local_ground() -> None:
    """On a hill of 2 m a car is an obstacle, and a branch 3 m above it is none."""
    labels = street()
    labels[10:, :, GROUND] = FREE
    labels[10:, :, GROUND + 5] = ROAD
    labels[15, 6, GROUND + 6 : GROUND + 9] = CAR
    labels[15, 12, GROUND + 5 + 8] = TREE
    # Before the hill the same branch is just as high above the road.
    labels[3, 12, GROUND + 8] = TREE
    labels[3, 15, GROUND + 4] = TREE
    found = view(labels)
    assert found.costs[15, 6] == 100 and found.costs[3, 15] == 100
    assert found.costs[15, 12] == found.costs[3, 12] == 0
    assert found.costs[10:, :6].max() == 0, "the hill itself is no obstacle"


def test_a_column_without_ground_has_that_of_its_neighbour() -> None:
    ground = np.zeros((5, 4, 6), bool)
    ground[0, :, 1] = True
    ground[4, :, 3] = True
    ground[4, :, 4] = True
    heights = ground_heights(ground, -1.0, 0.5)
    assert heights[:, 0].tolist()[:2] == [0.0, 0.0] and heights[4, 0] == heights[3, 0] == 1.0
    assert (ground_heights(np.zeros_like(ground), -1.0, 0.5) == 0.0).all()


def test_heights_are_those_of_voxel_centres() -> None:
    above = heights_above_ground(prediction(street()))
    assert above[3, 3, GROUND] == pytest.approx(-0.2)
    assert above[3, 3, GROUND + 3] == pytest.approx(1.0)
    assert ground_voxels(prediction(street())).sum() == 400


def test_unseen_columns_are_unknown_and_unseen_obstacles_are_not() -> None:
    labels = street()
    labels[5, 6, GROUND + 2 : GROUND + 5] = CAR
    observed = np.zeros(GRID.dims, bool)
    observed[:5] = True
    observed[6:8, :, GROUND + 6 :] = True  # only above the band
    found = view(labels, observed)
    assert (found.costs[:5] == 0).all()
    assert (found.costs[6:] == UNKNOWN_COST).all()
    assert found.costs[5, 6] == 100
    observed[9, 9, GROUND] = True
    observed[9, 10, GROUND + 2] = True  # the lowest voxel of the band: 0.6 m
    seen = view(labels, observed).costs[9]
    assert seen[9] == seen[10] == 0 and seen[11] == UNKNOWN_COST


def test_unlabelled_voxels_are_unknown() -> None:
    labels = street()
    labels[7, 7] = 255
    found = view(labels)
    assert found.costs[7, 7] == UNKNOWN_COST and not found.obstacles.any()


def test_other_class_tables_have_the_same_rules() -> None:
    waymo = LABEL_SETS["waymo"]
    labels = np.full(GRID.dims, waymo.empty_class, np.uint8)
    labels[:, :, GROUND] = waymo.class_names.index("road")
    labels[2, 2, GROUND + 3] = waymo.class_names.index("vehicle")
    given = replace(
        prediction(labels), class_names=waymo.class_names, empty_class=waymo.empty_class
    )
    found = view_from_ground(given, load_cost_rules())
    assert found.costs[2, 2] == 100 and found.costs.sum() == 100


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("band_m: [1.0, 0.3]\ncosts: {}", r"band_m is \[1.0, 0.3\], expected the lower and"),
        ("band_m: 2\ncosts: {}", "band_m is 2, expected"),
        ("band_m: [0.3, .nan]\ncosts: {}", "band_m is"),
        ("band_m: [0.3, 2.0]\ncosts: {lawn: 3}", "costs names 'lawn', expected one of barrier"),
        ("band_m: [0.3, 2.0]\ncosts: {car: 101}", "cost of car is 101, expected a whole number"),
        ("band_m: [0.3, 2.0]\ncosts: {car: true}", "cost of car is True"),
        ("band_m: [0.3, 2.0]\ncosts: [car]", r"costs is \['car'\], expected class names"),
        ("band_m: [0.3, 2.0]", "expected the keys band_m and costs, got band_m"),
        ("- 1", r"got \[1\]"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_wrong_files_of_costs_are_refused(tmp_path, text: str, message: str) -> None:
    file = tmp_path / "costs.yaml"
    file.write_text(text)
    with pytest.raises(CostRulesError, match=message) as refused:
        load_cost_rules(file)
    assert str(file) in str(refused.value)


def test_missing_files_are_refused_by_name(tmp_path) -> None:
    with pytest.raises(CostRulesError, match=r"none\.yaml: cannot be read"):
        load_cost_rules(tmp_path / "none.yaml")


def test_classes_without_a_rule_cost_most() -> None:
    table = CostRules((0.3, 2.0), {"car": 7}).table(("bus", "car", "free"), 2)
    assert table[:3].tolist() == [100, 7, 0]
