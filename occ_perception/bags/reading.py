"""One pass over a recording: images become frame sets, which wait for the poses around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from occ_perception.bags.calibrating import add_transforms, tf_topics
from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.frames import CameraRig
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

_LONGEST_POSE_DELAY_NS = 1_500_000_000
"""Nothing is kept waiting for poses longer than this.

Converters log poses in bursts every 0.5 s; a stream of poses that ended must not make all images
behind it pile up in memory.
"""

_PART_OF_SWEEP_NS = 100_000_000
"""Points of a cloud may have been measured so long after its stamp."""


@dataclass(frozen=True, eq=False)
class RecordedFrameSet:
    """The images of one moment as they were recorded, and what the recording says about it.

    Attributes:
        ring: the images, not decoded, with their stamps.
        poses: ``world_T_ego`` around the images' stamps. It moves on with the recording: ask it
            before the next item is taken.
        rig: calibrations of the images as they were recorded, distortion included; without
            cameras where the reading was given none.
        sequence: name of the time line.
        time_line: how often time had gone back before.
    """

    ring: Ring
    poses: EgoPoses
    rig: CameraRig
    sequence: str
    time_line: int


@dataclass(frozen=True, eq=False)
class RecordedCloud:
    """A message of points, not decoded, and what the recording says about its time.

    Attributes:
        message: of sensor_msgs/PointCloud2.
        stamp_ns: its header stamp, or when it was received where the layout says so.
        poses, time_line: as for :class:`RecordedFrameSet`.
    """

    message: RecordedMessage
    stamp_ns: int
    poses: EgoPoses
    time_line: int


class Reading:
    """One pass over a recording.

    Args:
        recording: what is read.
        layout: with the recording's own topic names.
        rig: of the images, where it is known.
        sequence: name of the first time line; later ones are called ``NAME#2``.
        lidar_topic: the topic to give clouds of; "" gives none.

    Attributes:
        pose_topics, topics: what poses alone, and everything, are read from.
        counters: what became of the images so far.
    """

    def __init__(
        self,
        recording: Recording,
        layout: TopicLayout,
        rig: CameraRig = CameraRig(()),  # noqa: B008  (immutable)
        sequence: str = "",
        lidar_topic: str = "",
    ) -> None:
        self._recording = recording
        self._layout = layout
        self._rig = rig
        self._sequence = sequence
        self._lidar_topic = lidar_topic
        self._time_line = 0
        self._cameras = {camera.image: camera.name for camera in layout.cameras}
        self._tree = TransformTree()
        self._odometry = PoseBuffer()
        self._poses: EgoPoses = self._odometry
        self._static_topics = tf_topics(recording, static=True)
        self.pose_topics = {layout.pose.topic}
        if layout.pose.kind == "tf":
            self._poses = self._tree.poses(layout.pose.world_frame, layout.pose.ego_frame)
            self.pose_topics |= self._static_topics
        self.topics = {*self._cameras, *self.pose_topics} | ({lidar_topic} - {""})
        self._grouper = RingGrouper(
            layout.camera_names,
            layout.reference_camera,
            tolerance_ns=round(layout.ring_tolerance_ms * 1e6),
        )
        self.counters: RingCounters = self._grouper.counters
        self._frame_sets: _Queue[RecordedFrameSet] = _Queue(self._poses)
        self._clouds: _Queue[RecordedCloud] = _Queue(self._poses)

    def items(
        self, messages: Iterable[RecordedMessage] | None = None
    ) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """Frame sets and clouds, each as soon as the poses around it are known.

        Frame sets come in the order of their reference stamps, clouds in that of the recording.
        Messages that cannot be read become problems of the recording, and so does time that goes
        back: a new time line begins.

        Args:
            messages: what is read, by default the messages of :attr:`topics`; those of other
                topics are passed over.
        """
        for message in self._recording.messages(self.topics) if messages is None else messages:
            if message.topic not in self.topics:
                continue
            try:
                self._feed(message)
            except TimeJump as jump:
                yield from self._rest()
                self._start_new_time_line(jump)
                self._feed(message)
            except BagError as error:
                self._recording.note("unreadable_message", str(error), message.received_ns)
            yield from self._frame_sets.settled()
            yield from self._clouds.settled()
        yield from self._rest()

    def frame_sets(
        self, messages: Iterable[RecordedMessage] | None = None
    ) -> Iterator[RecordedFrameSet]:
        """Of :meth:`items` the frame sets."""
        return (item for item in self.items(messages) if isinstance(item, RecordedFrameSet))

    def clouds(self) -> Iterator[RecordedCloud]:
        """Of :meth:`items` the clouds; no image is read."""
        messages = self._recording.messages({*self.pose_topics, self._lidar_topic})
        return (item for item in self.items(messages) if isinstance(item, RecordedCloud))

    def _rest(self) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """What is still open: the recording or its time line has ended."""
        self._close(self._grouper.flush())
        yield from self._frame_sets.rest()
        yield from self._clouds.rest()

    def _feed(self, message: RecordedMessage) -> None:
        if message.topic in self._cameras:
            self._feed_image(message)
        elif message.topic == self._lidar_topic:
            self._feed_cloud(message)
        elif self._layout.pose.kind == "odometry":
            self._feed_odometry(message)
        else:
            static = message.topic in self._static_topics
            add_transforms(self._recording, message, self._tree, static)

    def _feed_image(self, message: RecordedMessage) -> None:
        camera = self._cameras[message.topic]
        stamp = message.received_ns
        if self._layout.stamp_source == "header":
            stamp = self._recording.header_stamp_ns(message)
        image = picture_from_message(self._recording.decode(message))
        self._close(self._grouper.add(camera, stamp, image))
        self._frame_sets.newest_ns = max(self._frame_sets.newest_ns, stamp)

    def _close(self, rings: list[Ring]) -> None:
        number = self._time_line + 1
        name = self._sequence if number == 1 else f"{self._sequence}#{number}"
        for ring in rings:
            item = RecordedFrameSet(ring, self._poses, self._rig, name, self._time_line)
            self._frame_sets.add(ring.newest_stamp_ns, item)

    def _feed_cloud(self, message: RecordedMessage) -> None:
        try:
            stamp = self._recording.header_stamp_ns(message)
        except BagError as error:
            self._recording.note("lidar", str(error), message.received_ns)
            return
        if self._layout.stamp_source != "header" or not stamp:
            stamp = message.received_ns
        item = RecordedCloud(message, stamp, self._poses, self._time_line)
        self._clouds.add(stamp + _PART_OF_SWEEP_NS, item)
        self._clouds.newest_ns = max(self._clouds.newest_ns, stamp)

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

    def _start_new_time_line(self, jump: TimeJump) -> None:
        self._recording.note("time_jump", str(jump), jump.to_ns)
        self._time_line += 1
        self._grouper.reset()
        self._tree.reset()
        self._odometry.reset()
        self._frame_sets.newest_ns = self._clouds.newest_ns = 0


Item = TypeVar("Item")


class _Queue(Generic[Item]):
    """Things that wait until the poses up to some stamp are settled, in order.

    Attributes:
        newest_ns: the newest stamp of anything of their kind.
    """

    def __init__(self, poses: EgoPoses) -> None:
        self._poses = poses
        self._waiting: deque[tuple[int, Item]] = deque()
        self.newest_ns = 0

    def add(self, until_ns: int, item: Item) -> None:
        """Let it wait for the poses up to ``until_ns``."""
        self._waiting.append((until_ns, item))

    def settled(self) -> Iterator[Item]:
        """Those that need not, or may not, wait any longer."""
        while self._waiting:
            until_ns = self._waiting[0][0]
            late = self.newest_ns - until_ns > _LONGEST_POSE_DELAY_NS
            if not (late or self._poses.settled(until_ns)):
                return
            yield self._waiting.popleft()[1]

    def rest(self) -> Iterator[Item]:
        """All that wait."""
        while self._waiting:
            yield self._waiting.popleft()[1]
