"""Label files of Occ3D-nuScenes (arXiv 2304.14365) as ground truth for recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OccError
from occ_perception.frames import OccupancyPrediction
from occ_perception.geometry import VoxelGrid
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS

OCC3D_GRID = VoxelGrid.from_ranges((-40, 40, 0.4), (-40, 40, 0.4), (-1, 5.4, 0.4))


class Occ3dError(OccError):
    """A label file that is damaged or has another format; the message names it."""


def read_truth(
    path: Path, stamp_ns: int, frame_id: str
) -> tuple[OccupancyPrediction, OccupancyPrediction | None]:
    """The labels of a frame, and again with only the voxels that a camera sees.

    Args:
        path: ``gts/<scene>/<token>/labels.npz``.
        stamp_ns: time of the ego frame in which the labels lie, which is that of the lidar.
        frame_id: name of that frame.

    Returns:
        All labels; and those under ``mask_camera``, 255 elsewhere, None if the file has no mask.

    Raises:
        Occ3dError: the file is damaged, or its labels have another shape or other ids.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            semantics = _volume(path, arrays["semantics"])
            seen = _volume(path, arrays["mask_camera"]) if "mask_camera" in arrays else None
    except OccError:
        raise
    except Exception as error:  # numpy and zipfile fail in many ways on damaged files
        raise Occ3dError(f"{path}: is no label file of Occ3D: {error}") from error
    classes = LABEL_SETS["occ3d"]
    wrong = (semantics >= classes.num_classes) & (semantics != UNKNOWN_CLASS)
    if wrong.any():
        raise Occ3dError(f"{path}: ids {np.unique(semantics[wrong])[:8].tolist()} are no classes")

    def message(labels: NDArray[np.uint8]) -> OccupancyPrediction:
        return OccupancyPrediction(
            stamp_ns=stamp_ns,
            frame_id=frame_id,
            grid=OCC3D_GRID,
            ego_T_grid=np.eye(4),
            labels=labels,
            class_names=classes.class_names,
            empty_class=classes.empty_class,
            model="Occ3D",
        )

    hidden = None if seen is None else np.where(seen > 0, semantics, np.uint8(UNKNOWN_CLASS))
    return message(semantics), None if hidden is None else message(hidden)


def _volume(path: Path, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.shape != OCC3D_GRID.dims or array.dtype.kind not in "biu":
        raise Occ3dError(
            f"{path}: {array.dtype} of shape {array.shape}, expected whole numbers of shape "
            f"{OCC3D_GRID.dims}"
        )
    if array.size and (array.min() < 0 or array.max() > UNKNOWN_CLASS):
        raise Occ3dError(f"{path}: has ids outside of 0 to 255")
    return array.astype(np.uint8)
