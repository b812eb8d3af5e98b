"""Images show the right object in the right place, checked by its colour."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from occ_perception.frames import (
    CameraCalibration,
    CameraFrame,
    CameraRig,
    OccupancyPrediction,
)
from occ_perception.geometry import VoxelGrid, invert_transform, matrix_from_pose
from occ_perception.labels import LABEL_SETS, PALETTE
from occ_perception.viewer.images import prediction_image, sheet_image, write_png
from occ_perception.viewer.panels import camera_rows
from occ_perception.viewer.views import (
    FREE_COLOUR,
    OUTSIDE_COLOUR,
    UNKNOWN_COLOUR,
    ViewerError,
    birds_eye_view,
    motion_arrows,
    shade,
    side_view,
)

OCC3D = LABEL_SETS["occ3d"]
CAR = OCC3D.class_names.index("car")
PEDESTRIAN = OCC3D.class_names.index("pedestrian")
GRID = VoxelGrid.from_ranges((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4))


def prediction(**changes) -> OccupancyPrediction:
    arguments = {
        "stamp_ns": 1_600_000_000_250_000_000,
        "frame_id": "base_link",
        "grid": GRID,
        "ego_T_grid": np.eye(4),
        "labels": np.full(GRID.dims, OCC3D.empty_class, np.uint8),
        "class_names": OCC3D.class_names,
        "empty_class": OCC3D.empty_class,
        "model": "alocc_2d_mini",
    }
    return OccupancyPrediction(**{**arguments, **changes})


def with_block(centre, size, label=CAR, velocity=None, ego_T_grid=None, grid=GRID):
    """A prediction with one filled box, centre and size in metres in the ego frame."""
    pose = np.eye(4) if ego_T_grid is None else ego_T_grid
    index = np.stack(np.meshgrid(*map(np.arange, grid.dims), indexing="ij"), axis=-1)
    points = grid.centers(index) @ pose[:3, :3].T + pose[:3, 3]
    inside = (np.abs(points - centre) <= np.array(size) / 2).all(-1)
    assert inside.any()
    labels = np.full(grid.dims, OCC3D.empty_class, np.uint8)
    labels[inside] = label
    flow = None
    if velocity is not None:
        flow = np.zeros((*grid.dims, 2), np.float32)
        flow[inside] = velocity
    return prediction(labels=labels, flow=flow, ego_T_grid=pose, grid=grid)


def looks_like(rgb: np.ndarray, name: str) -> np.ndarray:
    """Mask of pixels of a class's colour or of that colour lightened or darkened by up to half."""
    colour = np.array(PALETTE[name], float)
    offset = rgb.astype(float) - colour
    found = np.zeros(rgb.shape[:-1], bool)
    for end in (0.0, 255.0):
        way = end - colour
        amount = np.clip(offset @ way / (way @ way), 0, 0.5)
        found |= np.abs(offset - amount[..., None] * way).max(-1) <= 4
    return found


def centre_of(mask: np.ndarray) -> tuple[float, float]:
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def test_what_was_not_observed_is_pale_and_grey_where_it_is_empty():
    """A car on the right of the vehicle, and everything to the left was seen."""
    given = with_block((10.0, -20.0, 0.5), (8.0, 8.0, 1.6))
    observed = np.zeros(GRID.dims, np.bool_)
    observed[:, 100:] = True
    whole = birds_eye_view(given)
    view = birds_eye_view(dataclasses.replace(given, observed=observed))
    middle = whole.rgb.shape[1] // 2
    np.testing.assert_array_equal(view.rgb[:, :middle], whole.rgb[:, :middle])
    car = looks_like(whole.rgb, "car")
    right = np.arange(whole.rgb.shape[1]) >= middle
    assert (view.rgb[right & ~car & (whole.rgb == FREE_COLOUR).all(-1)] == UNKNOWN_COLOUR).all()
    pale = np.abs(view.rgb[car].astype(float) - UNKNOWN_COLOUR).sum()
    assert pale < 0.45 * np.abs(whole.rgb[car].astype(float) - UNKNOWN_COLOUR).sum()


