"""What all parts of one sparse network agree on."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.geometry import VoxelGrid

COARSEST_VOXEL = 8
"""Voxels of the output grid along each side of the voxels that decoding starts with."""


@dataclass(frozen=True)
class SparseGeometry:
    """Images and voxels.

    Attributes:
        input_size: height and width of the input images, pixels.
        grid: voxels of the output.
        num_cameras: cameras of the rig the network is for.

    Raises:
        ValueError: the grid cannot be divided into voxels of 8 x 8 x 8.
    """

    input_size: tuple[int, int]
    grid: VoxelGrid
    num_cameras: int

    def __post_init__(self) -> None:
        if any(count % COARSEST_VOXEL for count in self.grid.dims):
            raise ValueError(
                f"decoding starts with blocks of {COARSEST_VOXEL} voxels along each axis, which do "
                f"not fill a grid of {self.grid.dims}; choose multiples of {COARSEST_VOXEL}"
            )

    @property
    def coarsest_dims(self) -> tuple[int, int, int]:
        """Blocks along x, y, z that decoding starts with."""
        X, Y, Z = self.grid.dims
        return X // COARSEST_VOXEL, Y // COARSEST_VOXEL, Z // COARSEST_VOXEL
