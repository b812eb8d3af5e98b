"""Projection against a second formula; voxels and their centres; pixel affines."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from occ_perception.geometry import (
    ImageAffine,
    VoxelGrid,
    invert_transform,
    matrix_from_pose,
    project_points,
    scale_intrinsics,
)

FORWARD_CAMERA = matrix_from_pose((1.7, 0.0, 1.5), (-0.5, 0.5, -0.5, 0.5))
"""ego_T_cam of a camera that looks along ego x."""


@st.composite
def intrinsics(draw):
    focal = st.floats(200, 2000)
    return np.array(
        [
            [draw(focal), 0, draw(st.floats(100, 1500))],
            [0, draw(focal), draw(st.floats(100, 800))],
            [0, 0, 1.0],
        ]
    )


POINTS = hnp.arrays(np.float64, (6, 3), elements=st.floats(-50, 50))


@given(intrinsics(), POINTS)
def test_projection_agrees_with_opencv(K, points):
    cam_T_ego = invert_transform(FORWARD_CAMERA)
    pixels, depth = project_points(K, cam_T_ego, points)
    in_front = depth > 1e-3
    rotation, _ = cv2.Rodrigues(cam_T_ego[:3, :3])
    expected, _ = cv2.projectPoints(points, rotation, cam_T_ego[:3, 3], K, np.zeros(4))
    np.testing.assert_allclose(pixels[in_front], expected[in_front, 0], rtol=1e-6, atol=1e-3)
    assert np.isnan(pixels[depth <= 0]).all()


def test_a_forward_camera_sees_left_on_the_left_and_up_above():
    K = np.array([[1000.0, 0, 800], [0, 1000, 450], [0, 0, 1]])
    ahead_left_above = (11.7, 2.0, 2.5)
    pixel, depth = project_points(K, invert_transform(FORWARD_CAMERA), ahead_left_above)
    np.testing.assert_allclose(pixel, (800 - 200, 450 - 100))
    assert depth == pytest.approx(10.0)


@given(
    intrinsics(),
    st.floats(0.2, 1.0),
    st.tuples(st.floats(-300, 300), st.floats(-300, 300)),
    POINTS,
)
def test_resizing_and_cropping_the_image_moves_the_projection(K, scale, offset, points):
    """Projecting to native pixels and moving them = projecting with the moved intrinsics."""
    affine = ImageAffine(scale, offset)
    cam_T_ego = invert_transform(FORWARD_CAMERA)
    native, depth = project_points(K, cam_T_ego, points)
    moved, _ = project_points(affine.matrix() @ K, cam_T_ego, points)
    visible = depth > 0.1
    np.testing.assert_allclose(
        moved[visible], scale * native[visible] + offset, rtol=1e-9, atol=1e-6
    )


@given(intrinsics(), st.floats(0.1, 4.0))
def test_scaling_intrinsics_is_a_pure_resize(K, factor):
    before = K.copy()
    np.testing.assert_allclose(
        scale_intrinsics(K, factor), ImageAffine(factor, (0.0, 0.0)).matrix() @ K
    )
    np.testing.assert_array_equal(K, before)


@st.composite
def grids(draw):
    lower = tuple(draw(st.floats(-60, 10)) for _ in range(3))
    size = tuple(draw(st.floats(0.05, 2)) for _ in range(3))
    dims = tuple(draw(st.integers(1, 40)) for _ in range(3))
    return VoxelGrid(lower, size, dims)


@given(grids(), st.data())
def test_a_voxel_contains_its_centre(grid, data):
    index = np.array([data.draw(st.integers(0, count - 1)) for count in grid.dims])
    centre = grid.centers(index)
    np.testing.assert_array_equal(grid.indices(centre), index)
    assert grid.contains(index)
    assert (centre > grid.lower).all()
    assert (centre < grid.upper).all()


@given(grids(), hnp.arrays(np.float64, (20, 3), elements=st.floats(-100, 100)))
def test_a_point_lies_within_half_a_voxel_of_its_voxels_centre(grid, points):
    indices = grid.indices(points)
    away = np.abs(grid.centers(indices) - points)
    assert (away <= np.array(grid.voxel_size) * (0.5 + 1e-6)).all()
    inside = ((points >= grid.lower) & (points < grid.upper)).all(-1)
    edge = (np.abs(points - grid.lower) < 1e-9) | (np.abs(points - grid.upper) < 1e-9)
    decided = ~edge.any(-1)
    np.testing.assert_array_equal(grid.contains(indices)[decided], inside[decided])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -1e30])
def test_a_point_that_is_nowhere_is_in_no_voxel(value):
    grid = VoxelGrid.from_ranges((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4))
    assert not grid.contains(grid.indices((value, 0.0, 0.0)))
    assert not grid.contains(grid.indices((0.0, 0.0, value)))


@pytest.mark.parametrize(
    ("ranges", "dims"),
    [
        (((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4)), (200, 200, 16)),
        (((-50, 50, 0.5), (-50, 50, 0.5), (-5, 3, 0.5)), (200, 200, 16)),
        (((-51.2, 51.2, 0.2), (-51.2, 51.2, 0.2), (-5, 3, 0.2)), (512, 512, 40)),
        (((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 6.4)), (200, 200, 1)),
    ],
)
def test_the_published_grids(ranges, dims):
    grid = VoxelGrid.from_ranges(*ranges)
    assert grid.dims == dims
    assert grid.num_voxels == np.prod(dims)
    np.testing.assert_allclose(grid.upper, [upper for _, upper, _ in ranges])
    np.testing.assert_allclose(grid.centers((0, 0, 0)), [low + step / 2 for low, _, step in ranges])


FULL = (-40, 40, 0.4)


@pytest.mark.parametrize(
    ("ranges", "text"),
    [
        ((FULL, FULL), "expected ranges for x, y and z, got 2"),
        ((FULL, FULL, (-1, 5.4, 0.5)), r"z range \[-1, 5.4\] is 12.8000 voxels of 0.5 m"),
        ((FULL, (40, -40, 0.4), FULL), "y range .* expected lower < upper"),
        (((40, -40, -0.4), FULL, FULL), "x range .* a step above 0"),
        ((FULL, FULL, (-1, 5.4, 0.0)), "z range .* a step above 0"),
        ((FULL, FULL, (-1, np.inf, 0.4)), "z range .* expected lower < upper"),
        ((FULL, FULL, (np.nan, 1, 0.4)), "z range .* expected lower < upper"),
    ],
)
def test_ranges_that_are_no_grid(ranges, text):
    with pytest.raises(ValueError, match=text):
        VoxelGrid.from_ranges(*ranges)


@pytest.mark.parametrize(
    ("lower", "size", "dims", "text"),
    [
        ((0, 0, 0), (0.4, 0.4, 0), (2, 2, 2), "needs positive sizes"),
        ((0, 0, 0), (0.4, 0.4, 0.4), (2, -1, 2), "needs positive sizes"),
        ((0, 0, 0), (0.4, 0.4, np.nan), (2, 2, 2), "not finite"),
        ((0, np.inf, 0), (0.4, 0.4, 0.4), (2, 2, 2), "not finite"),
        ((0, 0, 0), (0.4, 0.4), (2, 2, 2), "needs x, y and z"),
    ],
)
def test_sizes_that_are_no_grid(lower, size, dims, text):
    with pytest.raises(ValueError, match=text):
        VoxelGrid(lower, size, dims)
