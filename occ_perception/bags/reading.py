"""Camera frames out of a recording, as the node would make them out of the live topics."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from occ_perception.bags.calibrating import add_transforms, calibrate, choose_layout, tf_topics
from occ_perception.bags.lidar import LidarAssembler, LidarSweeps
from occ_perception.bags.recording import BagError, BagProblem, RecordedMessage, Recording
from occ_perception.frames import CameraFrame, CameraRig
from occ_perception.sensing.assembly import FrameAssembler, FrameError
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.ego_pose import EgoPoses, PoseBuffer
from occ_perception.sensing.layouts import TopicLayout
from occ_perception.sensing.message_fields import (
    is_about,
    picture_from_message,
    pose_from_odometry,
    stamp_ns,
)
from occ_perception.sensing.rings import Ring, RingCounters, RingGrouper
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformTree

if TYPE_CHECKING:  # bags are read without torch, which the models need
    from occ_perception.models.zoo import ModelCard

_LONGEST_POSE_DELAY_NS = 1_500_000_000
"""A ring is not kept waiting for poses longer than this.

Converters log poses in bursts every 0.5 s; a stream of poses that ended must not make all pictures
behind it pile up in memory.
"""


class BagFrames:
    """The frames of a recording; iterate to get them, as often as needed.

    Args:
        path: rosbag2 folder, ``.mcap``, ``.db3`` or ROS 1 ``.bag``.
        layout: topic layout, or its name or path; recognised from the topics by default.
        rig: rig, or its name or path, that replaces whatever the recording says.
        sequence: name of the frames' sequence; the recording's name by default. Where time goes
            back in mid-recording a new sequence ``NAME#2`` begins.
        missing_camera: what to do with rings that lack a camera, see :class:`FrameAssembler`.
        model: whose frames are wanted: only its cameras are read, under its names, and the
            lidar's mount where its grid lies there. Cameras that layout or rig do not have are
            absent from the frames. Where it is given depth, every frame has a lidar sweep.
        lidar_topic: of sensor_msgs/PointCloud2, where the recording has several.

    Attributes:
        layout: the layout in use, with the recording's own topic names.
        rig: calibrations of the frames (rectified).
        notes: what the calibration relies on besides the recording.

    Raises:
        BagError: nothing can be read, no layout fits, or a calibration is missing.
        YamlError: a layout or rig file is wrong.
        ValueError: the recording has none of the model's cameras, or not the reference camera.
    """

    def __init__(
        self,
        path: str | Path,
        layout: TopicLayout | str | Path | None = None,
        rig: CameraRig | str | Path | None = None,
        sequence: str | None = None,
        missing_camera: Literal["drop", "reuse_last"] = "drop",
        model: ModelCard | None = None,
        lidar_topic: str | None = None,
    ) -> None:
        self.recording = Recording(path)
        self.sequence = sequence or Path(path).stem
        cameras = None if model is None else model.cameras
        with_lidar = model is not None and model.grid_frame == "lidar"
        try:
            self.layout = choose_layout(self.recording, layout, cameras)
            given = rig if rig is None or isinstance(rig, CameraRig) else load_rig(rig)
            if model is not None and given is not None:
                given = self.layout.under_model_names(given)
                self.layout = self.layout.only(given.names)
            calibrated = calibrate(self.recording, self.layout, given, with_lidar)
        except BaseException:
            self.recording.close()
            raise
        self.notes = calibrated.notes
        encodings = {c.name: c.encoding for c in self.layout.cameras if c.encoding}
        self._assembler = FrameAssembler(
            calibrated.rig, self.layout.reference_camera, missing_camera, encodings
        )
        self.rig = self._assembler.rig
        self._made: Assembler[CameraFrame] = self._assembler
        self._sweeps: LidarSweeps | None = None
        if model is not None and model.measures_depth:
            self._sweeps = LidarSweeps(path, self.layout.pose.ego_frame, lidar_topic)
            self._made = LidarAssembler(self._assembler, self._sweeps)
        self._counters = RingCounters()

    def __enter__(self) -> BagFrames:
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
        """What became of the pictures in the last iteration."""
        return self._counters

    @property
    def expected_frames(self) -> int:
        """Number of pictures of the reference camera: no more frames can come."""
        topics = {camera.name: camera.image for camera in self.layout.cameras}
        return self.recording.topics[topics[self.layout.reference_camera]].count

    def __iter__(self) -> Iterator[CameraFrame]:
        self._made.reset()
        reading = RingReading(self.recording, self.layout, self._made, self.sequence)
        self._counters = reading.rings.counters
        for message in self.recording.messages(reading.topics):
            yield from reading.take(message)
        yield from reading.finish()


Made = TypeVar("Made", covariant=True)


class Assembler(Protocol[Made]):
    """Makes something of a ring and the poses around it, as :class:`FrameAssembler` does."""

    def assemble(self, ring: Ring, poses: EgoPoses, sequence: str) -> Made:
        """May raise :class:`FrameError`, which becomes a problem of the recording."""

    def reset(self) -> None:
        """Time went back."""


class RingReading(Generic[Made]):
    """One pass: pictures become rings, rings wait until the poses around them are known.

    Args:
        recording: what is read.
        layout: with the recording's own topic names.
        assembler: what becomes of a ring.
        sequence: name of the first time line.

    Attributes:
        topics: the topics whose messages :meth:`take` wants.
        rings: the ring grouper, for its counters.
    """

    def __init__(
        self,
        recording: Recording,
        layout: TopicLayout,
        assembler: Assembler[Made],
        sequence: str = "",
    ) -> None:
        self._recording = recording
        self._layout = layout
        self._assembler = assembler
        self._sequence = sequence
        self._time_lines = 1
        self._cameras = {camera.image: camera.name for camera in layout.cameras}
        self._tree = TransformTree()
        self._odometry = PoseBuffer()
        self.poses: EgoPoses = self._odometry
        pose_topics = {layout.pose.topic}
        if layout.pose.kind == "tf":
            self.poses = self._tree.poses(layout.pose.world_frame, layout.pose.ego_frame)
            pose_topics |= tf_topics(self._recording, static=True)
        self._static_topics = tf_topics(self._recording, static=True)
        self.topics = {*self._cameras, *pose_topics}
        self.rings = RingGrouper(
            layout.camera_names,
            layout.reference_camera,
            tolerance_ns=round(layout.ring_tolerance_ms * 1e6),
        )
        self._waiting: deque[Ring] = deque()
        self._newest_picture_ns = 0

    def take(self, message: RecordedMessage) -> Iterator[Made]:
        """Feed one message; yields what is made of the rings that it completes."""
        try:
            self._feed(message)
        except TimeJump as jump:
            yield from self.finish()
            self._start_new_time_line(jump)
            self._feed(message)
        except BagError as error:
            self._recording.note("unreadable_message", str(error), message.received_ns)
        while self._waiting and self._is_settled(self._waiting[0]):
            yield from self._assemble(self._waiting.popleft())

    def finish(self) -> Iterator[Made]:
        """Close what is open: the recording or its time line has ended."""
        self._waiting.extend(self.rings.flush())
        while self._waiting:
            yield from self._assemble(self._waiting.popleft())

    def _feed(self, message: RecordedMessage) -> None:
        if message.topic in self._cameras:
            self._feed_picture(message)
        elif self._layout.pose.kind == "odometry":
            self._feed_odometry(message)
        else:
            self._feed_transforms(message)

    def _feed_picture(self, message: RecordedMessage) -> None:
        camera = self._cameras[message.topic]
        stamp = message.received_ns
        if self._layout.stamp_source == "header":
            stamp = self._recording.header_stamp_ns(message)
        picture = picture_from_message(self._recording.decode(message))
        self._waiting.extend(self.rings.add(camera, stamp, picture))
        self._newest_picture_ns = max(self._newest_picture_ns, stamp)

    def _feed_odometry(self, message: RecordedMessage) -> None:
        odometry = self._recording.decode(message)
        expected = self._layout.pose.ego_frame
        if not is_about(odometry, expected):
            self._recording.note(
                "pose",
                f"{message.topic} gives poses of {odometry.child_frame_id!r}, expected "
                f"{expected!r}; set "
                "pose.ego_frame in the layout, or take the pose from tf",
            )
            return
        try:
            self._odometry.add(stamp_ns(odometry.header.stamp), pose_from_odometry(odometry))
        except ValueError as error:
            raise BagError(f"{message.topic}: {error}") from error

    def _feed_transforms(self, message: RecordedMessage) -> None:
        static = message.topic in self._static_topics
        add_transforms(self._recording, message, self._tree, static)

    def _is_settled(self, ring: Ring) -> bool:
        late = self._newest_picture_ns - ring.newest_stamp_ns > _LONGEST_POSE_DELAY_NS
        return late or self.poses.settled(ring.newest_stamp_ns)

    def _assemble(self, ring: Ring) -> Iterator[Made]:
        name = self._sequence if self._time_lines == 1 else f"{self._sequence}#{self._time_lines}"
        try:
            yield self._assembler.assemble(ring, self.poses, sequence=name)
        except FrameError as error:
            self._recording.note(error.reason, str(error), ring.reference_stamp_ns)

    def _start_new_time_line(self, jump: TimeJump) -> None:
        self._recording.note("time_jump", str(jump), jump.to_ns)
        self._time_lines += 1
        self.rings.reset()
        self._tree.reset()
        self._odometry.reset()
        self._assembler.reset()
        self._newest_picture_ns = 0
