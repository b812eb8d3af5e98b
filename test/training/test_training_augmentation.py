"""Augmentation moves images, calibration, labels and velocities together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from occ_training.data.bev_augmentation import BevAugmentation, augment_labels
from occ_training.data.grids import labels_on_grid
from occ_training.data.images import ImageAugmentation, ImagePlan
from occ_training.data.label_files import OCC3D_GRID, FrameLabels
from occ_training.data.records import DatasetError

from occ_perception.geometry import VoxelGrid
from occ_perception.models.card import Preprocessing

PREPROCESSING = Preprocessing(input_size=(256, 704))


@pytest.mark.parametrize("file_size", [(1600, 900), (800, 450)])
@pytest.mark.parametrize("seed", range(6))
def test_a_point_of_the_image_is_found_where_the_pixel_map_puts_it(
    seed: int, file_size: tuple[int, int]
) -> None:
    rng = np.random.default_rng(seed)
    plan = ImageAugmentation().draw(rng, file_size, PREPROCESSING)
    matrix, offset = plan.pixel_map(1600)
    native = np.array([rng.uniform(600, 1000), rng.uniform(520, 620)])
    expected = matrix[:2, :2] @ native + offset[:2]
    u, v = native * file_size[0] / 1600
    columns, rows = np.meshgrid(np.arange(file_size[0]), np.arange(file_size[1]))
    blob = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * 6.0**2))
    image = np.repeat((255 * blob).astype(np.uint8)[..., None], 3, axis=2)
    seen = plan.apply(image, "bicubic")[..., 0].astype(float)
    assert seen.shape == (256, 704)
    where = np.array([(seen * axis).sum() for axis in np.meshgrid(np.arange(704), np.arange(256))])
    # The map of the reference code omits half-pixel offsets (scale, mirror, rotation).
    assert where / seen.sum() == pytest.approx(expected, abs=1.6)


def test_plain_plan_is_the_running_nodes() -> None:
    plan = ImagePlan.plain((1600, 900), PREPROCESSING)
    matrix, offset = plan.pixel_map(1600)
    assert np.array_equal(matrix, np.diag([0.44, 0.44, 1.0]))
    assert offset.tolist() == [0.0, -140.0, 0.0]
    side = replace(PREPROCESSING, input_size=(640, 960), native_size=(1280, 1920))
    assert ImagePlan.plain((1920, 886), side).pixel_map(1920)[1].tolist() == [0.0, 197.0, 0.0]


def test_draws_have_the_order_of_the_reference_code() -> None:
    rng = np.random.default_rng(4)
    plan = ImageAugmentation().draw(rng, (1600, 900), PREPROCESSING)
    again = np.random.default_rng(4)
    scale = 704 / 1600 + again.uniform(-0.06, 0.11)
    width, height = int(1600 * scale), int(900 * scale)
    top = int((1 - again.uniform(0, 0)) * height) - 256
    left = int(again.uniform(0, max(0, width - 704)))
    mirror = again.uniform() < 0.5
    assert plan.crop.resized == (width, height)
    assert plan.crop.box == (left, top, left + 704, top + 256)
    assert plan.mirror == mirror
    assert plan.rotation_deg == again.uniform(-5.4, 5.4)


def test_light_changes_bytes_and_nothing_else() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (450, 800, 3), dtype=np.uint8)
    plain = ImageAugmentation().draw(np.random.default_rng(4), (800, 450), PREPROCESSING)
    lit = ImageAugmentation(light=0.15).draw(np.random.default_rng(4), (800, 450), PREPROCESSING)
    assert replace(lit, contrast=1.0, brightness=1.0) == plain
    assert lit.contrast != 1.0 and abs(lit.contrast - 1.0) < 0.15
    assert lit.brightness != lit.contrast and abs(lit.brightness - 1.0) < 0.15
    upright, lit = replace(plain, rotation_deg=0.0), replace(lit, rotation_deg=0.0)
    before = upright.apply(image, "bicubic").astype(float)
    expected = (before - 128) * lit.contrast + 128 * lit.brightness
    after = lit.apply(image, "bicubic")
    assert np.array_equal(after, expected.round().clip(0, 255).astype(np.uint8))


def labels_of(seed: int, grid: VoxelGrid) -> FrameLabels:
    rng = np.random.default_rng(seed)
    return FrameLabels(
        rng.integers(0, 18, grid.dims, dtype=np.uint8),
        camera_mask_XYZ=rng.random(grid.dims) < 0.5,
        flow_XYZ2=rng.normal(size=(*grid.dims, 2)).astype(np.float32),
    )


TURNING = BevAugmentation(rotation_deg=(-22.5, 22.5))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("augmentation", [BevAugmentation(), TURNING])
def test_labels_move_as_points_do(seed: int, augmentation: BevAugmentation) -> None:
    grid = VoxelGrid((-12.0, -8.0, -1.0), (0.4, 0.4, 0.4), (60, 40, 3))
    labels = labels_of(seed, grid)
    rng = np.random.default_rng(100 + seed)
    bda = augmentation.draw(rng)
    moved = augment_labels(labels, bda, grid)
    voxels = np.stack([rng.integers(0, n, 500) for n in grid.dims], axis=-1)
    source = grid.centers(voxels) @ np.linalg.inv(bda).T
    came_from = grid.indices(source)
    inside = grid.contains(came_from)
    here, there = tuple(voxels[inside].T), tuple(came_from[inside].T)
    assert np.array_equal(moved.semantics_XYZ[here], labels.semantics_XYZ[there])
    assert np.array_equal(moved.camera_mask_XYZ[here], labels.camera_mask_XYZ[there])
    # A velocity is the difference of two positions one second apart.
    velocity = np.concatenate([labels.flow_XYZ2[there], np.zeros((inside.sum(), 1))], axis=1)
    assert moved.flow_XYZ2[here] == pytest.approx((velocity @ bda.T)[:, :2], abs=1e-5)
    outside = tuple(voxels[~inside].T)
    assert (moved.semantics_XYZ[outside] == 255).all()
    assert not moved.camera_mask_XYZ[outside].any()


@pytest.mark.parametrize("seed", range(8))
def test_mirroring_reverses_axes_exactly(seed: int) -> None:
    labels = labels_of(seed, OCC3D_GRID)
    bda = BevAugmentation().draw(np.random.default_rng(seed))
    moved = augment_labels(labels, bda, OCC3D_GRID)
    expected, flow = labels.semantics_XYZ, labels.flow_XYZ2.copy()
    if bda[0, 0] < 0:
        expected, flow = expected[::-1], flow[::-1] * np.float32([-1, 1])
    if bda[1, 1] < 0:
        expected, flow = expected[:, ::-1], flow[:, ::-1] * np.float32([1, -1])
    assert np.array_equal(moved.semantics_XYZ, expected)
    assert np.array_equal(moved.flow_XYZ2, flow)


@pytest.mark.parametrize("angle", [-20.0, 7.3, 22.5])
def test_rotation_is_that_of_the_map_in_the_reference_code(angle: float) -> None:
    labels = labels_of(1, OCC3D_GRID)
    bda = BevAugmentation(rotation_deg=(angle, angle), flip_x=0.0, flip_y=0.0).draw(
        np.random.default_rng(0)
    )
    moved = augment_labels(labels, bda, OCC3D_GRID).semantics_XYZ
    # The map as an image, rows along y and columns along x, turned by -angle with y down.
    image_ZYX = torch.from_numpy(labels.semantics_XYZ.transpose(2, 1, 0).astype(np.float32)) + 1
    turn = np.deg2rad(-angle)
    theta = torch.tensor(
        [[[np.cos(turn), -np.sin(turn), 0.0], [np.sin(turn), np.cos(turn), 0.0]]]
    ).float()
    places = F.affine_grid(theta, (1, *image_ZYX.shape), align_corners=False)
    turned = F.grid_sample(image_ZYX[None], places, mode="nearest", align_corners=False)[0]
    expected = np.where(turned == 0, 255, turned - 1).transpose(2, 1, 0)
    # Positions on the border of two voxels, up to rounding, can fall on either side.
    assert (moved != expected).mean() < 2e-3
    assert (moved == 255).mean() > 0.02
    wrong_way = augment_labels(labels, bda.T, OCC3D_GRID).semantics_XYZ
    assert (wrong_way != expected).mean() > 0.5


def test_bev_draws_have_the_order_of_the_reference_code() -> None:
    bda = TURNING.draw(np.random.default_rng(9))
    again = np.random.default_rng(9)
    angle, scale = np.deg2rad(again.uniform(-22.5, 22.5)), again.uniform(1, 1)
    mirror = np.diag([-1.0 if again.uniform() < 0.5 else 1.0, 1.0, 1.0])
    mirror[1, 1] = -1.0 if again.uniform() < 0.5 else 1.0
    turn = np.eye(3)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert bda == pytest.approx(mirror @ (scale * turn))


def test_a_part_of_the_grid_and_coarser_voxels() -> None:
    own = VoxelGrid((0.0, 0.0, 0.0), (0.4, 0.4, 0.4), (8, 8, 4))
    labels = labels_of(3, own)
    part = VoxelGrid((0.8, 0.4, 0.4), (0.4, 0.4, 0.4), (4, 6, 2))
    assert np.array_equal(
        labels_on_grid(labels, own, part, 17).flow_XYZ2, labels.flow_XYZ2[2:6, 1:7, 1:3]
    )
    coarse = labels_on_grid(labels, own, VoxelGrid((0, 0, 0), (0.8, 0.8, 0.8), (4, 4, 2)), 17)
    for x, y, z in np.ndindex(4, 4, 2):
        block = labels.semantics_XYZ[2 * x : 2 * x + 2, 2 * y : 2 * y + 2, 2 * z : 2 * z + 2]
        counts = np.bincount(block.ravel(), minlength=18)[:17]
        assert coarse.semantics_XYZ[x, y, z] == (counts.argmax() if counts.any() else 17)
    with pytest.raises(DatasetError, match="cannot be converted to"):
        labels_on_grid(labels, own, VoxelGrid((0, 0, 0), (0.5, 0.5, 0.5), (4, 4, 2)), 17)
