"""Folders of label files by sequence and token: saved evaluations, and ground truth of Occ3D.

DIR/<sequence>/<token>.npz             as ``occ-train eval --save`` writes them
DIR/<sequence>/<token>/labels.npz      as Occ3D publishes them (``gts/``)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from occ_perception.bags.occ3d import OCC3D_GRID, read_truth
from occ_perception.bags.recording import BagError
from occ_perception.frames import OccupancyPrediction
from occ_perception.labels import LABEL_SETS, UNKNOWN_CLASS

_LABELS = "labels.npz"
_FRAME = "base_link"


@dataclass(frozen=True)
class LabelPair:
    """A prediction and its ground truth.

    Attributes:
        name: ``sequence/token``.
        prediction, truth: on the grid of Occ3D, without a time.
        in_view_XYZ: voxels that a camera sees; None if the ground truth does not say.
    """

    name: str
    prediction: OccupancyPrediction
    truth: OccupancyPrediction
    in_view_XYZ: NDArray[np.bool_] | None


def is_label_tree(path: str | Path) -> bool:
    """Whether a path is a folder of label files by sequence and token."""
    folder = Path(path)
    return folder.is_dir() and not any(folder.glob("*.npz")) and bool(_files(folder, at_most=1))


class LabelPairs:
    """Saved predictions with the ground truth of the same sequence and token.

    Args:
        predictions: folder of ``occ-train eval --save``.
        truth: folder of Occ3D's ground truth.

    Attributes:
        without_truth: predictions that have no ground truth; they are left out.

    Raises:
        BagError: no prediction has ground truth.
    """

    def __init__(self, predictions: str | Path, truth: str | Path) -> None:
        found, known = _files(Path(predictions)), _files(Path(truth))
        self.without_truth = sorted(found.keys() - known.keys())
        self._files = {
            name: (found[name], known[name]) for name in sorted(found.keys() & known.keys())
        }
        if not self._files:
            raise BagError(
                f"none of the {len(found)} predictions in {predictions} has ground truth in "
                f"{truth}, which has {len(known)} frames: expected <sequence>/<token>.npz and "
                "<sequence>/<token>/labels.npz with the same names"
            )

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[LabelPair]:
        for name, (prediction, truth) in self._files.items():
            whole, in_view = read_truth(truth, 0, _FRAME)
            seen = None if in_view is None else in_view.labels != UNKNOWN_CLASS
            yield LabelPair(name, _prediction(prediction), whole, seen)


def _files(folder: Path, at_most: int | None = None) -> dict[str, Path]:
    """``sequence/token`` -> file."""
    files: dict[str, Path] = {}
    for path in [*folder.glob("*/*.npz"), *folder.glob(f"*/*/{_LABELS}")]:
        inner = path.parent if path.name == _LABELS else path.with_suffix("")
        files[inner.relative_to(folder).as_posix()] = path
        if at_most is not None and len(files) >= at_most:
            break
    return files


def _prediction(path: Path) -> OccupancyPrediction:
    """A prediction of ``occ-train eval --save``, of a model with the classes of Occ3D.

    Raises:
        BagError: the file is damaged, or is of a model with another grid or other classes.
    """
    classes = LABEL_SETS["occ3d"]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            labels = arrays["semantics"]
            flow = arrays["flow"].astype(np.float32) if "flow" in arrays else None
        if labels.shape != OCC3D_GRID.dims or labels.max() >= classes.num_classes:
            raise ValueError(
                f"labels of shape {labels.shape} up to {labels.max()}, expected those of Occ3D, "
                f"{OCC3D_GRID.dims} up to {classes.num_classes - 1}"
            )
    except Exception as error:  # numpy and zipfile fail in many ways on damaged files
        raise BagError(f"{path} is no saved prediction of a model for Occ3D: {error}") from error
    return OccupancyPrediction(
        stamp_ns=0,
        frame_id=_FRAME,
        grid=OCC3D_GRID,
        ego_T_grid=np.eye(4),
        labels=labels.astype(np.uint8),
        class_names=classes.class_names,
        empty_class=classes.empty_class,
        flow=flow,
        model=path.parent.parent.name,
    )