def test_a_car_ahead_on_the_left_is_up_on_the_left():
    view = birds_eye_view(with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6)))
    car = looks_like(view.rgb, "car")
    row, column = centre_of(car)
    height, width = car.shape
    assert row == pytest.approx(height * (40 - 20) / 80, abs=2)
    assert column == pytest.approx(width * (40 - 10) / 80, abs=2)
    rows, columns = np.nonzero(car)
    assert np.ptp(rows) > 1.8 * np.ptp(columns)  # it is longer along x than along y
    assert view.pixel(10.0, 20.0) == pytest.approx((column, row), abs=3)


def test_on_the_whole_page_it_stays_there():
    empty = prediction_image(prediction()).astype(int)
    page = prediction_image(with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6))).astype(int)
    above = np.abs(page - empty)[:800, :860].max(-1) > 0
    row, column = centre_of(above)
    other = prediction_image(with_block((-20.0, -10.0, 0.5), (4.4, 2.0, 1.6))).astype(int)
    row_behind, column_right = centre_of(np.abs(other - empty)[:800, :860].max(-1) > 0)
    assert row_behind - row == pytest.approx(400, abs=8)
    assert column_right - column == pytest.approx(200, abs=8)


def test_a_grid_in_a_lidar_frame_is_shown_on_ego_axes():
    """nuScenes' lidar: x right, y forward, 1.8 m up, a degree of tilt."""
    ego_T_lidar = matrix_from_pose((0.94, 0.0, 1.84), (0.0085, 0.0, -0.70708, 0.70708))
    grid = VoxelGrid.from_ranges((-50, 50, 0.5), (-50, 50, 0.5), (-5, 3, 0.5))
    shown = with_block((20.0, 10.0, 0.5), (5.0, 2.5, 2.0), ego_T_grid=ego_T_lidar, grid=grid)
    view = birds_eye_view(shown)
    row, column = centre_of(looks_like(view.rgb, "car"))
    assert view.pixel(10.0, 20.0) == pytest.approx((column, row), abs=8)
    side = side_view(with_block((20.0, 0.0, 0.5), (5, 2.5, 2), ego_T_grid=ego_T_lidar, grid=grid))
    row, column = centre_of(looks_like(side.rgb, "car"))
    right, up = side.pixel(20.0, 0.5)
    assert (column, row) == pytest.approx((right, up), abs=10)


