"""The voxel grid: positions of the voxels [i, j, k] of a public volume.

Public volumes are indexed [X, Y, Z], lower corner first: the centre of voxel (i, j, k) is
``lower + (index + 0.5) * voxel_size`` in the grid's frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from occ_perception.geometry.transforms import Float64

Vector3 = tuple[float, float, float]

_FAR_INDEX = 2.0**31


@dataclass(frozen=True)
class VoxelGrid:
    """A regular grid in a frame that its owner defines (``base_link`` or a lidar frame).

    Attributes:
        lower: minimum corner (x, y, z), metres.
        voxel_size: edge lengths (x, y, z), metres.
        dims: number of voxels along (x, y, z).
    """

    lower: Vector3
    voxel_size: Vector3
    dims: tuple[int, int, int]

    def __post_init__(self) -> None:
        if any(len(triple) != 3 for triple in (self.lower, self.voxel_size, self.dims)):
            raise ValueError(
                f"voxel grid needs x, y and z, got lower={self.lower} m, "
                f"voxel_size={self.voxel_size} m, dims={self.dims}"
            )
        if not np.isfinite([*self.lower, *self.voxel_size]).all():
            raise ValueError(
                f"voxel grid is not finite: lower={self.lower} m, voxel_size={self.voxel_size} m"
            )
        if any(size <= 0 for size in self.voxel_size) or any(count <= 0 for count in self.dims):
            raise ValueError(
                f"voxel grid needs positive sizes, got voxel_size={self.voxel_size} m, "
                f"dims={self.dims}"
            )

    def with_columns(self, count: tuple[int, int], size: float) -> VoxelGrid:
        """A grid with the same layers and other columns, centred on the origin of the frame.

        Args:
            count: number of columns along (x, y).
            size: edge length of a column along x and y, metres.
        """
        (X, Y), (_, _, Z) = count, self.dims
        return VoxelGrid(
            lower=(-X * size / 2, -Y * size / 2, self.lower[2]),
            voxel_size=(size, size, self.voxel_size[2]),
            dims=(X, Y, Z),
        )

    @classmethod
    def from_ranges(cls, *ranges: tuple[float, float, float]) -> VoxelGrid:
        """Grid from (lower, upper, step) per axis x, y, z.

        Raises:
            ValueError: not three ranges, or a range is not a positive whole number of steps.
        """
        if len(ranges) != 3:
            raise ValueError(f"expected ranges for x, y and z, got {len(ranges)}")
        dims = []
        for axis, (low, high, step) in zip("xyz", ranges, strict=True):
            if not (np.isfinite([low, high, step]).all() and low < high and step > 0):
                raise ValueError(
                    f"{axis} range (lower, upper, step) = {(low, high, step)} m, "
                    "expected lower < upper and a step above 0"
                )
            voxels = (high - low) / step
            if abs(voxels - round(voxels)) > 1e-6:
                raise ValueError(
                    f"{axis} range [{low}, {high}] is {voxels:.4f} voxels of {step} m, "
                    "expected a whole number"
                )
            dims.append(round(voxels))
        x, y, z = ranges
        return cls(
            lower=(x[0], y[0], z[0]),
            voxel_size=(x[2], y[2], z[2]),
            dims=(dims[0], dims[1], dims[2]),
        )

    @property
    def upper(self) -> Vector3:
        """Maximum corner (x, y, z), metres."""
        x, y, z = (
            low + count * size
            for low, count, size in zip(self.lower, self.dims, self.voxel_size, strict=True)
        )
        return (x, y, z)

    @property
    def num_voxels(self) -> int:
        """Number of voxels of the whole volume."""
        return self.dims[0] * self.dims[1] * self.dims[2]

    def centers(self, indices: ArrayLike) -> Float64:
        """Centres (..., 3) in metres of voxels with integer indices (..., 3) in x, y, z order."""
        index = np.asarray(indices, dtype=np.float64)
        centers: Float64 = np.asarray(self.lower) + (index + 0.5) * np.asarray(self.voxel_size)
        return centers

    def indices(self, points: ArrayLike) -> NDArray[np.int64]:
        """Voxel indices (..., 3) of points (..., 3); may lie outside, see :meth:`contains`.

        A point that is not finite, or extremely far away, lies outside.
        """
        offset = np.asarray(points, dtype=np.float64) - np.asarray(self.lower)
        voxels = np.floor(offset / np.asarray(self.voxel_size))
        # Casting NaN and huge values gives different results on different processors, e.g. 0.
        bounded = np.clip(np.nan_to_num(voxels, nan=-1.0), -_FAR_INDEX, _FAR_INDEX)
        indices: NDArray[np.int64] = bounded.astype(np.int64)
        return indices

    def contains(self, indices: ArrayLike) -> NDArray[np.bool_]:
        """Whether integer indices (..., 3) lie inside this grid."""
        index = np.asarray(indices)
        inside: NDArray[np.bool_] = np.all((index >= 0) & (index < np.asarray(self.dims)), axis=-1)
        return inside
