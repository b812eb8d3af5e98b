"""Calibration of one ring as tensors, and how a pixel with a depth becomes a place in the grid.

Legend: B batch, N cameras, S samples along a ray, h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.nets.view_geometry import ViewGeometry


@dataclass(frozen=True)
class CameraTensors:
    """Calibration of one ring at the network's input, float32.

    Attributes:
        grid_T_cam_BN44: camera to the frame the voxel grid lies in (ego at the reference camera's
            stamp, or the lidar frame), motion between exposures included.
        K_BN33: intrinsics at the card's native image size.
        image_rotation_BN33, image_translation_BN3: native pixel -> input pixel (the published
            post_rots, post_trans; depth passes through).
    """

    grid_T_cam_BN44: Tensor
    K_BN33: Tensor
    image_rotation_BN33: Tensor
    image_translation_BN3: Tensor


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
    """Input-image pixel (u, v) that each stride-16 feature stands for, (h, w, 2).

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
    """Where pixels of each camera lie in the grid: ``cell(u, v, d) = d * H [u, v, 1] + origin``.

    Attributes:
        H_BN33: pixel to ray direction, in cells per metre of depth.
        origin_BN3: camera centre, in cells.
    """

    H_BN33: Tensor
    origin_BN3: Tensor

    @classmethod
    def of(
        cls, cameras: CameraTensors, bev_augmentation_B33: Tensor, geometry: ViewGeometry
    ) -> PixelRays:
        """Compose ``(Bda (R K^-1 A^-1 ([u, v] - a) d + t) - lower) / step`` once per camera.

        This is the frustum of Lift-Splat (arXiv 2008.05711) without its table of points. The
        3x3 products are made in float64: their rounding would move every point of a ray.
        """
        bda = bev_augmentation_B33.double()[:, None]
        pose = cameras.grid_T_cam_BN44.double()
        undo_K = torch.linalg.inv_ex(cameras.K_BN33.double()).inverse
        undo_A = torch.linalg.inv_ex(cameras.image_rotation_BN33.double()).inverse
        shift_back = torch.zeros_like(undo_A)
        shift_back[..., 0, 0] = shift_back[..., 1, 1] = shift_back[..., 2, 2] = 1.0
        shift_back[..., :2, 2] = -cameras.image_translation_BN3.double()[..., :2]

        H = bda @ pose[..., :3, :3] @ undo_K @ undo_A @ shift_back
        origin = (bda @ pose[..., :3, 3:])[..., 0]
        rows, starts = [], []
        for axis, (low, step) in enumerate(
            zip(geometry.grid.lower, geometry.grid.voxel_size, strict=True)
        ):
            rows.append(H[..., axis, :] / step)
            starts.append((origin[..., axis] - low) / step)
        return cls(torch.stack(rows, dim=-2).float(), torch.stack(starts, dim=-1).float())

    def cells(self, pixels_hw2: Tensor, depths_S: Tensor) -> Tensor:
        """Cells (B, N, S, h, w, 3) met by the given pixels at the given depths."""
        homogeneous = torch.cat([pixels_hw2, torch.ones_like(pixels_hw2[..., :1])], dim=-1)
        rays = torch.einsum("bnij,hwj->bnhwi", self.H_BN33, homogeneous)
        along = depths_S[:, None, None, None] * rays[:, :, None]
        return along + self.origin_BN3[:, :, None, None, None]
