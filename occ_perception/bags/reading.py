"""One pass over a recording: collects the images of frame sets and holds them for their poses."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from occ_perception.bags.discovery import info_topics, take_transforms, tf_topics
from occ_perception.bags.frame_set_images import FrameSetImages
from occ_perception.bags.frame_set_index import FrameSetIndex, image_stamp_ns, index_frame_sets
from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.frames import CameraRig
from occ_perception.sensing.ego_pose import EgoPoses
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters
from occ_perception.sensing.from_messages import image_from_message
from occ_perception.sensing.plausibility import NO_STAMP
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.vehicle import VehicleInputs

_LONGEST_POSE_DELAY_NS = 1_500_000_000
"""Longest wait for poses, in recorded time.

Converters log poses in bursts every 0.5 s. If the poses end, the images after them must not pile up
in memory.
"""

_PART_OF_SWEEP_NS = 100_000_000
"""Points of a cloud may be measured up to this long after its stamp."""


@dataclass(frozen=True, eq=False)
class RecordedFrameSet:
    """The images of one frame set as recorded, with the state of the vehicle.

    Attributes:
        frame_set: the images, not decoded, with their stamps.
        vehicle: mounts and motion, when the poses around the images are known. It changes as the
            recording is read: use it before taking the next item.
        rig: calibrations of the images as recorded, distortion included; without cameras if the
            vehicle had none before the recording was read.
        sequence: name of the time line.
        time_line: number of jumps back in time before this frame set.
    """

    frame_set: FrameSet
    vehicle: VehicleInputs
    rig: CameraRig
    sequence: str
    time_line: int

    @property
    def poses(self) -> EgoPoses:
        """``world_T_ego`` over time; it changes like :attr:`vehicle`."""
        return self.vehicle.poses


@dataclass(frozen=True, eq=False)
class RecordedCloud:
    """A point cloud message, not decoded, with the state of the vehicle.

    Attributes:
        message: the sensor_msgs/PointCloud2.
        stamp_ns: header stamp, or reception time if the layout uses that.
        vehicle, time_line: as for :class:`RecordedFrameSet`.
    """

    message: RecordedMessage
    stamp_ns: int
    vehicle: VehicleInputs
    time_line: int


class Reading:
    """One pass over a recording.

    Args:
        recording: the recording to read.
        vehicle: its state before reading; updated from the recording's messages.
        sequence: name of the first time line; the second is called ``NAME#2``, and so on.
        lidar_topic: topic of the clouds to return; "" for none.
        index: the frame sets; by default found before the first image is decoded.

    Attributes:
        vehicle_topics: topics that the vehicle is updated from.
        topics: all topics that are read.
    """

    def __init__(
        self,
        recording: Recording,
        vehicle: VehicleInputs,
        sequence: str = "",
        lidar_topic: str = "",
        index: FrameSetIndex | None = None,
    ) -> None:
        self._recording = recording
        self._vehicle = vehicle
        self._needs_rig = vehicle.rig() is not None
        self._without_rig: FrameSet | None = None
        self._sequence = sequence
        self._lidar_topic = lidar_topic
        self._time_line = 0
        plan = vehicle.plan
        self._cameras = {camera.image: camera.name for camera in plan.cameras}
        self._info_cameras = info_topics(plan)
        self._tf_topics: set[str] = set()
        if plan.reads_tf or lidar_topic:
            moving = {plan.pose.topic} if plan.pose.kind == "tf" else tf_topics(recording, False)
            self._tf_topics = tf_topics(recording, static=True) | moving
        self.vehicle_topics = {plan.pose.topic, *self._info_cameras, *self._tf_topics}
        self.topics = {*self._cameras, *self.vehicle_topics} | ({lidar_topic} - {""})
        self._index = index
        self._images: FrameSetImages | None = None
        self._poses_jumped = False
        self._frame_sets: _Queue[RecordedFrameSet] = _Queue(vehicle.poses)
        self._clouds: _Queue[RecordedCloud] = _Queue(vehicle.poses)

    @property
    def index(self) -> FrameSetIndex:
        """The frame sets of the recording."""
        if self._index is None:
            self._index = index_frame_sets(self._recording, self._vehicle.plan.layout)
        return self._index

    @property
    def counters(self) -> FrameSetCounters:
        """Counts of images and frame sets so far."""
        return FrameSetCounters() if self._images is None else self._images.counters

    def items(
        self, messages: Iterable[RecordedMessage] | None = None
    ) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """Frame sets and clouds, each as soon as the poses around it are known.

        Frame sets come in the order of their reference stamps, clouds in the order of the
        recording. Messages that cannot be read become problems of the recording. So does a jump
        back in time, after which a new time line begins.

        Args:
            messages: messages to read, by default those of :attr:`topics`; messages of other
                topics are ignored.
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
        """The frame sets of :meth:`items`."""
        return (item for item in self.items(messages) if isinstance(item, RecordedFrameSet))

    def clouds(self) -> Iterator[RecordedCloud]:
        """The clouds of :meth:`items`; images are not read."""
        messages = self._recording.messages({*self.vehicle_topics, self._lidar_topic})
        return (item for item in self.items(messages) if isinstance(item, RecordedCloud))

    def _rest(self) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """The remaining items when the recording or a time line has ended."""
        if self._images is not None:
            self._close(self._images.flush())
        self._drop_without_rig()
        yield from self._frame_sets.rest()
        yield from self._clouds.rest()

    def _feed(self, message: RecordedMessage) -> None:
        topic = message.topic
        if topic in self._cameras:
            self._feed_image(message)
        elif topic == self._lidar_topic:
            self._feed_cloud(message)
        elif topic in self._info_cameras:
            self._feed_camera_info(message)
        elif topic in self._tf_topics:
            take_transforms(self._recording, self._vehicle, message)
            self._close([])
        else:
            for refusal in self._vehicle.take_odometry(self._recording.decode(message)):
                self._recording.note("pose", f"{topic}: {refusal}")

    def _feed_image(self, message: RecordedMessage) -> None:
        layout, camera = self._vehicle.plan.layout, self._cameras[message.topic]
        stamp = image_stamp_ns(self._recording, layout, message)
        if not stamp:
            self._recording.note("no_stamp", f"camera {camera}: {NO_STAMP}")
            return
        if self._images is None:
            self._images = FrameSetImages(self.index, layout)
        jump = self._images.begin_time_line(camera, stamp)
        if jump is not None and not self._poses_jumped:
            raise jump
        self._poses_jumped = self._poses_jumped and jump is None
        place = self._images.place_of(camera, stamp)
        if place is not None:
            try:
                decoded = self._recording.decode(message)
            except BagError:
                self._close(self._images.lose(camera, place))
                raise
            self._vehicle.take_image_frame(camera, decoded.header.frame_id)
            self._close(self._images.put(camera, place, image_from_message(decoded)))
        self._frame_sets.newest_ns = max(self._frame_sets.newest_ns, stamp)

    def _feed_camera_info(self, message: RecordedMessage) -> None:
        camera = self._info_cameras[message.topic]
        for refusal in self._vehicle.take_camera_info(camera, self._recording.decode(message)):
            self._recording.note("calibration", f"{message.topic}: {refusal}", message.received_ns)
        self._close([])

    def _close(self, frame_sets: list[FrameSet]) -> None:
        """Assign the current rig to closed frame sets.

        While the rig is unknown the newest one is held, as in the node.
        """
        number = self._time_line + 1
        name = self._sequence if number == 1 else f"{self._sequence}#{number}"
        rig = self._vehicle.rig() if self._needs_rig else CameraRig(())
        held = [] if self._without_rig is None else [self._without_rig]
        for frame_set in [*held, *frame_sets]:
            if rig is not None:
                item = RecordedFrameSet(frame_set, self._vehicle, rig, name, self._time_line)
                self._frame_sets.add(frame_set.newest_stamp_ns, item)
                self._without_rig = None
            elif frame_set is not self._without_rig:
                self._drop_without_rig()
                self._without_rig = frame_set

    def _drop_without_rig(self) -> None:
        """Drop the held frame set, and list it as a problem."""
        if self._without_rig is not None:
            why = "; ".join(self._vehicle.problems.values())
            text = f"frame set without a calibration: {why}"
            self._recording.note("calibration", text, self._without_rig.reference_stamp_ns)
            self._without_rig = None

    def _feed_cloud(self, message: RecordedMessage) -> None:
        try:
            stamp = self._recording.header_stamp_ns(message)
        except BagError as error:
            self._recording.note("lidar", str(error), message.received_ns)
            return
        if self._vehicle.plan.layout.stamp_source != "header" or not stamp:
            stamp = message.received_ns
        item = RecordedCloud(message, stamp, self._vehicle, self._time_line)
        self._clouds.add(stamp + _PART_OF_SWEEP_NS, item)
        self._clouds.newest_ns = max(self._clouds.newest_ns, stamp)

    def _start_new_time_line(self, jump: TimeJump) -> None:
        self._recording.note("time_jump", str(jump), jump.to_ns)
        self._time_line += 1
        # After a jump of the poses the cameras follow.
        self._poses_jumped = jump.source not in self._cameras.values()
        self._vehicle.reset()
        self._frame_sets.newest_ns = self._clouds.newest_ns = 0


Item = TypeVar("Item")


class _Queue(Generic[Item]):
    """A queue of items that wait until the poses up to a stamp are settled.

    Attributes:
        newest_ns: the newest stamp of any item.
    """

    def __init__(self, poses: EgoPoses) -> None:
        self._poses = poses
        self._waiting: deque[tuple[int, Item]] = deque()
        self.newest_ns = 0

    def add(self, until_ns: int, item: Item) -> None:
        """Add an item that waits for the poses up to ``until_ns``."""
        self._waiting.append((until_ns, item))

    def settled(self) -> Iterator[Item]:
        """Items whose poses are settled or whose waiting time is over."""
        while self._waiting:
            until_ns = self._waiting[0][0]
            late = self.newest_ns - until_ns > _LONGEST_POSE_DELAY_NS
            if not (late or self._poses.settled(until_ns)):
                return
            yield self._waiting.popleft()[1]

    def rest(self) -> Iterator[Item]:
        """All waiting items."""
        while self._waiting:
            yield self._waiting.popleft()[1]
