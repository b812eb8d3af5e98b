"""Camera code and pixel rays against the chain of published steps, written out."""

from __future__ import annotations

import pytest
import torch

from occ_perception.geometry import VoxelGrid, matrix_from_pose
from occ_perception.nets.cameras import (
    CameraTensors,
    PixelRays,
    camera_code,
    feature_pixels,
    invert_intrinsics,
    project,
    unproject,
)
from occ_perception.nets.view_geometry import DepthBins, ViewGeometry

GEOMETRY = ViewGeometry(
    (64, 160),
    DepthBins(1.0, 7.0, 0.5),
    VoxelGrid((-8.0, -6.0, -1.0), (0.5, 0.4, 0.8), (32, 30, 8)),
    2,
)


def rig():
    """Two cameras with a rotated crop each, and a grid augmentation."""
    poses = [
        matrix_from_pose((1.5, 0.1, 1.4), (-0.5, 0.5, -0.5, 0.5)),
        matrix_from_pose((0.2, -0.4, 1.6), (0.1, 0.7, -0.1, 0.7)),
    ]
    K = torch.tensor([[500.0, 0, 310], [0, 490, 180], [0, 0, 1]])
    angle = torch.tensor(0.1)
    A = torch.eye(3)
    A[:2, :2] = 0.4 * torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
    bda = torch.tensor([[0.0, -1.1, 0], [1.1, 0, 0], [0, 0, 1.1]])
    cameras = CameraTensors.of(
        grid_T_cam_BN44=torch.stack([torch.from_numpy(p).float() for p in poses])[None],
        K_BN33=K.expand(1, 2, 3, 3),
        image_rotation_BN33=A.expand(1, 2, 3, 3),
        image_translation_BN3=torch.tensor([3.0, -20.0, 0.0]).expand(1, 2, 3),
    )
    return cameras, bda[None]


def test_rays_equal_the_published_chain_point_by_point():
    cameras, bda = rig()
    rays = PixelRays(cameras, bda, GEOMETRY)
    voxels = rays.voxels(feature_pixels(GEOMETRY), GEOMETRY.depth.edges()[:, None, None])
    assert voxels.shape == (1, 2, 12, 4, 10, 3)
    for n, k, row, column in [(0, 0, 0, 0), (0, 11, 3, 9), (1, 5, 2, 7), (1, 1, 1, 4)]:
        d = 1.0 + 0.5 * k
        u, v = 159 * column / 9, 63 * row / 3
        a = torch.linalg.solve(
            cameras.image_rotation_BN33[0, n].double(),
            torch.tensor([u, v, d]).double() - cameras.image_translation_BN3[0, n].double(),
        )
        ray = torch.stack([a[0] * a[2], a[1] * a[2], a[2]])
        in_camera = torch.linalg.solve(cameras.K_BN33[0, n].double(), ray)
        pose = cameras.grid_T_cam_BN44[0, n].double()
        metres = bda[0].double() @ (pose[:3, :3] @ in_camera + pose[:3, 3])
        expected = (metres - torch.tensor(GEOMETRY.grid.lower)) / torch.tensor(
            GEOMETRY.grid.voxel_size
        )
        torch.testing.assert_close(
            voxels[0, n, k, row, column].double(), expected, atol=1e-4, rtol=1e-5
        )


def test_principal_point_looks_along_the_optical_axis():
    cameras, _ = rig()
    upright = CameraTensors.of(
        cameras.grid_T_cam_BN44,
        cameras.K_BN33,
        torch.eye(3).expand(1, 2, 3, 3),
        torch.zeros(1, 2, 3),
    )
    rays = PixelRays(upright, torch.eye(3)[None], GEOMETRY)
    voxel = rays.voxels(torch.tensor([[[310.0, 180.0]]]), torch.tensor([[[2.0]]]))[0, 0, 0, 0, 0]
    metres = voxel * torch.tensor(GEOMETRY.grid.voxel_size) + torch.tensor(GEOMETRY.grid.lower)
    # The first camera looks along +x from (1.5, 0.1, 1.4).
    torch.testing.assert_close(metres, torch.tensor([3.5, 0.1, 1.4]), atol=1e-4, rtol=0)


def test_feature_pixels_span_the_image_corner_to_corner():
    pixels = feature_pixels(GEOMETRY)
    assert pixels[0, 0].tolist() == [0.0, 0.0]
    assert pixels[-1, -1].tolist() == [159.0, 63.0]
    assert pixels[0, 1, 0].item() == pytest.approx(159 / 9, rel=1e-6)


def test_camera_code_is_in_the_order_checkpoints_expect():
    cameras, bda = rig()
    code = camera_code(cameras, bda)[0, 1]
    K, A = cameras.K_BN33[0, 1], cameras.image_rotation_BN33[0, 1]
    a, T = cameras.image_translation_BN3[0, 1], cameras.grid_T_cam_BN44[0, 1]
    expected = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    expected += [A[0, 0], A[0, 1], a[0], A[1, 0], A[1, 1], a[1]]
    expected += [bda[0, 0, 0], bda[0, 0, 1], bda[0, 1, 0], bda[0, 1, 1], bda[0, 2, 2]]
    expected += list(T[0]) + list(T[1]) + list(T[2])
    assert len(expected) == 27
    assert torch.equal(code, torch.stack(expected))


def test_pixels_with_depths_of_their_own_lie_on_the_same_rays():
    cameras, bda = rig()
    rays = PixelRays(cameras, bda, GEOMETRY)
    lattice, depths = feature_pixels(GEOMETRY), GEOMETRY.depth.edges()
    every = rays.voxels(lattice, depths[:, None, None])
    chosen = torch.randint(12, (1, 2, 3, 4, 10))
    some = rays.voxels(lattice.expand(1, 2, 3, 4, 10, 2), depths[chosen])
    torch.testing.assert_close(some, every.gather(2, chosen[..., None].expand(some.shape)))


def test_projecting_what_was_unprojected_gives_the_pixel_back():
    cameras, _ = rig()
    K, A = cameras.K_BN33[0], cameras.image_rotation_BN33[0]
    a = cameras.image_translation_BN3[0]
    u, v = torch.rand(2, 3, 4, 5) * 160, torch.rand(2, 3, 4, 5) * 64
    depth = 1 + 20 * torch.rand(2, 3, 4, 5)
    inverses = cameras.inverse_K_BN33[0], cameras.inverse_image_rotation_BN33[0]
    points = unproject((u, v, depth), *inverses, a, torch.eye(4).expand(2, 4, 4))
    torch.testing.assert_close(points[2], depth)
    for got, expected in zip(project(points, K, A, a), (u, v), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-3, rtol=1e-4)


def test_inverse_of_intrinsics_with_skew():
    K = torch.tensor([[1250.0, 3.0, 820], [0, 1240, 460], [0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(invert_intrinsics(K), K.inverse())
