"""Occupancy over camera images: voxels are drawn where the calibration projects them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from small_footage import guess_at

from occ_perception.frames import CameraCalibration, CameraFrame, CameraRig
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import PALETTE
from occ_perception.viewer.camera_overlay import overlay_panel, scaled, with_occupancy
from occ_perception.viewer.panels import tile_width

GRID = VoxelGrid(lower=(0.0, -4.0, -2.0), voxel_size=(0.5, 0.5, 0.5), dims=(24, 16, 8))
AHEAD = np.array([[0.0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
K = np.array([[90.0, 0, 63.5], [0, 90, 47.5], [0, 0, 1]])
GREY = 128


def frame_of(ego_moved_m: float) -> CameraFrame:
    """One camera that looks ahead; it was exposed when the vehicle had moved on."""
    moved = np.eye(4)
    moved[0, 3] = ego_moved_m
    names = ("CAM_FRONT", "CAM_BACK")
    rig = CameraRig(tuple(CameraCalibration(name, 128, 96, K, AHEAD) for name in names))
    return CameraFrame(
        rig=rig,
        images={name: np.full((96, 128, 3), GREY, np.uint8) for name in names},
        stamps_ns={"CAM_FRONT": 0, "CAM_BACK": 1},
        world_T_ego={"CAM_FRONT": np.eye(4), "CAM_BACK": moved},
        reference_camera="CAM_FRONT",
    )


def box_of(image: np.ndarray) -> np.ndarray:
    """Corners (column, row) of what is drawn, lower and upper."""
    rows, columns = np.nonzero((image != GREY).any(axis=2))
    return np.array([[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]])


def test_a_voxel_covers_its_own_pixels_in_each_camera() -> None:
    labels = np.full(GRID.dims, 17, np.uint8)
    labels[16, 8, 4] = 4  # x 8.0 to 8.5, y 0 to 0.5, z 0 to 0.5
    guess = replace(guess_at(0), labels=labels, grid=GRID, ego_T_grid=np.eye(4), flow=None)
    drawn = with_occupancy(frame_of(2.0), guess).images
    for name, distance in (("CAM_FRONT", 8.0), ("CAM_BACK", 6.0)):
        side = 0.5 * 90 / distance
        expected = [[64 - side, 48 - side], [64, 48]]
        np.testing.assert_allclose(box_of(drawn[name]), expected, atol=1.0)
    middle = drawn["CAM_FRONT"][45, 61].astype(float)
    car = np.array(PALETTE["car"], float)
    assert abs(np.argmax(middle) - np.argmax(car)) == 0
    assert np.corrcoef(middle - GREY, car - GREY)[0, 1] > 0.9


def test_what_is_free_or_unknown_leaves_the_image_as_it_is() -> None:
    labels = np.full(GRID.dims, 17, np.uint8)
    labels[10:] = 255
    guess = replace(guess_at(0), labels=labels, grid=GRID, ego_T_grid=np.eye(4), flow=None)
    drawn = with_occupancy(frame_of(0.0), guess).images
    assert all((image == GREY).all() for image in drawn.values())


def test_a_scaled_frame_shows_the_same_voxel_at_the_scaled_place() -> None:
    labels = np.full(GRID.dims, 17, np.uint8)
    labels[16, 8, 4] = 4
    guess = replace(guess_at(0), labels=labels, grid=GRID, ego_T_grid=np.eye(4), flow=None)
    frame = frame_of(0.0)
    large = box_of(with_occupancy(frame, guess).images["CAM_FRONT"])
    for width in (512, 64):
        small = scaled(frame, width)
        assert small.images["CAM_FRONT"].shape == (width * 96 // 128, width, 3)
        box = box_of(with_occupancy(small, guess).images["CAM_FRONT"])
        factor = width / 128
        np.testing.assert_allclose(box, factor * large, atol=1.0 + factor)
        coarse = box_of(with_occupancy(small, guess, step=2).images["CAM_FRONT"])
        np.testing.assert_allclose(coarse, box, atol=3.0)


def test_the_panel_has_every_camera_and_the_asked_width() -> None:
    labels = np.full(GRID.dims, 17, np.uint8)
    labels[12:14] = 4
    guess = replace(guess_at(0), labels=labels, grid=GRID, ego_T_grid=np.eye(4), flow=None)
    frame = frame_of(0.0)
    panel = overlay_panel(frame, guess, 600)
    assert panel.shape[1] == 600 and panel.shape[0] <= 1200
    width = tile_width(frame.rig, (600, 1200))
    # Both look ahead, so they are in one row; below its caption each tile shows the wall of cars.
    for left in (0, width + 6):
        middle = panel[panel.shape[0] // 2, left + width // 2].astype(int)
        assert (np.abs(middle - GREY) > 10).any()
