"""Writes a map as an OctoMap file (``.ot``), a ColorOcTree as octomap's own tools read it.

The file is a text header and a binary stream: the nodes of the tree, every node before its
children, children in ascending order. A node is its log-odds (float32), its colour (3 bytes) and a
byte whose bit c says that child c exists; bits 0, 1 and 2 of c are the upper halves along x, y and
z. The leaves of 16 levels are voxels whose key along each axis is the voxel index plus 32768.

An inner node has the largest log-odds of its children, as in OctoMap, and the mean colour of the
occupied ones. Eight equal leaves are stored as their parent (Hornung et al. 2013, section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import write_whole
from occ_perception.labels import palette_of
from occ_perception.mapping.drive_map import MapVoxels
from occ_perception.mapping.voxel_blocks import MapError

_DEPTH = 16
_MIDDLE = 1 << (_DEPTH - 1)
# ColorOcTree's colour of nodes without one.
_NO_COLOUR = (255, 255, 255)
_NODE = np.dtype([("log_odds", "<f4"), ("rgb", "u1", 3), ("children", "u1")])


@dataclass(frozen=True, eq=False)
class _Level:
    """The nodes of one level of the tree, ascending.

    Attributes:
        codes: (n,) int64; the last three bits are the node's place among its siblings.
        log_odds: (n,) float32.
        rgb: (n, 3) uint8.
        children: (n,) uint8, a bit per child; 0 for leaves.
    """

    codes: NDArray[np.int64]
    log_odds: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    children: NDArray[np.uint8]

    def without(self, removed: NDArray[np.bool_]) -> _Level:
        kept = ~removed
        return _Level(self.codes[kept], self.log_odds[kept], self.rgb[kept], self.children[kept])


def write_octomap(path: str | Path, voxels: MapVoxels) -> None:
    """Write all observed voxels, free ones included, atomically.

    Coordinates are relative to the origin of the map. Occupied voxels have the colours of their
    classes; the format has no place for class ids.

    Raises:
        MapError: a voxel lies more than 32768 voxels from the origin.
        OutputError: the file cannot be written.
    """
    levels = _levels(voxels)
    nodes = np.concatenate([_nodes(level) for level in levels])
    # Depth first: by the first voxel below a node, and of those with the same by depth.
    places = [
        (level.codes << 3 * (_DEPTH - depth)) << 5 | depth for depth, level in enumerate(levels)
    ]
    nodes = nodes[np.argsort(np.concatenate(places))]
    origin = " ".join(f"{value:.17g}" for value in voxels.origin)
    header = (
        "# Octomap OcTree file",
        "# log-odds and colours of a drive; world position of (0, 0, 0) in metres: " + origin,
        "id ColorOcTree",
        f"size {len(nodes)}",
        f"res {voxels.voxel_size:.17g}",
        "data",
        "",
    )
    write_whole(path, "\n".join(header).encode("ascii") + nodes.tobytes())


def _levels(voxels: MapVoxels) -> list[_Level]:
    """The levels of the pruned tree, root first."""
    leaves = _leaves(voxels)
    levels = [leaves]
    for _ in range(_DEPTH):
        parents, pruned = _parents(levels[-1])
        levels[-1] = levels[-1].without(pruned)
        levels.append(parents)
    return levels[::-1]


def _leaves(voxels: MapVoxels) -> _Level:
    keys = voxels.indices.astype(np.int64) + _MIDDLE
    if len(keys) and (keys.min() < 0 or keys.max() >= 2 * _MIDDLE):
        far = np.abs(voxels.indices).max() * voxels.voxel_size
        raise MapError(
            f"the map reaches {far:.0f} m from its origin; with voxels of {voxels.voxel_size:g} m "
            f"an OctoMap reaches {_MIDDLE * voxels.voxel_size:.0f} m. Place the origin at the "
            "start of the drive (--local), or write .npz"
        )
    codes = np.zeros(len(keys), np.int64)
    for bit in range(_DEPTH):
        for axis in range(3):
            codes |= ((keys[:, axis] >> bit) & 1) << (3 * bit + axis)
    order = np.argsort(codes)
    palette = palette_of(voxels.class_names)
    palette[voxels.empty_class] = _NO_COLOUR
    return _Level(
        codes[order],
        voxels.log_odds[order],
        palette[voxels.classes[order]],
        np.zeros(len(keys), np.uint8),
    )


def _parents(level: _Level) -> tuple[_Level, NDArray[np.bool_]]:
    """The level above, and which nodes of this level it replaces."""
    above = level.codes >> 3
    starts = np.flatnonzero(np.diff(above, prepend=-1))
    if not len(starts):
        return level, np.zeros(0, np.bool_)
    counts = np.diff(starts, append=len(above))
    first = np.repeat(starts, counts)
    same = (level.children == 0) & (level.log_odds == level.log_odds[first])
    same &= (level.rgb == level.rgb[first]).all(axis=1)
    prunable = np.add.reduceat(same.astype(np.int64), starts) == 8
    bits = (1 << (level.codes & 7)).astype(np.uint8)
    children = np.where(prunable, 0, np.bitwise_or.reduceat(bits, starts)).astype(np.uint8)
    parents = _Level(
        above[starts],
        np.maximum.reduceat(level.log_odds, starts),
        _mean_colours(level, starts),
        children,
    )
    return parents, np.repeat(prunable, counts)


def _mean_colours(level: _Level, starts: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(n, 3) mean of the coloured nodes of each group; no colour where there are none."""
    coloured = (level.rgb != np.array(_NO_COLOUR)).any(axis=1)
    sums = np.add.reduceat(level.rgb * coloured[:, None].astype(np.int64), starts)
    counts = np.add.reduceat(coloured.astype(np.int64), starts)[:, None]
    means = sums // np.maximum(counts, 1)
    return np.where(counts > 0, means, _NO_COLOUR).astype(np.uint8)


def _nodes(level: _Level) -> NDArray[np.void]:
    nodes = np.empty(len(level.codes), _NODE)
    nodes["log_odds"], nodes["rgb"] = level.log_odds, level.rgb
    nodes["children"] = level.children
    return nodes
