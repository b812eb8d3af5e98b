"""A recorded drive: camera frames from a recording, the same as the node assembles live."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from occ_perception.bags.discovery import choose_layout, discover_mount, discover_vehicle
from occ_perception.bags.frame_set_index import FrameSetIndex, index_frame_sets
from occ_perception.bags.lidar import LidarSweeps, NearestSweeps
from occ_perception.bags.reading import Reading, RecordedCloud, RecordedFrameSet
from occ_perception.bags.recording import BagProblem, Recording
from occ_perception.frames import CameraFrame, CameraRig, LidarPoints
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.ego_pose import EgoPoses
from occ_perception.sensing.frame_sets import FrameSetCounters
from occ_perception.sensing.input_plan import plan_inputs
from occ_perception.sensing.layouts import TopicLayout

if TYPE_CHECKING:  # bags are read without torch, which the models need
    from occ_perception.models.card import ModelCard


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
        rig: rig, or its name or path, that replaces the calibration in the recording.
        sequence: name of the frames' sequence; the recording's name by default. When time goes
            back within the recording, a new sequence ``NAME#2`` begins.
        missing_camera: what to do with frame sets that lack a camera, see
            :class:`~.assembly.FrameAssembler`.
        model: only the cameras of this model are read, under its names, and the lidar's mount if
            its grid lies in the lidar frame. Cameras that layout or rig lack are absent from the
            frames. If the model takes lidar depth, every frame has a lidar sweep.
        lidar_topic: topic of sensor_msgs/PointCloud2, if the recording has several.

    Raises:
        BagError: nothing can be read, no layout fits, or a calibration is missing.
        YamlError: a layout or rig file is wrong.
        InputPlanError: layout, rig and model do not match.
        ValueError: the recording has none of the model's cameras, or lacks the reference camera.
    """
    recording = Recording(path)
    try:
        return RecordedDrive(recording, layout, rig, sequence, missing_camera, model, lidar_topic)
    except BaseException:
        recording.close()
        raise


class RecordedDrive:
    """An open recording, from :func:`open_recording`; a context manager.

    Iterate to get camera frames, as often as needed. Frame sets that cannot become frames are
    listed as problems.

    Attributes:
        recording: the messages.
        layout: the layout in use, with the recording's topic names.
        rig: rectified calibrations of the first frames. If camera_info changes within the
            recording, later frames have another rig, as they do live.
        recorded_rig: calibrations of the images as recorded, distortion included.
        notes: sources of the calibration other than the recording.
        doubts: what can hardly be true of the first frames' calibration, with advice.
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
        self._plan = plan_inputs(
            choose_layout(recording, layout, cameras),
            rig,
            cameras,
            needs_lidar_mount=model is not None and model.grid_frame == "lidar",
        )
        self.layout = self._plan.layout
        vehicle, self.recorded_rig = discover_vehicle(recording, self._plan)
        self._vehicles = {"": vehicle}
        """Lidar topic -> state of the vehicle before the topic is read."""
        self._missing_camera = missing_camera
        self.rig = self.assembler(self.recorded_rig).rig
        self.notes, self.doubts = vehicle.notes, vehicle.doubts
        self._sweeps: LidarSweeps | None = None
        if model is not None and model.measures_depth:
            self._sweeps = LidarSweeps(recording.path, lidar_topic, self._plan)
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
    def ego_frame(self) -> str:
        """Name of the ego frame."""
        return self.layout.pose.ego_frame

    @property
    def source(self) -> str:
        """The layout's name."""
        return self.layout.name

    @property
    def problems(self) -> list[BagProblem]:
        """What was skipped so far and why; complete after an iteration."""
        known = self.recording.problems
        of_lidar = [] if self._sweeps is None else self._sweeps.problems
        return known + [problem for problem in of_lidar if problem not in known]

    @property
    def counters(self) -> FrameSetCounters:
        """Counts of images and frame sets in the last iteration."""
        return self._reading.counters

    @property
    def expected_frames(self) -> int:
        """Upper limit of the number of frames: the number of images of the reference camera."""
        return self.recording.topics[self._reference_topic].count

    def __iter__(self) -> Iterator[CameraFrame]:
        time_line, rig = -1, None
        for item in self.frame_sets():
            if item.rig is not rig:
                rig, assembler = item.rig, self.assembler(item.rig)
            if item.time_line != time_line:
                time_line = item.time_line
                assembler.reset()
                sweeps = None if self._sweeps is None else NearestSweeps(self._sweeps)
            try:
                frame = assembler.assemble(item.frame_set, item.poses, item.sequence)
                yield frame if sweeps is None else _with_lidar(frame, sweeps, item.poses)
            except FrameError as error:
                self.recording.note(error.reason, str(error), item.frame_set.reference_stamp_ns)

    def frame_sets(self) -> Iterator[RecordedFrameSet]:
        """The frame sets, incomplete ones included; images are not decoded."""
        self._reading = self._pass(index=self._index)
        return self._reading.frame_sets()

    def clouds(self, topic: str) -> Iterator[RecordedCloud]:
        """The messages of a lidar topic, with the poses around them; images are not read."""
        return self._pass(topic).clouds()

    def frame_sets_and_clouds(self, topic: str) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """Frame sets and clouds in one pass; no clouds if ``topic`` is ""."""
        self._reading = self._pass(topic, self._index)
        return self._reading.items()

    def reference_stamps(self) -> list[int]:
        """Stamps of the reference camera's images, sorted and unique; images are not decoded."""
        has_stamps = self.layout.stamp_source == "header"
        messages = self.recording.messages({self._reference_topic})
        return sorted(
            {self.recording.header_stamp_ns(m) if has_stamps else m.received_ns for m in messages}
        )

    @property
    def _reference_topic(self) -> str:
        topics = {camera.name: camera.image for camera in self.layout.cameras}
        return topics[self.layout.reference_camera]

    def assembler(self, rig: CameraRig) -> FrameAssembler:
        """The assembler for frame sets with this rig."""
        return FrameAssembler(rig, self._missing_camera, self._plan.encodings)

    @cached_property
    def _index(self) -> FrameSetIndex:
        return index_frame_sets(self.recording, self.layout)

    def _pass(self, lidar_topic: str = "", index: FrameSetIndex | None = None) -> Reading:
        if lidar_topic not in self._vehicles:
            vehicle = deepcopy(self._vehicles[""])
            discover_mount(self.recording, vehicle, lidar_topic)
            self._vehicles[lidar_topic] = vehicle
        vehicle = deepcopy(self._vehicles[lidar_topic])  # a pass feeds it
        return Reading(self.recording, vehicle, self.sequence, lidar_topic, index)


def _with_lidar(frame: CameraFrame, sweeps: NearestSweeps, poses: EgoPoses) -> CameraFrame:
    """The frame with the nearest sweep; raises FrameError if none can be used."""
    sweep, world_T_ego = sweeps.at(frame.stamp_ns, frame.reference_camera, poses)
    return replace(frame, lidar=LidarPoints(sweep.stamp_ns, sweep.points, world_T_ego))
