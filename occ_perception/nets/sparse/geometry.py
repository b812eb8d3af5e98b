"""What all parts of one sparse network agree on."""

from __future__ import annotations

from dataclasses import dataclass

from occ_perception.geometry import VoxelGrid

COARSEST_CELL = 8
"""Cells of the output grid along each side of the cells that decoding starts with."""


@dataclass(frozen=True)
class SparseGeometry:
    """Images and cells.

    Attributes:
        input_size: height and width of the input images, pixels.
        grid: cells of the output.
        num_cameras: cameras of the rig the network is for.

    Raises:
        ValueError: the grid cannot be divided into cells of 8 x 8 x 8.
    """

    input_size: tuple[int, int]
    grid: VoxelGrid
    num_cameras: int

    def __post_init__(self) -> None:
        if any(count % COARSEST_CELL for count in self.grid.dims):
            raise ValueError(
                f"decoding starts with blocks of {COARSEST_CELL} cells along each axis, which do "
                f"not fill a grid of {self.grid.dims}; choose multiples of {COARSEST_CELL}"
            )

    @property
    def coarsest_dims(self) -> tuple[int, int, int]:
        """Blocks along x, y, z that decoding starts with."""
        X, Y, Z = self.grid.dims
        return X // COARSEST_CELL, Y // COARSEST_CELL, Z // COARSEST_CELL
