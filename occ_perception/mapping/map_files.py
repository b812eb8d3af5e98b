"""A map as NumPy arrays and as the columns of a point cloud."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import atomic_path
from occ_perception.labels import palette_of
from occ_perception.mapping.drive_map import MapVoxels


def write_arrays(path: str | Path, voxels: MapVoxels) -> None:
    """Write all observed voxels as ``.npz``, atomically; docs/mapping.md lists the arrays.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as unfinished:
        np.savez_compressed(
            unfinished,
            indices=voxels.indices,
            classes=voxels.classes,
            log_odds=voxels.log_odds,
            voxel_size=voxels.voxel_size,
            origin=np.array(voxels.origin),
            class_names=np.array(voxels.class_names),
            empty_class=voxels.empty_class,
        )


def read_arrays(path: str | Path) -> MapVoxels:
    """Read a file of :func:`write_arrays`."""
    with np.load(path, allow_pickle=False) as arrays:
        x, y, z = map(float, arrays["origin"])
        return MapVoxels(
            float(arrays["voxel_size"]),
            (x, y, z),
            tuple(map(str, arrays["class_names"])),
            int(arrays["empty_class"]),
            arrays["indices"],
            arrays["log_odds"],
            arrays["classes"],
        )


def point_columns(voxels: MapVoxels) -> dict[str, NDArray[Any]]:
    """Columns (n,) of the occupied voxels for a point cloud.

    ``x``, ``y``, ``z`` (float32) are centres relative to the map's origin in metres, ``red``,
    ``green``, ``blue`` and ``label`` (uint8) colour and id of the class, ``probability`` (float32)
    that of being occupied.
    """
    chosen = voxels.occupied
    centres = voxels.centres()[chosen].astype(np.float32)
    classes = voxels.classes[chosen]
    colours = palette_of(voxels.class_names)[classes]
    columns: dict[str, NDArray[Any]] = {name: centres[:, n] for n, name in enumerate("xyz")}
    columns |= {name: colours[:, n] for n, name in enumerate(("red", "green", "blue"))}
    columns["label"] = classes
    columns["probability"] = voxels.probabilities[chosen]
    return columns
