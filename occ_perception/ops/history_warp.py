"""History warp: where every voxel of the grid was one frame ago.

Legend: B batch, X, Y, Z voxels. Tables of features run (Y, X) or (Y, X, Z), and so do the trailing
2 or 3 coordinates of positions: (y, x) or (y, x, z), in voxels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Maps without height are treated as lying this high above the grid's origin, in metres: the
# released models were trained so, and pitch and roll of the vehicle move such a plane.
_BEV_PLANE_HEIGHT = 1.0


class VoxelFrame(NamedTuple):
    """The frame whose coordinates are voxel indices, float64.

    Attributes:
        metres_T_voxels_44, voxels_T_metres_44: to metres and back.
    """

    metres_T_voxels_44: Tensor
    voxels_T_metres_44: Tensor


def voxel_frame(
    lower: tuple[float, float, float], step: tuple[float, float, float], flat: bool
) -> VoxelFrame:
    """The voxels of a grid, in main memory.

    Index i stands for the voxel's lower edge, ``lower + i * step``. For ``flat`` maps the third
    coordinate is the plane's height in metres instead of an index.

    Args:
        lower: lower corner of the grid (x, y, z), metres.
        step: voxel size (x, y, z), metres.
        flat: whether the features have no height axis.
    """
    scale = (step[0], step[1], 1.0) if flat else step
    shift = (lower[0], lower[1], 0.0) if flat else lower
    to_metres, to_voxels = torch.eye(4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    for axis in range(3):
        to_metres[axis, axis], to_metres[axis, 3] = scale[axis], shift[axis]
        to_voxels[axis, axis], to_voxels[axis, 3] = 1.0 / scale[axis], -shift[axis] / scale[axis]
    return VoxelFrame(to_metres, to_voxels)


def voxel_motion(previous_T_current_B44: Tensor, frame: VoxelFrame) -> Tensor:
    """Express a metric motion in voxels: ``M = F^-1 T F`` with F from voxel index to metres.

    Args:
        previous_T_current_B44: float64, grid frame now to grid frame then.
        frame: F and its inverse, on the same device.

    Returns:
        (B, 4, 4) float64.
    """
    return frame.voxels_T_metres_44 @ previous_T_current_B44 @ frame.metres_T_voxels_44


def moved_voxels(
    motion_B44: Tensor,
    dims: tuple[int, int, int],
    flat: bool,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Where every current voxel was in the previous grid, in voxels.

    Args:
        motion_B44: from :func:`voxel_motion`.
        dims: number of voxels (X, Y, Z).
        flat: whether the features have no height axis.
        dtype: of the result; half precision cannot tell neighbouring voxels apart.

    Returns:
        (B, Y, X, 2), or (B, Y, X, Z, 3).
    """
    rows = (1, 0) if flat else (1, 0, 2)
    motion = torch.stack([motion_B44[:, row] for row in rows], dim=1).to(dtype)
    X, Y, Z = dims

    def steps(count: int) -> Tensor:
        return torch.arange(count, dtype=dtype, device=motion.device)[:, None]

    along_X = steps(X) * motion[:, None, :, 0]
    along_Y = steps(Y) * motion[:, None, :, 1]
    if flat:
        origin = motion[:, :, 3] + _BEV_PLANE_HEIGHT * motion[:, :, 2]
        return along_Y[:, :, None] + along_X[:, None] + origin[:, None, None]
    along_Z = steps(Z) * motion[:, None, :, 2] + motion[:, None, :, 3]
    return (along_Y[:, :, None] + along_X[:, None])[:, :, :, None] + along_Z[:, None, None]
