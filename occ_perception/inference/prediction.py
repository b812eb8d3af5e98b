"""One prediction with the images it was made from: to look at, to save, to use elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import write_whole
from occ_perception.bags.predictions import read_arrays, write_arrays
from occ_perception.codec import RLE, encode_occupancy
from occ_perception.errors import MissingPackageError, OptionError
from occ_perception.frames import CameraFrame, OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.images import encode_png, prediction_image, write_png
from occ_perception.viewer.point_files import voxel_columns, write_ply

_FORMATS = (".npz", ".json", ".ply", ".png")


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(OccupancyPrediction):
    """Semantic occupancy of one frame; see :class:`~occ_perception.frames.OccupancyPrediction`.

    Attributes:
        frame: the images it was made from; None if they are not known.
    """

    frame: CameraFrame | None = None

    @classmethod
    def of(cls, prediction: OccupancyPrediction, frame: CameraFrame | None = None) -> Prediction:
        """The same prediction, with its images."""
        values = {f.name: getattr(prediction, f.name) for f in fields(OccupancyPrediction)}
        return cls(**values, frame=frame)

    @classmethod
    def load(cls, path: str | Path) -> Prediction:
        """A prediction from an .npz file, of :meth:`save` or of ``occ run --npz``.

        Raises:
            BagError: there is no such file, or it is not a prediction.
        """
        return cls.of(read_arrays(Path(path)))

    @property
    def occupied(self) -> NDArray[np.bool_]:
        """(X, Y, Z) voxels with a class other than free space."""
        occupied: NDArray[np.bool_] = self.labels != self.empty_class
        occupied &= self.labels != UNKNOWN_CLASS
        return occupied

    @property
    def unknown(self) -> NDArray[np.bool_] | None:
        """(X, Y, Z) voxels that no camera has seen, now or a short while ago; None if that was not
        computed (it needs numba)."""
        return None if self.observed is None else ~self.observed

    def __repr__(self) -> str:
        X, Y, Z = self.grid.dims
        words = [f"{X}x{Y}x{Z}", f"{int(self.occupied.sum())} voxels occupied"]
        if self.flow is not None:
            words.append("with flow")
        if self.unknown is not None:
            words.append(f"{100 * self.unknown.mean():.0f} % unknown")
        words.append(f"history {self.history_length}")
        stamp = f"{self.stamp_ns / 1e9:.3f} s"
        return f"<Prediction of {self.model or 'unnamed model'} at {stamp}: {', '.join(words)}>"

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        return encode_png(self.to_image())

    def to_image(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB: from above, from the right, in perspective, and the images."""
        return prediction_image(self, self.frame)

    def to_points(self) -> dict[str, NDArray[Any]]:
        """Occupied voxels as columns of equal length, ready for a data frame.

        ``x``, ``y``, ``z`` are the centres in the ego frame, metres; ``red``, ``green``, ``blue``
        the colours; ``label`` the class ids; ``vx``, ``vy`` the velocities over ground along the
        ego axes, m/s, if the model predicts them.
        """
        return voxel_columns(self)

    def to_json(self) -> str:
        """The prediction as JSON.

        ``runs`` are pairs of a class id and a number of voxels, along x first, then y, then z;
        the numbers add up to the grid. Flow is not part of it.
        """
        runs = encode_occupancy(self.labels, self.empty_class, RLE)
        content = {
            "stamp_ns": self.stamp_ns,
            "frame_id": self.frame_id,
            "model": self.model,
            "class_names": list(self.class_names),
            "empty_class": self.empty_class,
            "grid": {
                "lower": list(self.grid.lower),
                "voxel_size": list(self.grid.voxel_size),
                "dims": list(self.grid.dims),
            },
            "ego_T_grid": np.asarray(self.ego_T_grid).tolist(),
            "runs": np.stack([runs.labels.astype(int), runs.run_lengths.astype(int)], 1).tolist(),
        }
        return json.dumps(content)

    def save(self, path: str | Path) -> Path:
        """Write it atomically: ``.npz`` (everything), ``.json``, ``.ply`` (points) or ``.png``.

        Raises:
            OptionError: the name has another ending.
            OutputError: the file cannot be written.
        """
        path = Path(path)
        if path.suffix == ".npz":
            write_arrays(path, self)
        elif path.suffix == ".json":
            write_whole(path, self.to_json() + "\n")
        elif path.suffix == ".ply":
            write_ply(path, self.to_points(), "labels: " + " ".join(self.class_names))
        elif path.suffix == ".png":
            write_png(path, self.to_image())
        else:
            raise OptionError(f"{path}: expected a name ending in {', '.join(_FORMATS)}")
        return path

    def show(self, viewer: Literal["rerun", "open3d"] | None = None) -> None:
        """Open it in a viewer; by default in the one that is installed.

        Raises:
            MissingPackageError: no viewer is installed.
            ViewerError: there is no display.
        """
        if viewer is None and find_spec("rerun"):
            viewer = "rerun"
        elif viewer is None and find_spec("open3d"):
            viewer = "open3d"
        if viewer is None:
            raise MissingPackageError(
                "show() needs a viewer: pip install 'occ_perception[rerun]' or "
                "'occ_perception[open3d]'; save('prediction.png') needs none"
            )
        if viewer == "rerun":
            from occ_perception.viewer.rerun_log import RerunLog

            with RerunLog() as log:
                log.add(self, self.frame)
        elif viewer == "open3d":
            from occ_perception.viewer.open3d_window import Open3DWindow

            Open3DWindow([self]).run()
        else:
            raise OptionError(f"viewer must be rerun or open3d, got {viewer!r}")
