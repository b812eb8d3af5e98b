"""One pass over a recording: images become frame sets, which wait for the poses around them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from occ_perception.bags.discovery import info_topics, take_transforms, tf_topics
from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.frames import CameraRig
from occ_perception.sensing.ego_pose import EgoPoses
from occ_perception.sensing.frame_sets import FrameSet, FrameSetCounters, FrameSetGrouper
from occ_perception.sensing.from_messages import image_from_message
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.vehicle import VehicleInputs

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
        frame_set: the images, not decoded, with their stamps.
        vehicle: what is known of mounts and motion when the poses around the images are known.
            It moves on with the recording: ask it before the next item is taken.
        rig: calibrations of the images as they were recorded, distortion included; without
            cameras where the vehicle had none before the recording was read.
        sequence: name of the time line.
        time_line: how often time had gone back before.
    """

    frame_set: FrameSet
    vehicle: VehicleInputs
    rig: CameraRig
    sequence: str
    time_line: int

    @property
    def poses(self) -> EgoPoses:
        """``world_T_ego`` over time; as :attr:`vehicle`, it moves on."""
        return self.vehicle.poses


@dataclass(frozen=True, eq=False)
class RecordedCloud:
    """A message of points, not decoded, and what the recording says about its time.

    Attributes:
        message: of sensor_msgs/PointCloud2.
        stamp_ns: its header stamp, or when it was received where the layout says so.
        vehicle, time_line: as for :class:`RecordedFrameSet`.
    """

    message: RecordedMessage
    stamp_ns: int
    vehicle: VehicleInputs
    time_line: int


class Reading:
    """One pass over a recording.

    Args:
        recording: what is read.
        vehicle: what is known before it is read; fed with what the recording says.
        sequence: name of the first time line; later ones are called ``NAME#2``.
        lidar_topic: the topic to give clouds of; "" gives none.

    Attributes:
        vehicle_topics, topics: what the vehicle alone, and everything, is read from.
        counters: what became of the images so far.
    """

    def __init__(
        self,
        recording: Recording,
        vehicle: VehicleInputs,
        sequence: str = "",
        lidar_topic: str = "",
    ) -> None:
        self._recording = recording
        self._vehicle = vehicle
        self._needs_rig = vehicle.rig() is not None
        self._without_rig: list[FrameSet] = []
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
        self._grouper = FrameSetGrouper(
            plan.layout.camera_names, plan.reference_camera, tolerance_ns=plan.tolerance_ns
        )
        self.counters: FrameSetCounters = self._grouper.counters
        self._frame_sets: _Queue[RecordedFrameSet] = _Queue(vehicle.poses)
        self._clouds: _Queue[RecordedCloud] = _Queue(vehicle.poses)

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
        messages = self._recording.messages({*self.vehicle_topics, self._lidar_topic})
        return (item for item in self.items(messages) if isinstance(item, RecordedCloud))

    def _rest(self) -> Iterator[RecordedFrameSet | RecordedCloud]:
        """What is still open: the recording or its time line has ended."""
        self._close(self._grouper.flush())
        for frame_set in self._without_rig:
            why = "; ".join(self._vehicle.problems.values())
            text = f"frame set without a calibration: {why}"
            self._recording.note("calibration", text, frame_set.reference_stamp_ns)
        self._without_rig.clear()
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
        camera = self._cameras[message.topic]
        stamp = message.received_ns
        if self._vehicle.plan.layout.stamp_source == "header":
            stamp = self._recording.header_stamp_ns(message)
        image = image_from_message(self._recording.decode(message))
        self._close(self._grouper.add(camera, stamp, image))
        self._frame_sets.newest_ns = max(self._frame_sets.newest_ns, stamp)

    def _feed_camera_info(self, message: RecordedMessage) -> None:
        camera = self._info_cameras[message.topic]
        for refusal in self._vehicle.take_camera_info(camera, self._recording.decode(message)):
            self._recording.note("calibration", f"{message.topic}: {refusal}", message.received_ns)
        self._close([])

    def _close(self, frame_sets: list[FrameSet]) -> None:
        """Give closed frame sets the rig that holds now; while it is unknown they wait for it."""
        self._without_rig += frame_sets
        rig = self._vehicle.rig() if self._needs_rig else CameraRig(())
        if rig is None or not self._without_rig:
            return
        number = self._time_line + 1
        name = self._sequence if number == 1 else f"{self._sequence}#{number}"
        for frame_set in self._without_rig:
            item = RecordedFrameSet(frame_set, self._vehicle, rig, name, self._time_line)
            self._frame_sets.add(frame_set.newest_stamp_ns, item)
        self._without_rig.clear()

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
        self._grouper.reset()
        self._vehicle.reset()
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
