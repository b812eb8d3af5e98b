"""The geometry a network's view transformation is built for: pixels, depth bins, voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from occ_perception.geometry import VoxelGrid


@dataclass(frozen=True)
class DepthBins:
    """Planes of the viewing frustum, metres along the optical axis.

    Bin k covers ``[lower + k * step, lower + (k + 1) * step)`` and is represented by its lower
    edge, as in the released models.
    """

    lower: float
    upper: float
    step: float

    @property
    def count(self) -> int:
        """Number of bins."""
        return round((self.upper - self.lower) / self.step)

    def edges(self, device: torch.device | None = None) -> Tensor:
        """(count,) float32 depth of each bin."""
        return self.lower + self.step * torch.arange(self.count, device=device).float()


@dataclass(frozen=True)
class ViewGeometry:
    """What all parts of one network agree on.

    Attributes:
        input_size: height and width of the input images, pixels.
        depth: bins of the frustum.
        grid: voxels of the lifted volume; one voxel high for bird's-eye-view networks.
        num_cameras: cameras of the rig the network is for.
        feature_stride: input pixels per feature pixel, along each axis.
    """

    input_size: tuple[int, int]
    depth: DepthBins
    grid: VoxelGrid
    num_cameras: int
    feature_stride: int = 16

    @property
    def feature_size(self) -> tuple[int, int]:
        """Height and width of the features that are lifted."""
        height, width = self.input_size
        return height // self.feature_stride, width // self.feature_stride

    @property
    def flat(self) -> bool:
        """Whether the lifted volume is a bird's-eye-view map."""
        return self.grid.dims[2] == 1

    def flattened(self) -> ViewGeometry:
        """The same seen from above: a grid of one layer."""
        (x, y, z), (dx, dy, dz), (X, Y, Z) = (
            self.grid.lower,
            self.grid.voxel_size,
            self.grid.dims,
        )
        return replace(self, grid=VoxelGrid((x, y, z), (dx, dy, dz * Z), (X, Y, 1)))
