"""Labels on the grid of a network that is a part of the annotated grid, or coarser.

Legend: X, Y, Z voxels.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import VoxelGrid
from occ_perception.labels import UNKNOWN_CLASS
from occ_training.data.label_files import FrameLabels
from occ_training.data.records import DatasetError

_TOLERANCE = 1e-3
_Kind = TypeVar("_Kind", bound=np.generic)


def labels_on_grid(
    labels: FrameLabels, own: VoxelGrid, wanted: VoxelGrid, empty_class: int
) -> FrameLabels:
    """Convert labels from one grid to another.

    The wanted grid lies inside the annotated one, and its voxels are integer multiples of the
    annotated voxels. A coarser voxel takes the most frequent class that is neither free nor
    unlabelled, else free, else 255. It is seen if one of its annotated voxels is. Its flow is the
    mean over the annotated voxels of its class.

    Args:
        labels: as read.
        own: grid of the labels.
        wanted: grid of the network's output.
        empty_class: id of free space.

    Raises:
        DatasetError: the grids do not fit.
    """
    if own == wanted:
        return labels
    factor, first = _fit(own, wanted)
    box = tuple(
        slice(start, start + step * count)
        for start, step, count in zip(first, factor, wanted.dims, strict=True)
    )
    part = FrameLabels(
        labels.semantics_XYZ[box],
        camera_mask_XYZ=_part(labels.camera_mask_XYZ, box),
        lidar_mask_XYZ=_part(labels.lidar_mask_XYZ, box),
        flow_XYZ2=_part(labels.flow_XYZ2, box),
    )
    return part if factor == (1, 1, 1) else _coarsened(part, factor, empty_class)


def _part(volume: NDArray[_Kind] | None, box: tuple[slice, ...]) -> NDArray[_Kind] | None:
    return None if volume is None else volume[box]


def _fit(own: VoxelGrid, wanted: VoxelGrid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Annotated voxels per wanted voxel, and the first annotated voxel, per axis."""
    size, wanted_size = np.asarray(own.voxel_size), np.asarray(wanted.voxel_size)
    factor = wanted_size / size
    first = (np.asarray(wanted.lower) - np.asarray(own.lower)) / size
    steps, starts = np.rint(factor).astype(int), np.rint(first).astype(int)
    ends = starts + steps * np.asarray(wanted.dims)
    whole = np.allclose(factor, steps, atol=_TOLERANCE) and np.allclose(
        first, starts, atol=_TOLERANCE
    )
    if not whole or (steps < 1).any() or (starts < 0).any() or (ends > own.dims).any():
        raise DatasetError(
            f"labels on {_text(own)} cannot be converted to {_text(wanted)}: its voxels must be "
            "integer multiples of annotated voxels, inside the annotated volume"
        )
    return tuple(int(s) for s in steps), tuple(int(s) for s in starts)


def _coarsened(labels: FrameLabels, factor: tuple[int, ...], empty_class: int) -> FrameLabels:
    blocks = _blocks(labels.semantics_XYZ, factor)
    votes = np.zeros(blocks.shape[:3], dtype=np.int64)
    winner = np.full(blocks.shape[:3], UNKNOWN_CLASS, dtype=np.uint8)
    winner[(blocks == empty_class).any(axis=-1)] = empty_class
    for k in np.unique(blocks):
        if k in (empty_class, UNKNOWN_CLASS):
            continue
        count = (blocks == k).sum(axis=-1)
        winner[count > votes] = k
        votes = np.maximum(votes, count)
    flow = None
    if labels.flow_XYZ2 is not None:
        of_winner = (blocks == winner[..., None])[..., None]
        flow_blocks = np.stack([_blocks(labels.flow_XYZ2[..., c], factor) for c in (0, 1)], axis=-1)
        total = (flow_blocks * of_winner).sum(axis=3)
        flow = (total / np.maximum(of_winner.sum(axis=3), 1)).astype(np.float32)
    return FrameLabels(
        winner,
        camera_mask_XYZ=_any(labels.camera_mask_XYZ, factor),
        lidar_mask_XYZ=_any(labels.lidar_mask_XYZ, factor),
        flow_XYZ2=flow,
    )


def _any(mask: NDArray[np.bool_] | None, factor: tuple[int, ...]) -> NDArray[np.bool_] | None:
    return None if mask is None else np.asarray(_blocks(mask, factor).any(axis=-1))


def _blocks(volume: NDArray[Any], factor: tuple[int, ...]) -> NDArray[Any]:
    """(X, Y, Z) fine to (X', Y', Z', fine voxels per coarse voxel)."""
    fx, fy, fz = factor
    X, Y, Z = (n // f for n, f in zip(volume.shape, factor, strict=True))
    split = volume.reshape(X, fx, Y, fy, Z, fz)
    blocks: NDArray[Any] = split.transpose(0, 2, 4, 1, 3, 5).reshape(X, Y, Z, fx * fy * fz)
    return blocks


def _text(grid: VoxelGrid) -> str:
    return f"{grid.dims} voxels of {grid.voxel_size} m from {grid.lower} m"
