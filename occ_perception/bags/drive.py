"""A recorded drive: camera frames out of a recording, as the node would make them live."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from occ_perception.bags.calibrating import calibrate, choose_layout
from occ_perception.bags.lidar import LidarSweeps, NearestSweeps
from occ_perception.bags.reading import Reading, RecordedCloud, RecordedFrameSet
from occ_perception.bags.recording import BagProblem, Recording
from occ_perception.frames import CameraFrame, CameraRig, LidarPoints
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.sensing.rings import RingCounters

if TYPE_CHECKING:  # bags are read without torch, which the models need
    from occ_perception.models.zoo import ModelCard


def open_recording(
    path: str | Path,
    layout: TopicLayout | str | Path | None = None,
    rig: CameraRig | str | Path | None = None,
    sequence: str | None = None,
    missing_camera: Literal["drop", "reuse_last"] = "drop",
    model: ModelCard | None = None,
    lidar_topic: str | None = None,
) -> RecordedDrive:
    """Open a recording of a vehicle's cameras and ego pose; no ROS is needed.

    ::

        with open_recording("scene-0103") as drive:
            for frame in drive:
                frame.images["CAM_FRONT"]

    Args:
        path: rosbag2 folder, ``.mcap``, ``.db3`` or ROS 1 ``.bag``.
        layout: topic layout, or its name or path; recognised from the topics by default.
        rig: rig, or its name or path, that replaces whatever the recording says.
        sequence: name of the frames' sequence; the recording's name by default. Where time goes
            back in mid-recording a new sequence ``NAME#2`` begins.
        missing_camera: what to do with frame sets that lack a camera, see
            :class:`~.assembly.FrameAssembler`.
        model: whose frames are wanted: only its cameras are read, under its names, and the
            lidar's mount where its grid lies there. Cameras that layout or rig do not have are
            absent from the frames. Where it is given depth, every frame has a lidar sweep.
        lidar_topic: of sensor_msgs/PointCloud2, where the recording has several.

    Raises:
        BagError: nothing can be read, no layout fits, or a calibration is missing.
        YamlError: a layout or rig file is wrong.
        ValueError: the recording has none of the model's cameras, or not the reference camera.
    """
    recording = Recording(path)
    try:
        return RecordedDrive(recording, layout, rig, sequence, missing_camera, model, lidar_topic)
    except BaseException:
        recording.close()
        raise


class RecordedDrive:
    """What :func:`open_recording` gives; a context manager.

    Iterate to get camera frames, as often as needed. Frame sets that cannot become frames are
    listed as problems.

    Attributes:
        recording: the messages.
        layout: the layout in use, with the recording's own topic names.
        rig: calibrations of the frames (rectified).
        recorded_rig: calibrations of the images as they were recorded, distortion included.
        notes: what the calibration relies on besides the recording.
        sequence: name of the first time line.
    """

    def __init__(
        self,
        recording: Recording,
        layout: TopicLayout | str | Path | None,
        rig: CameraRig | str | Path | None,
        sequence: str | None,
        missing_camera: Literal["drop", "reuse_last"],
        model: ModelCard | None,
        lidar_topic: str | None,
    ) -> None:
        self.recording = recording
        self.sequence = sequence or recording.path.stem
        cameras = None if model is None else model.cameras
        self.layout = choose_layout(recording, layout, cameras)
        given = rig if rig is None or isinstance(rig, CameraRig) else load_rig(rig)
        if model is not None and given is not None:
            given = self.layout.under_model_names(given)
            self.layout = self.layout.only(given.names)
        with_lidar = model is not None and model.grid_frame == "lidar"
        calibrated = calibrate(recording, self.layout, given, with_lidar)
        self.notes = calibrated.notes
        self.recorded_rig = calibrated.rig
        encodings = {c.name: c.encoding for c in self.layout.cameras if c.encoding}
        self._assembler = FrameAssembler(
            calibrated.rig, self.layout.reference_camera, missing_camera, encodings
        )
        self.rig = self._assembler.rig
        self._sweeps: LidarSweeps | None = None
        if model is not None and model.measures_depth:
            self._sweeps = LidarSweeps(recording.path, self.layout.pose.ego_frame, lidar_topic)
        self._reading = self._pass()

    def __enter__(self) -> RecordedDrive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the recording."""
        self.recording.close()
        if self._sweeps is not None:
            self._sweeps.close()

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why; complete after an iteration."""
        return self.recording.problems

    @property
    def counters(self) -> RingCounters:
        """What became of the images in the last iteration."""
        return self._reading.counters

    @property
    def expected_frames(self) -> int:
        """Number of images of the reference camera: no more frames can come."""
        topics = {camera.name: camera.image for camera in self.layout.cameras}
        return self.recording.topics[topics[self.layout.reference_camera]].count

    def __iter__(self) -> Iterator[CameraFrame]:
        time_line = -1
        for item in self.frame_sets():
            if item.time_line != time_line:
                time_line = item.time_line
                self._assembler.reset()
                sweeps = None if self._sweeps is None else NearestSweeps(self._sweeps)
            try:
                yield self._frame(item, sweeps)
            except FrameError as error:
                self.recording.note(error.reason, str(error), item.ring.reference_stamp_ns)

    def _frame(self, item: RecordedFrameSet, sweeps: NearestSweeps | None) -> CameraFrame:
        frame = self._assembler.assemble(item.ring, item.poses, item.sequence)
        if sweeps is None:
            return frame
        sweep, world_T_ego = sweeps.at(frame.stamp_ns, frame.reference_camera, item.poses)
        return replace(frame, lidar=LidarPoints(sweep.stamp_ns, sweep.points, world_T_ego))

    def frame_sets(self) -> Iterator[RecordedFrameSet]:
        """The frame sets that frames are made of, incomplete ones included; nothing is decoded."""
        self._reading = self._pass()
        return self._reading.frame_sets()

    def reference_stamps(self) -> list[int]:
        """Stamps of the reference camera's images, sorted, each once; no image is decoded."""
        topics = {camera.name: camera.image for camera in self.layout.cameras}
        has_stamps = self.layout.stamp_source == "header"
        messages = self.recording.messages({topics[self.layout.reference_camera]})
        return sorted(
            {self.recording.header_stamp_ns(m) if has_stamps else m.received_ns for m in messages}
        )

    def clouds(self, topic: str) -> Iterator[RecordedCloud]:
        """The messages of a lidar's topic, with the poses around them; no image is read."""
        return self._pass(topic).clouds()

    def frame_sets_and_clouds(self, topic: str) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """Both in one pass."""
        self._reading = self._pass(topic)
        return self._reading.items()

    def _pass(self, lidar_topic: str = "") -> Reading:
        return Reading(self.recording, self.layout, self.recorded_rig, self.sequence, lidar_topic)
