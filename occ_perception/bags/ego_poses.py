"""The ego pose over a recording, without its cameras."""

from __future__ import annotations

from pathlib import Path

from occ_perception.bags.discovery import reported, take_transforms, tf_topics
from occ_perception.bags.recording import BagError, BagProblem, RecordedMessage, Recording
from occ_perception.geometry import Float64
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.layouts import (
    ODOMETRY_TYPE,
    PoseSource,
    TopicLayout,
    load_layout,
    match_layout,
    recognise_layouts,
)
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.vehicle import VehicleInputs


class RecordedPoses:
    """``world_T_ego`` at increasing stamps, in one pass over a recording.

    The source is that of the layout. Without one it is that of the shipped layout that fits, and
    in a recording without cameras its only odometry topic. Interpolation and limits are those of
    :class:`~.ego_pose.PoseBuffer`. If time goes back in the recording, the poses end there.

    Args:
        path: rosbag2 folder or file, or a ROS 1 bag.
        layout: topic layout, or its name or path.

    Attributes:
        source: topic and frames of the poses.

    Raises:
        BagError: the recording cannot be read, or has no pose or several candidates.
        YamlError: the layout file is wrong.
    """

    def __init__(self, path: str | Path, layout: TopicLayout | str | Path | None = None) -> None:
        self._recording = Recording(path)
        try:
            self.source = _pose_source(self._recording, layout)
            topics = {self.source.topic}
            if self.source.kind == "tf":
                topics |= tf_topics(self._recording, static=True)
        except BaseException:
            self._recording.close()
            raise
        self._vehicle = VehicleInputs(InputPlan(TopicLayout("pose alone", (), self.source, "")))
        self._messages = self._recording.messages(topics)

    def close(self) -> None:
        """Close the recording."""
        self._recording.close()

    @property
    def problems(self) -> list[BagProblem]:
        """Messages that were skipped so far and why."""
        return self._recording.problems

    def at(self, stamp_ns: int) -> Float64:
        """(4, 4) ``world_T_ego``.

        Raises:
            PoseUnavailable: there is no pose around the stamp, or it lies more than 10 s before
                the newest stamp that was asked for.
        """
        poses = self._vehicle.poses
        while not poses.settled(stamp_ns):
            message = next(self._messages, None)
            if message is None:
                break
            try:
                self._take(message)
            except TimeJump as jump:
                self._recording.note("time_jump", f"{jump}; the poses end there", jump.to_ns)
                self._messages = iter(())
        return poses.at(stamp_ns)

    def _take(self, message: RecordedMessage) -> None:
        if self.source.kind == "tf":
            take_transforms(self._recording, self._vehicle, message)
            return
        with reported(self._recording, message):
            for refusal in self._vehicle.take_odometry(self._recording.decode(message)):
                self._recording.note("pose", f"{message.topic}: {refusal}")


def _pose_source(recording: Recording, layout: TopicLayout | str | Path | None) -> PoseSource:
    types = recording.topic_types
    if layout is not None:
        loaded = layout if isinstance(layout, TopicLayout) else load_layout(layout)
        source = match_layout(loaded, types).layout.pose
        if source.topic not in types:
            raise BagError(
                f"{recording.path} has no ego pose on {source.topic}, the topic of layout "
                f"{loaded.name}; `occ info {recording.path}` lists its topics"
            )
        return source
    best = recognise_layouts(types)[0]
    if best.fits:
        return best.layout.pose
    odometry = sorted(name for name, kind in types.items() if kind == ODOMETRY_TYPE)
    if len(odometry) != 1:
        several = f"several topics with odometry: {', '.join(odometry)}"
        found = several if odometry else "no odometry"
        raise BagError(
            f"{recording.path} fits no shipped layout and has {found}; name the source of the ego "
            "pose in a layout file (docs/bags.md), or give another recording of the drive"
        )
    first = next(recording.messages(odometry), None)
    ego_frame = "" if first is None else recording.decode(first).child_frame_id.lstrip("/")
    return PoseSource("odometry", odometry[0], "", ego_frame or "base_link")
