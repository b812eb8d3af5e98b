"""The view in perspective compared with rays in small steps, and its visible content."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.labels import LABEL_SETS, PALETTE
from occ_perception.viewer.comparison import (
    CORRECT,
    FREE,
    INVENTED,
    MISSED,
    VERDICT_COLOURS,
    VERDICTS,
    WRONG_CLASS,
    compare,
)
from occ_perception.viewer.views import ViewerError, colours_of_ids
from occ_perception.viewer.volume import (
    ViewPoint,
    difference_image,
    render_volume,
    view_point_behind,
    volume_image,
)

OCC3D = LABEL_SETS["occ3d"]
NAMES = OCC3D.class_names
CAR, ROAD, WALL = (NAMES.index(name) for name in ("car", "driveable_surface", "manmade"))
FREE_CLASS = OCC3D.empty_class
GRID = VoxelGrid.from_ranges((-20, 20, 0.4), (-20, 20, 0.4), (-1, 5.4, 0.4))
SIZE = (150, 100)


def prediction(**changes) -> OccupancyPrediction:
    labels = np.full(GRID.dims, FREE_CLASS, np.uint8)
    labels[:, :, 2] = ROAD
    arguments = {
        "stamp_ns": 1_600_000_000_000_000_000,
        "frame_id": "base_link",
        "grid": GRID,
        "ego_T_grid": np.eye(4),
        "labels": labels,
        "class_names": NAMES,
        "empty_class": FREE_CLASS,
    }
    return OccupancyPrediction(**{**arguments, **changes})


def with_box(lower, upper, label, base=None) -> OccupancyPrediction:
    base = base or prediction()
    first, last = GRID.indices(np.array([lower, upper]) + 1e-6)
    labels = base.labels.copy()
    labels[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = label
    return replace(base, labels=labels)


def rendered(p: OccupancyPrediction, view_point=None, size=SIZE, **arguments):
    drawn = np.ones(256, bool)
    drawn[[p.empty_class, 255]] = False
    view_point = view_point or view_point_behind(p.grid, p.ego_T_grid)
    colours = colours_of_ids(p.class_names)
    return render_volume(
        p.labels, colours, drawn, p.grid, p.ego_T_grid, view_point, size, **arguments
    )


def rays_of(view_point: ViewPoint, size) -> tuple[np.ndarray, np.ndarray]:
    """Origin (3,) and unit directions (H, W, 3) in ego, from the definition of a pinhole."""
    width, height = size
    focal = width / 2 / np.tan(np.radians(view_point.view_angle) / 2)
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    x, y = (columns - (width - 1) / 2) / focal, (rows - (height - 1) / 2) / focal
    pose = view_point.ego_T_eye()
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ pose[:3, :3].T
    return pose[:3, 3], rays / np.linalg.norm(rays, axis=-1, keepdims=True)


SMALL = VoxelGrid((-1.0, -1.5, -0.5), (0.5, 0.5, 0.25), (4, 6, 5))
angles = st.floats(-0.4, 0.4)


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.uint8, SMALL.dims, elements=st.sampled_from([1, 17, 17, 17, 255])),
    st.tuples(angles, angles, angles, st.floats(-1, 1), st.floats(-1, 1)),
    st.tuples(st.floats(-6, 6), st.floats(-6, 6), st.floats(-2, 6)),
)
def test_every_ray_stops_where_small_steps_say(labels, tilt, eye):
    """The first drawn voxel along samples 2 cm apart; the grid lies askew in the ego frame."""
    roll, pitch, yaw, x, y = tilt
    quaternion = np.array([roll, pitch, yaw, 1.0])
    ego_T_grid = matrix_from_pose((x, y, 0.3), quaternion / np.linalg.norm(quaternion))
    if np.hypot(eye[0], eye[1]) < 0.5:
        eye = (eye[0] + 2.0, eye[1], eye[2])
    view_point, size = ViewPoint(eye, (0.0, 0.0, 0.2), 70.0), (14, 10)
    p = prediction(labels=labels, grid=SMALL, ego_T_grid=ego_T_grid)
    image = rendered(p, view_point, size)

    origin, rays = rays_of(view_point, size)
    distances = np.arange(0.0, 14.0, 0.02)
    samples = origin + distances[:, None] * rays[:, :, None]
    in_grid = (samples - ego_T_grid[:3, 3]) @ ego_T_grid[:3, :3]
    voxels = SMALL.indices(in_grid)
    inside = SMALL.contains(voxels)
    flat = np.where(inside, np.ravel_multi_index(voxels.T, SMALL.dims, mode="clip").T, -1)
    solid = inside & ~np.isin(labels.ravel()[flat], (17, 255))
    hit, step = solid.any(axis=-1), solid.argmax(axis=-1)
    expected = np.take_along_axis(flat, step[..., None], axis=-1)[..., 0]

    # The vehicle's marker may stand in between; samples may step over a corner.
    clear = ~np.isin(image.voxel, (-3,))
    same = (image.voxel == expected) & hit & clear
    assert np.abs(image.distance[same] - distances[step[same]]).max(initial=0) < 0.021
    disagree = clear & np.where(hit, image.voxel != expected, image.voxel >= 0)
    for row, column in zip(*np.nonzero(disagree), strict=True):
        # The result is a drawn voxel, and the ray crosses it by less than the sample distance.
        seen = image.voxel[row, column]
        assert seen >= 0, (row, column)
        assert labels.ravel()[seen] == 1
        assert (flat[row, column] == seen).sum() <= 1


@pytest.mark.parametrize("name", ["driveable_surface", "sidewalk", "terrain", "other_flat"])
def test_level_open_ground_has_the_colour_of_the_legend(name):
    """Its colour is nearest to that of its class, out to the haze at the horizon."""
    labels = np.full(GRID.dims, FREE_CLASS, np.uint8)
    labels[:, :, 2] = NAMES.index(name)
    image = rendered(prediction(labels=labels))
    colours = image.rgb[image.voxel >= 0].astype(int)
    legend = OCC3D.palette()[:-1].astype(int)
    nearest = np.abs(colours[:, None] - legend).sum(-1).argmin(-1)
    assert len(colours) > 5000
    assert (nearest == NAMES.index(name)).mean() > 0.97


def test_a_tower_throws_a_shadow_away_from_the_sun():
    """The sun stands behind the viewer to the left, so the shadow falls ahead to the right."""
    view_point = ViewPoint((-16.0, 0.0, 14.0), (4.0, 0.0, 0.0))
    bare = rendered(prediction(), view_point).rgb.astype(float)
    tower = rendered(with_box((4, 0, 0.2), (5.2, 1.2, 5.0), WALL), view_point)
    darker = bare.sum(-1) - tower.rgb.sum(-1, dtype=float)
    shaded = (darker > 60) & (tower.voxel >= 0)
    shaded[shaded] = prediction().labels.ravel()[tower.voxel[shaded]] == ROAD
    i, j, _ = np.unravel_index(tower.voxel[shaded], GRID.dims)
    where = GRID.centers(np.stack([i, j, np.full_like(i, 2)], axis=-1))
    assert shaded.sum() > 30
    assert where[:, 0].mean() > 5.0
    assert where[:, 1].mean() < 0.6


def test_corners_between_wall_and_ground_are_darker_than_the_open_ground():
    view_point = ViewPoint((-16.0, 0.0, 14.0), (4.0, 0.0, 0.0))
    wall = rendered(with_box((8, -8, 0.2), (8.4, 8, 1.0), WALL), view_point, (300, 200))
    road = wall.voxel >= 0
    i, j, k = np.unravel_index(wall.voxel[road], GRID.dims)
    light = wall.rgb[road].sum(-1)
    x, y = GRID.centers(np.stack([i, j, k], -1))[:, :2].T
    level = (k == 2) & (np.abs(y) < 6)
    at_foot, before = level & (np.abs(x - 7.8) < 0.1), level & (np.abs(x - 5.0) < 0.3)
    assert np.median(light[at_foot]) < np.median(light[before]) - 12


def test_a_grid_turned_by_a_quarter_gives_the_same_image():
    """The same scene in a lidar-like frame (x right, y forward) looks the same."""
    p = with_box((4, -2, 0.2), (8, 0.4, 1.8), CAR)
    p = with_box((6, 4, 0.2), (7, 9, 4.2), WALL, p)
    pose = np.eye(4)
    pose[:2, :2] = [[0, 1], [-1, 0]]
    turned = prediction(labels=p.labels.transpose(1, 0, 2)[::-1].copy(), ego_T_grid=pose)
    first, second = rendered(p).rgb.astype(int), rendered(turned).rgb.astype(int)
    # Rounding decides on which side of an edge a ray along it runs.
    assert (np.abs(first - second).max(-1) > 2).mean() < 0.002


def test_threads_do_not_change_the_image():
    p = with_box((4, -2, 0.2), (8, 0.4, 1.8), CAR)
    one, three = rendered(p, threads=1), rendered(p, threads=3)
    np.testing.assert_array_equal(one.rgb, three.rgb)
    np.testing.assert_array_equal(one.voxel, three.voxel)


def test_the_vehicle_stands_in_the_image_at_the_origin():
    view_point = view_point_behind(GRID, np.eye(4))
    met = rendered(prediction(), view_point).voxel
    rows, columns = np.nonzero(met == -3)
    (place,), _ = view_point.pixels(np.array([(1.4, 0.0, 0.7)]), SIZE)
    assert columns.mean() == pytest.approx(place[0], abs=2)
    assert rows.mean() == pytest.approx(place[1], abs=3)


@given(hnp.arrays(np.float64, (4, 3), elements=st.floats(-30, 30)))
def test_pixels_and_rays_agree(points):
    view_point = ViewPoint((-20.0, 3.0, 10.0), (5.0, 0.0, 0.0))
    places, depths = view_point.pixels(points, SIZE)
    origin, rays = rays_of(view_point, SIZE)
    for point, (column, row), depth in zip(points, places, depths, strict=True):
        if depth > 0.5 and 0 <= column < SIZE[0] - 1 and 0 <= row < SIZE[1] - 1:
            towards = (point - origin) / np.linalg.norm(point - origin)
            nearest = rays[round(row), round(column)]
            assert np.degrees(np.arccos(np.clip(towards @ nearest, -1, 1))) < 0.4


def test_a_moving_object_has_an_arrow_in_its_direction():
    p = with_box((4, -1, 0.2), (8, 0.8, 1.8), CAR)
    flow = np.zeros((*GRID.dims, 2), np.float32)
    flow[p.labels == CAR] = (0.0, 6.0)
    still = volume_image(p, SIZE).astype(int)
    moving = volume_image(replace(p, flow=flow), SIZE).astype(int)
    _, columns = np.nonzero(np.abs(moving - still).max(-1) > 60)
    car = np.nonzero((np.abs(still - PALETTE["car"]).max(-1) < 60).any(0))[0]
    assert columns.min() < car.min() - 10  # left in the image is +y
    assert columns.max() <= car.max()


@given(
    hnp.arrays(np.uint8, (3, 4, 2), elements=st.sampled_from([0, 1, 2, 255])),
    hnp.arrays(np.uint8, (3, 4, 2), elements=st.sampled_from([0, 1, 2, 255])),
    hnp.arrays(np.bool_, (3, 4, 2)),
)
def test_verdicts_follow_from_the_two_voxels(predicted, true, counted):
    """Voxel by voxel; the two label sets number their classes differently."""
    grid = VoxelGrid((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (3, 4, 2))
    names, others = ("car", "truck", "free"), ("truck", "free", "car")
    p = prediction(labels=predicted, grid=grid, class_names=names, empty_class=2)
    t = prediction(labels=true, grid=grid, class_names=others, empty_class=1)
    verdict = compare(p, t, counted).verdict_XYZ
    for at in np.ndindex(3, 4, 2):
        name = names[predicted[at]] if predicted[at] != 255 else "free"
        if true[at] == 255 or not counted[at]:
            expected = 255
        elif name == others[true[at]]:
            expected = FREE if name == "free" else CORRECT
        elif name == "free":
            expected = MISSED
        else:
            expected = INVENTED if others[true[at]] == "free" else WRONG_CLASS
        assert verdict[at] == expected
    assert sum(compare(p, t).counts) == np.isin(compare(p, t).verdict_XYZ, range(4)).sum()


def test_the_difference_shows_each_verdict_in_its_colour():
    truth = with_box((4, 3, 0.2), (8, 5, 1.8), CAR)
    guess = with_box((4, -5, 0.2), (8, -3, 1.8), CAR)
    guess = with_box((-4, -8, -0.2), (4, 8, 0.2), WALL, guess)
    rgb = difference_image(compare(guess, truth), (300, 200)).astype(int)
    for name, colour in zip(VERDICTS, VERDICT_COLOURS, strict=True):
        assert (np.abs(rgb - colour).max(-1) < 40).sum() > 40, name
    elsewhere = prediction(grid=replace(GRID, lower=(-19.0, -20.0, -1.0)))
    with pytest.raises(ViewerError, match=r"lower corner at \[-19.0, -20.0, -1.0\].*must be the"):
        compare(elsewhere, truth)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0.0, 0.0, 9.0), (0.0, 0.0, 0.0)), "is vertical"),
        (((-9.0, 0.0, 9.0), (0.0, 0.0, 0.0), 170.0), "expected 1 to 150"),
    ],
)
def test_impossible_view_points_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ViewPoint(*arguments)


def test_without_numba_the_page_has_no_volume_and_the_error_names_the_extra():
    code = """