def test_a_turned_grid_leaves_corners_outside():
    ego_T_grid = matrix_from_pose((0, 0, 0), (0, 0, np.sin(np.pi / 8), np.cos(np.pi / 8)))
    view = birds_eye_view(prediction(ego_T_grid=ego_T_grid))
    np.testing.assert_array_equal(view.rgb[0, 0], OUTSIDE_COLOUR)
    middle = view.rgb[view.rgb.shape[0] // 2, view.rgb.shape[1] // 2]
    np.testing.assert_array_equal(middle, FREE_COLOUR)


NAMES = ("car", "vegetation", "driveable_surface", "pedestrian", "free")
SMALL = VoxelGrid((-1.5, -2.0, -1.0), (0.5, 0.5, 0.5), (6, 8, 5))


@given(hnp.arrays(np.uint8, SMALL.dims, elements=st.sampled_from([0, 1, 2, 3, 4, 4, 4, 255])))
def test_every_column_shows_its_topmost_class(labels):
    view = birds_eye_view(
        prediction(labels=labels, grid=SMALL, class_names=NAMES, empty_class=4), 64
    )
    for i in range(6):
        for j in range(8):
            x, y, _ = SMALL.centers((i, j, 0))
            column, row = view.pixel(y, x)
            pixel = view.rgb[int(row), int(column)]
            occupied = [int(v) for v in labels[i, j] if v not in (4, 255)]
            if occupied:
                assert looks_like(pixel[None], NAMES[occupied[-1]]).all()
            elif 255 in labels[i, j]:
                np.testing.assert_array_equal(pixel, UNKNOWN_COLOUR)
            else:
                np.testing.assert_array_equal(pixel, FREE_COLOUR)


def test_higher_is_lighter():
    low = birds_eye_view(with_block((10.0, 0.0, -0.8), (8, 8, 0.4)))
    high = birds_eye_view(with_block((10.0, 0.0, 5.2), (8, 8, 0.4)))
    column, row = map(int, low.pixel(0.0, 10.0))
    assert high.rgb[row, column].astype(int).sum() > low.rgb[row, column].astype(int).sum()


def test_the_side_view_shows_what_is_nearest_to_the_right():
    """A pedestrian to the right hides a car behind it; both stand ahead of the vehicle."""
    labels = with_block((10.0, 3.0, 0.6), (4.4, 2.0, 1.6)).labels.copy()
    walker = with_block((10.0, -3.0, 0.6), (0.8, 0.8, 1.6), PEDESTRIAN).labels
    labels[walker == PEDESTRIAN] = PEDESTRIAN
    view = side_view(prediction(labels=labels))
    column, row = map(int, view.pixel(10.0, 0.6))
    assert looks_like(view.rgb[row, column][None], "pedestrian").all()
    beside, row = map(int, view.pixel(11.5, 0.6))
    assert looks_like(view.rgb[row, beside][None], "car").all()
    row_car = centre_of(looks_like(view.rgb, "car"))
    assert row_car[1] > view.rgb.shape[1] / 2  # ahead is to the right
    sky = view.rgb[int(view.pixel(10.0, 4.0)[1]), column]
    np.testing.assert_array_equal(sky, FREE_COLOUR)
    far = side_view(with_block((10.0, 20.0, 0.6), (4.4, 2.0, 1.6)))
    assert (far.rgb == FREE_COLOUR).all()
    with pytest.raises(ViewerError, match=r"side view of \|y\| <= 6.0 m, but the grid's voxels"):
        shifted = matrix_from_pose((0, 60, 0), (0, 0, 0, 1))
        side_view(prediction(ego_T_grid=shifted))


def test_an_empty_grid_has_a_page_without_class_colours():
    page = prediction_image(prediction())
    assert page.dtype == np.uint8
    assert page.shape[2] == 3
    for name in ("car", "vegetation", "manmade", "driveable_surface"):
        assert not (page == PALETTE[name]).all(-1).any()


def test_the_legend_lists_only_what_occurs():
    page = prediction_image(with_block((-20.0, 20.0, 0.5), (4, 4, 2)))
    legend = page[900:, :880]
    assert (legend == PALETTE["car"]).all(-1).sum() > 100
    for name in ("truck", "vegetation", "manmade", "sidewalk"):
        assert not (legend == PALETTE[name]).all(-1).any()


def test_ids_without_a_name_stand_out():
    unnamed = prediction(labels=np.full(GRID.dims, 42, np.uint8))
    assert (birds_eye_view(unnamed).rgb[..., 1] < 130).all()
    page = prediction_image(unnamed)
    assert (page == (255, 0, 255)).all(-1).any()


def test_everything_that_moves_has_one_arrow_above_it():
    car = with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6), velocity=(6.0, -1.0))
    positions, velocities = motion_arrows(car)
    np.testing.assert_allclose(velocities, [(6.0, -1.0)], rtol=1e-6)
    np.testing.assert_allclose(positions, [(20.0, 10.0, 1.4)], atol=0.21)
    other = with_block((24.0, 10.0, 0.5), (2.0, 2.0, 1.6), velocity=(-3.0, 0.0))
    both = dataclasses.replace(
        car, labels=np.minimum(car.labels, other.labels), flow=car.flow + other.flow
    )
    assert len(motion_arrows(both)[0]) == 2
    lidar = matrix_from_pose((0.94, 0.0, 1.84), (0, 0, -0.70711, 0.70711))
    turned = with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6), velocity=(6.0, -1.0), ego_T_grid=lidar)
    np.testing.assert_allclose(motion_arrows(turned)[0], [(20.0, 10.0, 1.4)], atol=0.41)


def test_a_long_patch_of_motion_has_several_arrows():
    """A queue of touching cars has several arrows, at most 8 m apart."""
    queue = with_block((0.0, 10.0, 0.5), (60.0, 2.0, 1.6), velocity=(6.0, 0.0))
    positions, _ = motion_arrows(queue)
    x = np.sort(positions[:, 0])
    assert x[0] < -25 and x[-1] > 25
    assert np.diff(x).max() <= 8.001


@pytest.mark.parametrize(
    ("label", "velocity"),
    [("manmade", (5.0, 0.0)), ("free", (5.0, 0.0)), ("car", (0.2, 0.1)), ("car", None)],
)
def test_what_does_not_move_has_no_arrow(label, velocity):
    still = with_block(
        (20.0, 10.0, 0.5), (4, 2, 1.6), OCC3D.class_names.index(label), velocity=velocity
    )
    assert len(motion_arrows(still)[0]) == 0


