"""Calibration of one frame set as tensors.

Legend: B batch, N cameras, h, w feature pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from occ_perception.nets.view_geometry import ViewGeometry


@dataclass(frozen=True)
class CameraTensors:
    """Calibration of one frame set at the network's input, float32.

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
