"""Occupancy, cameras, flow and the ego path on a timeline, for the rerun viewer (extra ``rerun``).

Entities: ``world`` (fixed, z up) holds ``world/path/N`` and ``world/ego`` (the moving ego frame);
below that ``prediction``, ``truth``, ``motion`` and ``cameras/NAME``.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from occ_perception.atomic import atomic_path
from occ_perception.errors import needed_for
from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.labels import UNKNOWN_CLASS
from occ_perception.viewer.panels import camera_rows
from occ_perception.viewer.views import ViewerError, colours_of_ids, motion_arrows
from occ_perception.viewer.volume import ARROW_SECONDS
from occ_perception.viewer.voxel_boxes import boxes_of_voxels

APPLICATION = "occ_perception"
TIMELINE = "stamp"
_JPEG_QUALITY = 80
_ARROW_RADIUS = 0.12
_PATH_RADIUS = 0.1
_PIECE = 50
_PATH_COLOUR = (28, 32, 38)
_FRUSTUM_DEPTH = 1.0
_VEHICLE = ((1.4, 0.0, 0.8), (2.35, 0.93, 0.75))
_EYE, _TARGET = (-32.0, 0.0, 19.0), (8.0, 0.0, 0.0)


@dataclass
class _DrivenPath:
    """The current piece of the driven path; pieces keep the log size proportional to its length."""

    piece: int = 0
    points: list[NDArray[np.float64]] = field(default_factory=list)

    def add(self, position: NDArray[np.float64]) -> None:
        if len(self.points) == _PIECE:
            self.piece, self.points = self.piece + 1, self.points[-1:]
        self.points.append(position)


class RerunLog:
    """Sends frames to a rerun viewer or a recording; a context manager.

    A recording appears, and replaces an existing one, when the context ends without an error and
    holds at least one frame.

    Args:
        save_to: .rrd file to write; None opens a viewer on this machine.

    Raises:
        MissingPackageError: rerun is not installed.
        OutputError: ``save_to`` cannot be written.
    """

    def __init__(self, save_to: str | Path | None = None) -> None:
        self._rr = _rerun()
        self._stream = self._rr.RecordingStream(APPLICATION)
        self._path = _DrivenPath()
        self._moments = 0
        self._sequence = ""
        self._rig = ""
        self._vocabulary: tuple[str, ...] = ()
        self._output = ExitStack()
        self._unfinished: Path | None = None
        if save_to is None:
            self._stream.spawn()
        else:
            self._unfinished = self._output.enter_context(atomic_path(save_to))
            self._stream.save(str(self._unfinished))
        self._log("world", self._rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Send or write all pending data.

        Raises:
            ViewerError: the viewer could not start, or was closed.
            OutputError: the recording could not be written.
        """
        with self._output:
            self._finish()
            if self._unfinished is not None and (failure is not None or not self._moments):
                self._unfinished.unlink()

    def _finish(self) -> None:
        try:
            self._stream.flush()
        except RuntimeError as error:
            raise ViewerError(
                f"rerun did not accept all data: {error}. If its viewer cannot open a window, "
                "write a recording (--out drive.rrd) and open it with "
                "`rerun --web-viewer drive.rrd`"
            ) from error
        finally:
            self._stream.disconnect()

    def add(
        self,
        prediction: OccupancyPrediction,
        frame: CameraFrame | None = None,
        truth: OccupancyPrediction | None = None,
    ) -> None:
        """Add one frame at the prediction's stamp.

        Without a camera frame the ego pose stays unchanged.
        """
        self._moments += 1
        self._stream.set_time(TIMELINE, timestamp=np.datetime64(prediction.stamp_ns, "ns"))
        if prediction.class_names != self._vocabulary:
            self._name_classes(prediction)
        if frame is not None:
            self._add_frame(frame)
        self._add_voxels("world/ego/prediction", prediction)
        self._add_motion(prediction)
        if truth is not None:
            self._add_voxels("world/ego/truth", truth)

    def _log(self, entity: str, *archetypes: Any, static: bool = False) -> None:
        self._stream.log(entity, *archetypes, static=static)

    def _name_classes(self, prediction: OccupancyPrediction) -> None:
        """Log class colours and names, shared by name between prediction and ground truth."""
        self._vocabulary = prediction.class_names
        colours = colours_of_ids(prediction.class_names)
        rows = [
            (label, name, tuple(int(value) for value in colours[label]))
            for label, name in enumerate(prediction.class_names)
        ]
        self._log("world", self._rr.AnnotationContext(rows), static=True)

    def _add_voxels(self, entity: str, prediction: OccupancyPrediction) -> None:
        boxes = boxes_of_voxels(prediction)
        ids = {name: label for label, name in enumerate(self._vocabulary)}
        table = np.full(256, UNKNOWN_CLASS, np.uint16)
        table[: len(prediction.class_names)] = [
            ids.get(name, UNKNOWN_CLASS) for name in prediction.class_names
        ]
        pose = prediction.ego_T_grid
        self._log(entity, self._rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        self._log(
            f"{entity}/voxels",
            self._rr.Boxes3D(
                centers=boxes.centres.astype(np.float32),
                half_sizes=boxes.half_sizes.astype(np.float32),
                class_ids=table[boxes.labels],
                fill_mode="solid",
                show_labels=False,
            ),
        )

    def _add_motion(self, prediction: OccupancyPrediction) -> None:
        positions, velocities = motion_arrows(prediction)
        vectors = np.column_stack([ARROW_SECONDS * velocities, np.zeros(len(velocities))])
        speeds = np.hypot(*velocities.T)
        arrows = self._rr.Arrows3D(
            origins=positions,
            vectors=vectors,
            radii=_ARROW_RADIUS,
            colors=_PATH_COLOUR,
            labels=[f"{speed:.1f} m/s" for speed in speeds],
            show_labels=False,
        )
        self._log("world/ego/motion", arrows)

    def _add_frame(self, frame: CameraFrame) -> None:
        if frame.sequence != self._sequence:
            if self._sequence:
                self._log("world/path", self._rr.Clear(recursive=True))
            self._path = _DrivenPath(self._path.piece + 1)
            self._sequence = frame.sequence
        if frame.rig.fingerprint() != self._rig:
            self._rig = frame.rig.fingerprint()
            self._add_rig(frame.rig)
        pose = frame.world_T_reference_ego
        self._path.add(pose[:3, 3])
        self._log("world/ego", self._rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        strip = self._rr.LineStrips3D(
            [np.array(self._path.points)], radii=_PATH_RADIUS, colors=_PATH_COLOUR
        )
        self._log(f"world/path/{self._path.piece}", strip)
        for name, image in frame.images.items():
            compressed = self._rr.Image(image).compress(jpeg_quality=_JPEG_QUALITY)
            self._log(f"world/ego/cameras/{name}", compressed)

    def _add_rig(self, rig: CameraRig) -> None:
        for camera in rig.cameras:
            pose = camera.ego_T_cam
            self._log(
                f"world/ego/cameras/{camera.name}",
                self._rr.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]),
                self._rr.Pinhole(
                    image_from_camera=camera.K,
                    width=camera.width,
                    height=camera.height,
                    camera_xyz=self._rr.ViewCoordinates.RDF,
                    image_plane_distance=_FRUSTUM_DEPTH,
                ),
                static=True,
            )
        centre, half = _VEHICLE
        vehicle = self._rr.Boxes3D(centers=[centre], half_sizes=[half], colors=_PATH_COLOUR)
        self._log("world/ego/vehicle", vehicle, static=True)
        self._stream.send_blueprint(_blueprint(rig))


