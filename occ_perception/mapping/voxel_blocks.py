"""Sparse storage of a voxel map: blocks that exist only where something was observed.

A block has 16 x 16 x 8 voxels. A voxel has one byte, the log-odds of being occupied. Votes for
classes exist only for voxels that were ever hit: four voxels (2 x 2 of a layer) share one reference
to their table of votes, which is created with the first hit. Surfaces fill few voxels of the
observed space, so the tables of all votes together are about as large as the log-odds.

An *address* is the number of a block times 2048 plus the position within the block; the four voxels
of a table are neighbours in it.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OccError

Int64 = NDArray[np.int64]

BLOCK = (16, 16, 8)
BLOCK_VOXELS = 16 * 16 * 8
UNSEEN = -128
"""Log-odds of voxels that were never observed."""

_FOUR = 4
_MOST_VOTES = 255
# Block indices are packed into one integer with 21 bits each.
_BITS = 21
_FARTHEST = 1 << (_BITS - 1)
_GROWTH = 1.5

_i, _j, _k = (np.arange(count) for count in BLOCK)
POSITIONS = (
    (_i // 2) * 256 + (_i % 2) * 2,
    (_j // 2) * 32 + _j % 2,
    _k * 4,
)
"""Position within a block: the sum of these over x, y and z."""

_AT_POSITION = np.empty((BLOCK_VOXELS, 3), np.int64)
_AT_POSITION[POSITIONS[0][:, None, None] + POSITIONS[1][:, None] + POSITIONS[2]] = np.stack(
    np.meshgrid(_i, _j, _k, indexing="ij"), axis=-1
)

Array = TypeVar("Array", bound=NDArray[Any])


class MapError(OccError):
    """Predictions cannot be put into one map; the message says why."""


class VoxelBlocks:
    """The blocks of a map.

    Args:
        num_classes: number of class ids that can get votes.

    Attributes:
        log_odds: (blocks * 2048,) int8 by address, with spare room at the end; :data:`UNSEEN`
            for voxels that were never observed. Replaced by a larger array when blocks are added.
    """

    def __init__(self, num_classes: int) -> None:
        self.log_odds: NDArray[np.int8] = np.empty(0, np.int8)
        self._numbers: dict[int, int] = {}
        self._blocks: list[tuple[int, int, int]] = []
        self._tables: NDArray[np.int32] = np.empty(0, np.int32)
        self._votes: NDArray[np.uint8] = np.empty((0, num_classes), np.uint8)
        self._num_tables = 0

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, spare room included."""
        return self.log_odds.nbytes + self._tables.nbytes + self._votes.nbytes

    # -- blocks ----------------------------------------------------------------------------------

    def numbers(self, lower: Int64, shape: tuple[int, int, int]) -> Int64:
        """Numbers (shape) of the blocks in a box of blocks, -1 where there is none.

        Args:
            lower: (3,) index of the box's first block.
            shape: blocks along x, y, z.

        Raises:
            MapError: the box is too far from the origin of the map.
        """
        if (np.abs(lower) + np.array(shape)).max() >= _FARTHEST:
            raise MapError(
                f"the pose lies {np.abs(lower * np.array(BLOCK)).max():.2g} voxels from the "
                f"map's origin, expected less than {_FARTHEST * min(BLOCK):.2g}; place the origin "
                "near the drive (--local), or use larger voxels"
            )
        x, y, z = (first + np.arange(count) for first, count in zip(lower, shape, strict=True))
        keys = _packed(x[:, None, None], y[:, None], z)
        known = self._numbers
        return np.array([known.get(key, -1) for key in keys.ravel().tolist()]).reshape(shape)

    def create(self, indices: Int64) -> Int64:
        """Create blocks with these indices (n, 3), none of which exists; returns their numbers."""
        first, count = len(self), len(indices)
        keys = _packed(*indices.T)
        self._numbers.update(zip(keys.tolist(), range(first, first + count), strict=True))
        self._blocks += map(tuple, indices.tolist())
        voxels = (first * BLOCK_VOXELS, len(self) * BLOCK_VOXELS)
        self.log_odds = _with_room(self.log_odds, voxels[1])
        self.log_odds[slice(*voxels)] = UNSEEN
        self._tables = _with_room(self._tables, voxels[1] // _FOUR)
        self._tables[voxels[0] // _FOUR : voxels[1] // _FOUR] = -1
        return np.arange(first, len(self))

    # -- votes -----------------------------------------------------------------------------------

    def vote(self, addresses: Int64, classes: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Add one vote per voxel (n,), none of them listed twice; returns the new counts (n,).

        Where a count is full, all counts of the voxel are halved first, which keeps their ratios.
        """
        without = self._tables[addresses // _FOUR] < 0
        fours = np.unique(addresses[without] // _FOUR)
        first = self._num_tables
        self._num_tables += len(fours)
        rows = (first * _FOUR, self._num_tables * _FOUR)
        self._votes = _with_room(self._votes, rows[1])
        self._votes[slice(*rows)] = 0
        self._tables[fours] = np.arange(first, self._num_tables)
        rows_of_hits = self._rows(addresses)
        counts = self._votes[rows_of_hits, classes]
        full = counts == _MOST_VOTES
        self._votes[rows_of_hits[full]] //= 2
        counts[full] //= 2
        counts += 1
        self._votes[rows_of_hits, classes] = counts
        return counts

    def forget_votes(self, addresses: Int64) -> None:
        """Remove all votes of these voxels (n,)."""
        self._votes[self._rows(addresses[self._tables[addresses // _FOUR] >= 0])] = 0

    def most_voted(self, addresses: Int64) -> NDArray[np.uint8]:
        """The class with most votes (n,) of voxels that have votes; of equals the lowest id."""
        best: NDArray[np.uint8] = self._votes[self._rows(addresses)].argmax(axis=1).astype(np.uint8)
        return best

    def _rows(self, addresses: Int64) -> Int64:
        """Rows of the votes of voxels that have a table."""
        rows: Int64 = self._tables[addresses // _FOUR].astype(np.int64) * _FOUR + addresses % _FOUR
        return rows

    # -- contents --------------------------------------------------------------------------------

    def observed(self) -> Int64:
        """Addresses (n,) of all voxels that were ever observed, ascending."""
        return np.flatnonzero(self.log_odds[: len(self) * BLOCK_VOXELS] != UNSEEN)

    def indices(self, addresses: Int64) -> Int64:
        """Voxel indices (n, 3) of addresses."""
        corners = np.array(self._blocks, np.int64).reshape(-1, 3) * BLOCK
        return corners[addresses // BLOCK_VOXELS] + _AT_POSITION[addresses % BLOCK_VOXELS]


def _packed(x: Int64, y: Int64, z: Int64) -> Int64:
    """One integer per block index."""
    shifted = (axis + _FARTHEST for axis in (x, y, z))
    x, y, z = shifted
    return (x << 2 * _BITS) | (y << _BITS) | z


def _with_room(array: Array, rows: int) -> Array:
    """The array, or a larger copy if it has fewer rows; new rows are not initialised."""
    if rows <= len(array):
        return array
    larger = np.empty((max(rows, int(_GROWTH * len(array))), *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger  # type: ignore[return-value]