def test_an_arrow_points_where_the_car_goes():
    """The pixels that flow adds to the page reach ahead of the car and nowhere behind it."""
    place, size = (10.0, 10.0, 0.5), (2.0, 2.0, 1.6)
    still = prediction_image(with_block(place, size)).astype(int)
    moving = prediction_image(with_block(place, size, velocity=(8.0, 0.0))).astype(int)
    changed = (np.abs(moving - still).max(-1) > 30)[100:600, :860]
    rows, columns = np.nonzero(changed)
    view = birds_eye_view(with_block(place, size))
    column, row = view.pixel(10.0, 10.0)
    offset = prediction_offset()
    assert np.ptp(rows) == pytest.approx(80, abs=16)  # 8 m at ten pixels a metre
    assert rows.max() <= offset[0] + row + 8
    assert columns.mean() == pytest.approx(offset[1] + column, abs=8)


def prediction_offset() -> tuple[int, int]:
    """Row and column of the map's upper left corner on the page: where unobserved voxels start."""
    unknown = prediction(labels=np.full(GRID.dims, 255, np.uint8))
    page = prediction_image(unknown)
    rows, columns = np.nonzero((page[:800] == UNKNOWN_COLOUR).all(-1))
    return int(rows.min()), int(columns.min())


def nuscenes_rig(order=None) -> CameraRig:
    yaw = {
        "CAM_FRONT": 0,
        "CAM_FRONT_LEFT": 55,
        "CAM_FRONT_RIGHT": -55,
        "CAM_BACK": 180,
        "CAM_BACK_LEFT": 110,
        "CAM_BACK_RIGHT": -110,
    }
    return rig_of({name: yaw[name] for name in order or yaw})


def rig_of(yaw_degrees: dict[str, float]) -> CameraRig:
    K = np.array([[100.0, 0, 80], [0, 100, 45], [0, 0, 1]])
    optical = matrix_from_pose((0, 0, 0), (-0.5, 0.5, -0.5, 0.5))
    cameras = []
    for name, degrees in yaw_degrees.items():
        half = np.radians(degrees) / 2
        turn = matrix_from_pose((0, 0, 1.5), (0, 0, np.sin(half), np.cos(half)))
        cameras.append(CameraCalibration(name, 160, 90, K, turn @ optical))
    return CameraRig(tuple(cameras))


@given(st.permutations(nuscenes_rig().names))
def test_cameras_stand_as_one_looks_out(order):
    assert camera_rows(nuscenes_rig(order)) == [
        ["CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT"],
        ["CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT"],
    ]


def test_a_rig_of_five_without_a_rear_camera():
    rig = rig_of({"FRONT": 0, "FL": 45, "FR": -45, "SL": 90, "SR": -90})
    assert camera_rows(rig) == [["SL", "FL", "FRONT"], ["FR", "SR"]]


COLOURS = {"CAM_FRONT_LEFT": (200, 30, 30), "CAM_FRONT": (30, 200, 30), "CAM_BACK": (30, 30, 200)}


def frame_set(**changes) -> CameraFrame:
    rig = nuscenes_rig()
    images = {name: np.full((90, 160, 3), colour, np.uint8) for name, colour in COLOURS.items()}
    arguments = {
        "rig": rig,
        "images": images,
        "stamps_ns": {name: 10**9 + 4_000_000 * i for i, name in enumerate(images)},
        "world_T_ego": {name: np.eye(4) for name in images},
        "reference_camera": "CAM_FRONT",
    }
    return CameraFrame(**{**arguments, **changes})


def test_the_page_shows_the_images_in_their_places_and_in_rgb():
    page = prediction_image(prediction(), frame_set())
    at = {name: centre_of((page == colour).all(-1)) for name, colour in COLOURS.items()}
    assert at["CAM_FRONT_LEFT"][1] < at["CAM_FRONT"][1]
    assert at["CAM_BACK"][0] > at["CAM_FRONT"][0]
    assert at["CAM_BACK"][1] == pytest.approx(at["CAM_FRONT"][1], abs=5)
    missing = (page[:, 880:] == UNKNOWN_COLOUR).all(-1).sum()
    assert missing > 3 * 200 * 120  # three cameras of the rig gave no image