def _blueprint(rig: CameraRig) -> Any:
    """The layout: the volume above the cameras in spatial order; the view follows the vehicle."""
    import rerun.blueprint as blueprint

    behind = blueprint.EyeControls3D(position=_EYE, look_target=_TARGET, eye_up=(0, 0, 1))
    shared = ["$origin/vehicle", "world/path/**"]
    volume = blueprint.Spatial3DView(
        origin="world/ego",
        contents=["$origin/prediction/**", "$origin/motion", "$origin/cameras/**", *shared],
        name="prediction",
        eye_controls=behind,
    )
    truth = blueprint.Spatial3DView(
        origin="world/ego",
        contents=["$origin/truth/**", *shared],
        name="ground truth",
        eye_controls=behind,
    )
    rows = camera_rows(rig)
    cameras = [
        blueprint.Spatial2DView(origin=f"world/ego/cameras/{name}", contents="$origin", name=name)
        for row in rows
        for name in row
    ]
    columns = max(len(row) for row in rows)
    return blueprint.Blueprint(
        blueprint.Vertical(
            blueprint.Horizontal(volume, truth),
            blueprint.Grid(*cameras, grid_columns=columns),
            row_shares=[3, 2],
        ),
        collapse_panels=True,
    )


def _rerun() -> Any:
    with needed_for("this view"):
        import rerun
    return rerun