import sys
sys.modules["numba"] = None
import importlib.util
import numpy as np
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.viewer import prediction_image, volume_image
grid = VoxelGrid((-4.0, -4.0, 0.0), (1.0, 1.0, 1.0), (8, 8, 2))
p = OccupancyPrediction(0, "base_link", grid, np.eye(4), np.zeros(grid.dims, np.uint8),
                        ("car", "free"), 1)
assert prediction_image(p).shape[2] == 3
try:
    volume_image(p)
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'occ_perception[viewer]'" in done.stdout


def test_a_real_label_is_drawn_in_full(shared_dir):
    """Every class that the label has in front of the viewer appears, and the road leads ahead."""
    path = shared_dir / "data" / "occ3d-openocc-labels" / "occ3d_labels.npz"
    grid = VoxelGrid.from_ranges((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4))
    with np.load(path) as file:
        labels = file["semantics"]
    image = rendered(prediction(labels=labels, grid=grid), size=(300, 200))
    seen = np.unique(labels.ravel()[image.voxel[image.voxel >= 0]])
    ahead = np.unique(labels[100:])
    assert set(ahead) - {FREE_CLASS} <= set(seen)
    below = image.voxel[150:180, 140:160]
    assert (labels.ravel()[below[below >= 0]] == ROAD).mean() > 0.8
