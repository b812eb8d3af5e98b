"""The map over a drive: evidence, movers, memory and geometry, on small grids."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid, transform_points
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS
from occ_perception.mapping.drive_map import DriveMap, MapOptions, MapVoxels
from occ_perception.mapping.voxel_blocks import MapError

OCC3D = LABEL_SETS["occ3d"]
NAMES, FREE = OCC3D.class_names, OCC3D.empty_class
CAR, ROAD, WALL = (NAMES.index(name) for name in ("car", "driveable_surface", "manmade"))
GRID = VoxelGrid.from_ranges((-4, 4, 0.5), (-3, 3, 0.5), (-1, 2, 0.5))
HERE = np.eye(4)


def predicted(
    labels: np.ndarray, speed: float | None = None, grid: VoxelGrid = GRID
) -> OccupancyPrediction:
    """A prediction; with a speed, every voxel of a car has it."""
    flow = None
    if speed is not None:
        flow = np.zeros((*grid.dims, 2), np.float32)
        flow[labels == CAR, 1] = speed
    return OccupancyPrediction(0, "base_link", grid, np.eye(4), labels, NAMES, FREE, flow)


def empty(grid: VoxelGrid = GRID) -> np.ndarray:
    return np.full(grid.dims, FREE, np.uint8)


def pose(yaw_deg: float = 0.0, at=(0.0, 0.0, 0.0), tilt_deg=(0.0, 0.0)) -> np.ndarray:
    matrix = np.eye(4)
    angles = (yaw_deg, *tilt_deg)
    matrix[:3, :3] = Rotation.from_euler("zyx", angles, degrees=True).as_matrix()
    matrix[:3, 3] = at
    return matrix


def contents(voxels: MapVoxels) -> dict[tuple[int, ...], tuple[float, int]]:
    """Voxel index -> log-odds and class."""
    values = zip(voxels.log_odds.tolist(), voxels.classes.tolist(), strict=True)
    return dict(zip(map(tuple, voxels.indices.tolist()), values, strict=True))


# -- evidence ------------------------------------------------------------------------------------


def test_evidence_adds_up_and_is_clamped() -> None:
    labels = empty()
    labels[3, 4, 2] = WALL
    where = tuple((np.array((3, 4, 2)) + np.array(GRID.lower) / 0.5).astype(int).tolist())
    drive_map = DriveMap()
    for expected in (0.85, 1.70, 2.55, 3.40, 3.50, 3.50):
        drive_map.add(predicted(labels), HERE)
        found = contents(drive_map.voxels())
        assert found[where] == (pytest.approx(expected), WALL)
    assert len(found) == GRID.num_voxels
    assert found[0, 0, 0] == (pytest.approx(-2.0), FREE)
    for expected in (3.1, 2.7, 2.3):
        drive_map.add(predicted(empty()), HERE)
        assert contents(drive_map.voxels())[where][0] == pytest.approx(expected)


def test_the_class_is_the_one_seen_most_often_and_forgotten_with_the_object() -> None:
    drive_map = DriveMap()
    for label in (ROAD, WALL, ROAD, *[WALL] * 300, *[ROAD] * 100):
        drive_map.add(predicted(np.full(GRID.dims, label, np.uint8)), HERE)
    assert (drive_map.voxels().classes == WALL).all()  # beyond what a byte counts
    for _ in range(14):
        drive_map.add(predicted(empty()), HERE)
    assert (drive_map.voxels().classes == FREE).all()
    for _ in range(3):
        drive_map.add(predicted(np.full(GRID.dims, ROAD, np.uint8)), HERE)
    assert (drive_map.voxels().classes == ROAD).all()


def test_voxels_that_were_not_observed_change_nothing() -> None:
    labels = np.full(GRID.dims, WALL, np.uint8)
    labels[0] = UNKNOWN_CLASS
    observed = np.zeros(GRID.dims, np.bool_)
    observed[:2] = True
    drive_map = DriveMap()
    drive_map.add(replace(predicted(labels), observed=observed), HERE)
    voxels = drive_map.voxels()
    assert len(voxels.indices) == GRID.dims[1] * GRID.dims[2]
    assert (voxels.indices[:, 0] == -7).all()
    nothing = np.zeros(GRID.dims, np.bool_)
    drive_map.add(replace(predicted(empty()), observed=nothing), HERE)
    assert contents(drive_map.voxels()) == contents(voxels)


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(5)), st.integers(0, 2**32 - 1))
def test_the_order_of_frames_does_not_matter(order: list[int], seed: int) -> None:
    """As long as no sum reaches its limits."""
    rng = np.random.default_rng(seed)
    choices = np.array([FREE, ROAD, WALL, CAR, UNKNOWN_CLASS], np.uint8)
    # Of five frames at most four hit: 3.4 is below the limit of 3.5, and -1.6 above that of -2.
    labels = [rng.choice(choices, GRID.dims) for _ in range(4)] + [np.full_like(empty(), 255)]
    poses = [pose(*rng.uniform(-90, 90, 1), at=rng.uniform(-1, 1, 3)) for _ in labels]
    maps = []
    for sequence in (range(5), order):
        drive_map = DriveMap()
        for n in sequence:
            drive_map.add(predicted(labels[n], speed=0.0), poses[n])
        maps.append(contents(drive_map.voxels()))
    assert maps[0] == maps[1]


# -- movers --------------------------------------------------------------------------------------


def with_car() -> np.ndarray:
    labels = empty()
    labels[:, :, 0] = ROAD
    labels[4:8, 4:7, 1:3] = CAR
    return labels


def car_voxels(drive_map: DriveMap) -> int:
    return int((drive_map.voxels().classes == CAR).sum())


def test_movers_neither_enter_nor_claim_free_space() -> None:
    drive_map = DriveMap()
    for _ in range(5):
        drive_map.add(predicted(with_car(), speed=3.0), HERE)
    voxels = drive_map.voxels()
    assert car_voxels(drive_map) == 0
    assert len(voxels.indices) == GRID.num_voxels - 24  # below it nothing is known


def test_cars_that_stand_enter_after_three_frames_and_leave_again() -> None:
    drive_map = DriveMap()
    seen = []
    for _ in range(4):
        drive_map.add(predicted(with_car(), speed=0.1), HERE)
        seen.append(car_voxels(drive_map))
    assert seen == [0, 0, 24, 24]
    for _ in range(2):  # it drives off: its new place is outside the grid
        drive_map.add(predicted(empty()), HERE)
    assert car_voxels(drive_map) == 0


def test_without_flow_movable_classes_are_left_out_unless_wanted() -> None:
    for keep, expected in ((False, 0), (True, 24)):
        drive_map = DriveMap(MapOptions(keep_movable=keep))
        for _ in range(3):
            drive_map.add(predicted(with_car()), HERE)
        assert car_voxels(drive_map) == expected


def test_a_flow_that_is_not_a_number_counts_as_motion() -> None:
    drive_map = DriveMap()
    for _ in range(4):
        drive_map.add(predicted(with_car(), speed=np.nan), HERE)
    assert car_voxels(drive_map) == 0


# -- geometry ------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.floats(-180, 180), st.tuples(*[st.floats(-20, 20)] * 2), st.integers(0, 2**32 - 1))
def test_a_pose_turned_by_90_degrees_gives_the_turned_map(yaw, tilt, seed: int) -> None:
    # Odd fractions: no centre lies on the border of two grid voxels.
    world_T_ego = pose(yaw, at=(0.1234, -3.0871, 0.0417), tilt_deg=tilt)
    labels = np.random.default_rng(seed).choice(np.array([FREE, ROAD, WALL], np.uint8), GRID.dims)
    maps = []
    for turn in (np.eye(4), pose(90.0).round()):
        drive_map = DriveMap()
        drive_map.add(predicted(labels), turn @ world_T_ego)
        maps.append(contents(drive_map.voxels()))
    turned = {(-1 - j, i, k): value for (i, j, k), value in maps[0].items()}
    differing = {
        index for index in turned.keys() | maps[1].keys() if turned.get(index) != maps[1].get(index)
    }
    # Only centres that rounding moves across a border.
    assert len(differing) <= 2


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (9.0, -6.0), (180.0, 4.0), (93.0, 11.0)])
@pytest.mark.parametrize("size", [0.5, 0.23])
def test_every_map_voxel_has_what_the_grid_holds_at_its_centre(tilt, size: float) -> None:
    """No holes, and nothing twice: against a search over all voxels around."""
    rng = np.random.default_rng(3)
    labels = rng.choice(np.array([FREE, ROAD, WALL], np.uint8), GRID.dims)
    world_T_ego = pose(33.0, at=(7.31, -2.17, 0.53), tilt_deg=tilt)
    ego_T_grid = pose(-90.0, at=(0.9, 0.1, 0.7))
    drive_map = DriveMap(MapOptions(voxel_size=size))
    drive_map.add(replace(predicted(labels), ego_T_grid=ego_T_grid), world_T_ego)
    found = contents(drive_map.voxels())
    around = np.stack(np.meshgrid(*[np.arange(-8, 9)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    near = np.round(world_T_ego[:3, 3] / size).astype(int) + np.round(
        around * (7.0 / 8 / size)
    ).astype(int)
    inside = transform_points(np.linalg.inv(world_T_ego @ ego_T_grid), (near + 0.5) * size)
    expected = {}
    at = GRID.indices(inside)
    for index, voxel, is_in in zip(near.tolist(), at, GRID.contains(at), strict=True):
        if is_in:
            expected[tuple(index)] = int(labels[tuple(voxel)])
    assert len(expected) > 100
    assert {index: found[index][1] for index in expected} == expected
    volume = GRID.num_voxels * 0.5**3
    assert len(found) * size**3 == pytest.approx(volume, rel=0.1)


def test_the_origin_moves_indices_only() -> None:
    labels = with_car()
    far = (4_000_000.0, 500_000.0, 100.0)
    plain, moved = DriveMap(), DriveMap(MapOptions(origin=far))
    plain.add(predicted(labels), HERE)
    moved.add(predicted(labels), pose(at=far))
    assert contents(plain.voxels()) == contents(moved.voxels())
    with pytest.raises(MapError, match="--local"):
        DriveMap(MapOptions(voxel_size=0.1)).add(predicted(labels), pose(at=far))


# -- memory and errors ---------------------------------------------------------------------------


def test_memory_depends_on_the_area_alone() -> None:
    drive_map = DriveMap()
    for _ in range(3):
        for x in range(0, 40, 2):
            drive_map.add(predicted(with_car(), speed=0.0), pose(at=(x, 0.0, 0.0)))
        if drive_map.frames == 20:
            first = drive_map.nbytes, drive_map.area
    assert (drive_map.nbytes, drive_map.area) == first
    assert first[1] == 46 * 6.0  # the grid's 8 m by 6 m along 38 m


def test_other_classes_and_wrong_shapes_are_refused() -> None:
    drive_map = DriveMap()
    with pytest.raises(MapError, match="empty"):
        drive_map.voxels()
    drive_map.add(predicted(empty()), HERE)
    other = LABEL_SETS["openocc"]
    with pytest.raises(MapError, match="same classes"):
        drive_map.add(
            replace(
                predicted(empty()), class_names=other.class_names, empty_class=other.empty_class
            ),
            HERE,
        )
    with pytest.raises(ValueError, match="world_T_ego"):
        drive_map.add(predicted(empty()), np.zeros((4, 4)))