def test_an_old_image_and_a_broken_history_are_written_in_red():
    def red(page: np.ndarray) -> int:
        return int((page == (196, 32, 32)).all(-1).sum())

    assert red(prediction_image(prediction(), frame_set())) == 0
    assert red(prediction_image(prediction(), frame_set(reused=("CAM_BACK",)))) > 200
    assert red(prediction_image(prediction(history_break="gap of 2.1 s"))) > 100
    endless = prediction(history_break="gap of 2.1 s; " * 60)
    assert prediction_image(endless).shape == prediction_image(prediction()).shape


def test_several_predictions_share_a_sheet():
    first = with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6))
    one, four = sheet_image([first]), sheet_image([first] * 4, columns=2)
    cars_on_one = looks_like(one[:400], "car").sum()
    assert cars_on_one > 20
    tiles = looks_like(four, "car")
    height, width = tiles.shape
    quarters = (tiles[: height // 2, : width // 2], tiles[: height // 2, width // 2 :])
    assert [part.sum() for part in quarters] == [cars_on_one] * 2
    with pytest.raises(ViewerError, match="got 0 predictions"):
        sheet_image([])
    other = dataclasses.replace(first, class_names=("others", *OCC3D.class_names[1:-1], "air"))
    with pytest.raises(ViewerError, match="with 2 sets of class names"):
        sheet_image([first, other])


@pytest.mark.parametrize(
    "grid",
    [
        VoxelGrid.from_ranges((-51.2, 51.2, 0.2), (-51.2, 51.2, 0.2), (-5, 3, 0.2)),
        VoxelGrid.from_ranges((0, 51.2, 0.4), (-12.8, 12.8, 0.8), (-2, 4.4, 6.4)),
        VoxelGrid((-8.0, -8.0, 0.0), (4.0, 4.0, 2.0), (4, 4, 1)),
    ],
)
def test_grids_of_other_shapes_have_pages(grid):
    labels = np.full(grid.dims, CAR, np.uint8)
    page = prediction_image(prediction(labels=labels, grid=grid))
    assert looks_like(page[:, :900], "car").mean() > 0.4
    assert max(page.shape) < 2600


def test_an_image_survives_its_file(tmp_path):
    page = prediction_image(with_block((20.0, 10.0, 0.5), (4.4, 2.0, 1.6)), frame_set())
    path = tmp_path / "images" / "frame_0001.png"
    write_png(path, page)
    np.testing.assert_array_equal(np.array(Image.open(path)), page)


@given(hnp.arrays(np.uint8, (5, 3)), hnp.arrays(np.float64, 5, elements=st.floats(-3, 3)))
def test_shading_stays_between_a_colour_and_black_or_white(rgb, lightness):
    shaded = shade(rgb, lightness)
    up = lightness >= 0
    assert (shaded[up] >= rgb[up]).all()
    assert (shaded[~up] <= rgb[~up]).all()
    np.testing.assert_array_equal(shade(rgb, np.zeros(5)), rgb)


def test_a_real_label_shows_its_road_under_the_vehicle(shared_dir):
    path = shared_dir / "data" / "occ3d-openocc-labels" / "occ3d_labels.npz"
    with np.load(path) as file:
        view = birds_eye_view(prediction(labels=file["semantics"]))
    column, row = map(int, view.pixel(0.0, 4.0))
    patch = view.rgb[row - 10 : row + 10, column - 8 : column + 8]
    assert looks_like(patch, "driveable_surface").mean() > 0.9


def test_the_ego_frame_is_where_a_pose_says():
    """A grid moved by a pose shows a box at the same place as the unmoved grid does."""
    pose = matrix_from_pose((3.2, -1.6, 0.4), (0, 0, 0, 1))
    moved = with_block((20.0, 10.0, 0.9), (4.4, 2.0, 1.6), ego_T_grid=pose)
    view = birds_eye_view(moved)
    row, column = centre_of(looks_like(view.rgb, "car"))
    assert view.pixel(10.0, 20.0) == pytest.approx((column, row), abs=4)
    assert invert_transform(pose)[0, 3] == pytest.approx(-3.2)
