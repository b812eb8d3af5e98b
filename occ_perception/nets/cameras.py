"""Cameras of one frame set as tensors, and the way from their pixels to places and back.

Projection is single precision in the order of operations of the reference code: the plane sweep
distinguishes samples that hit a zero exactly from those that miss it by the last bit.

Legend: B batch, N cameras, n = B * N, S samples along a ray, h, w feature pixels. Coordinates are
separate tensors (n, *, *, *) of any three axes that broadcast together.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from occ_perception.nets.view_geometry import ViewGeometry

Coordinates = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class CameraTensors:
    """Calibration of one frame set at the network's input; float32 unless stated.

    Made on the host by :meth:`of`, inverses included: no network inverts a matrix on its device.
    Where a network corrects the poses itself, what depends on them otherwise is None.

    Attributes:
        grid_T_cam_BN44: camera to the frame the voxel grid lies in (ego at the reference camera's
            stamp, or the lidar frame), motion between exposures included.
        K_BN33: intrinsics at the card's native image size.
        image_rotation_BN33, image_translation_BN3: native pixel -> input pixel (the published
            post_rots, post_trans; depth passes through).
        inverse_K_BN33, inverse_image_rotation_BN33: inverses.
        native_T_grid_BN33: directions in the grid's frame to (u depth, v depth, depth) in native
            pixels, without the camera's position: the inverse of ``R K^-1``.
        pixel_T_grid_BN44: **float64**, places in the grid's frame to (u depth, v depth, depth) in
            input pixels.
    """

    grid_T_cam_BN44: Tensor
    K_BN33: Tensor
    image_rotation_BN33: Tensor
    image_translation_BN3: Tensor
    inverse_K_BN33: Tensor
    inverse_image_rotation_BN33: Tensor
    native_T_grid_BN33: Tensor | None
    pixel_T_grid_BN44: Tensor | None

    @classmethod
    def of(
        cls,
        grid_T_cam_BN44: Tensor,
        K_BN33: Tensor,
        image_rotation_BN33: Tensor,
        image_translation_BN3: Tensor,
    ) -> CameraTensors:
        """Calibration with its inverses, from float32 tensors in main memory.

        Inverses are taken of the float32 matrices, in the precision that their users were trained
        with. A singular matrix gives values that are not finite.
        """
        inverse_K_BN33 = invert_intrinsics(K_BN33)
        grid_T_native_BN33 = grid_T_cam_BN44[..., :3, :3] @ inverse_K_BN33
        affine_BN33 = image_rotation_BN33.double().clone()
        affine_BN33[..., :, 2] += image_translation_BN3.double()
        pixel_T_cam_BN44 = torch.zeros_like(grid_T_cam_BN44, dtype=torch.float64)
        pixel_T_cam_BN44[..., :3, :3] = affine_BN33 @ K_BN33.double()
        pixel_T_cam_BN44[..., 3, 3] = 1.0
        return cls(
            grid_T_cam_BN44=grid_T_cam_BN44,
            K_BN33=K_BN33,
            image_rotation_BN33=image_rotation_BN33,
            image_translation_BN3=image_translation_BN3,
            inverse_K_BN33=inverse_K_BN33,
            inverse_image_rotation_BN33=_inverse(image_rotation_BN33),
            native_T_grid_BN33=_inverse(grid_T_native_BN33),
            pixel_T_grid_BN44=pixel_T_cam_BN44 @ _inverse(grid_T_cam_BN44.double()),
        )

    def with_poses(self, grid_T_cam_BN44: Tensor) -> CameraTensors:
        """The same cameras at poses that a network corrected, on its device."""
        return replace(
            self,
            grid_T_cam_BN44=grid_T_cam_BN44,
            native_T_grid_BN33=None,
            pixel_T_grid_BN44=None,
        )


def camera_code(cameras: CameraTensors, bev_augmentation_B33: Tensor) -> Tensor:
    """The 27 numbers per camera that condition the depth net, raw (B, N, 27).

    Focal lengths and principal point, the image affine, the grid augmentation and the camera pose
    (rows of [R | t]); BEVDepth (arXiv 2206.10092) conditions on the same quantities.
    """
    K, A, a = cameras.K_BN33, cameras.image_rotation_BN33, cameras.image_translation_BN3
    bda = bev_augmentation_B33[:, None].expand_as(K)
    numbers = [
        *(K[..., 0, 0], K[..., 1, 1], K[..., 0, 2], K[..., 1, 2]),
        *(A[..., 0, 0], A[..., 0, 1], a[..., 0], A[..., 1, 0], A[..., 1, 1], a[..., 1]),
        *(bda[..., 0, 0], bda[..., 0, 1], bda[..., 1, 0], bda[..., 1, 1], bda[..., 2, 2]),
    ]
    pose = cameras.grid_T_cam_BN44[..., :3, :].flatten(2)
    return torch.cat([torch.stack(numbers, dim=-1), pose], dim=-1)


def feature_pixels(geometry: ViewGeometry, device: torch.device | None = None) -> Tensor:
    """Input-image pixel (u, v) that each feature stands for, (h, w, 2).

    The lattice spans the image corner to corner, ``linspace(0, W - 1, w)``; it does not sit at
    patch centres.
    """
    height, width = geometry.input_size
    h, w = geometry.feature_size
    v = torch.linspace(0, height - 1, h, device=device)
    u = torch.linspace(0, width - 1, w, device=device)
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


@dataclass(frozen=True)
class PixelRays:
    """Where pixels of the network input lie in the grid.

    Attributes:
        cameras: calibration.
        bev_augmentation_B33: of the grid frame.
        geometry: names the grid.
    """

    cameras: CameraTensors
    bev_augmentation_B33: Tensor
    geometry: ViewGeometry

    def voxels(self, pixels_hw2: Tensor, depths: Tensor) -> Tensor:
        """Voxels met by pixels at depths.

        Args:
            pixels_hw2: input pixels (u, v), (h, w, 2) or (B, N, S, h, w, 2).
            depths: metres, any shape that broadcasts with (B, N, S, h, w).

        Returns:
            (B, N, S, h, w, 3).
        """
        cameras = self.cameras.K_BN33.shape[:2]
        if pixels_hw2.dim() == 3:
            pixels_hw2 = pixels_hw2[None]
        pixels = pixels_hw2.expand(*cameras, *pixels_hw2.shape[-4:]).flatten(0, 1)
        depths = depths.expand(*cameras, *depths.shape[-3:]).flatten(0, 1)
        points = unproject(
            (pixels[..., 0], pixels[..., 1], depths),
            self.cameras.inverse_K_BN33.flatten(0, 1),
            self.cameras.inverse_image_rotation_BN33.flatten(0, 1),
            self.cameras.image_translation_BN3.flatten(0, 1),
            self.cameras.grid_T_cam_BN44.flatten(0, 1),
        )
        augmentation = self.bev_augmentation_B33.repeat_interleave(cameras[1], dim=0)
        grid = self.geometry.grid
        voxels = [
            (along - low) / step
            for along, low, step in zip(
                _rotate(augmentation, points), grid.lower, grid.voxel_size, strict=True
            )
        ]
        return torch.stack(voxels, dim=-1).unflatten(0, cameras)


def unproject(
    pixels: Coordinates,
    inverse_K_n33: Tensor,
    inverse_A_n33: Tensor,
    a_n3: Tensor,
    frame_T_cam_n44: Tensor,
) -> Coordinates:
    """Input pixels (u, v) with a depth to points (x, y, z) of another frame, metres.

    ``(R K^-1) (d A^-1 ([u, v] - a), d) + t`` with image affine (A, a): the frustum of Lift-Splat
    (arXiv 2008.05711).
    """
    shifted = [part - _entry(a_n3[:, i]) for i, part in enumerate(pixels)]
    x, y, depth = _rotate(inverse_A_n33, (shifted[0], shifted[1], shifted[2]))
    to_frame = frame_T_cam_n44[:, :3, :3] @ inverse_K_n33
    x, y, z = _rotate(to_frame, (x * depth, y * depth, depth))
    t = frame_T_cam_n44[:, :3, 3]
    return x + _entry(t[:, 0]), y + _entry(t[:, 1]), z + _entry(t[:, 2])


def project(
    points: Coordinates, K_n33: Tensor, A_n33: Tensor, a_n3: Tensor
) -> tuple[Tensor, Tensor]:
    """Points of the camera frame to input pixels (u, v); meaningless for depth <= 0."""
    x, y, z = _rotate(K_n33, points)
    x, y = x / z, y / z
    u = _entry(A_n33[:, 0, 0]) * x + _entry(A_n33[:, 0, 1]) * y + _entry(a_n3[:, 0])
    v = _entry(A_n33[:, 1, 0]) * x + _entry(A_n33[:, 1, 1]) * y + _entry(a_n3[:, 1])
    return u, v


def invert_intrinsics(K: Tensor) -> Tensor:
    """Inverse of intrinsics (..., 3, 3), upper triangular with last row (0, 0, 1).

    By reciprocals, ``-cx * (1 / fx)`` and not ``-cx / fx``: the two differ in the last bit, and
    networks were trained with the former.
    """
    reciprocal_x, reciprocal_y = 1.0 / K[..., 0, 0], 1.0 / K[..., 1, 1]
    inverse = torch.zeros_like(K)
    inverse[..., 0, 0] = reciprocal_x
    inverse[..., 1, 1] = reciprocal_y
    inverse[..., 2, 2] = 1.0
    inverse[..., 1, 2] = -(K[..., 1, 2] * reciprocal_y)
    inverse[..., 0, 1] = -(K[..., 0, 1] * reciprocal_y * reciprocal_x)
    inverse[..., 0, 2] = -((K[..., 0, 2] + K[..., 0, 1] * inverse[..., 1, 2]) * reciprocal_x)
    return inverse


def _inverse(matrices: Tensor) -> Tensor:
    return torch.linalg.inv_ex(matrices).inverse


def _entry(numbers_n: Tensor) -> Tensor:
    """One number per camera, ready to meet three more axes."""
    return numbers_n[:, None, None, None]


def _rotate(matrix_n33: Tensor, vector: Coordinates) -> Coordinates:
    """Matrix times vector, summed from left to right."""
    rows = [[_entry(matrix_n33[:, i, j]) for j in range(3)] for i in range(3)]
    x, y, z = (row[0] * vector[0] + row[1] * vector[1] + row[2] * vector[2] for row in rows)
    return x, y, z
