"""Finds the layout, calibration and mounts of a recording before its frames are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.frames import CameraRig
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.layouts import (
    TF_TYPES,
    LidarTopicError,
    TopicLayout,
    lidar_topic,
    load_layout,
    match_layout,
    recognise_layouts,
)
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError
from occ_perception.sensing.vehicle import VehicleInputs


def choose_layout(
    recording: Recording,
    layout: TopicLayout | str | Path | None,
    cameras: Sequence[str] | None = None,
) -> TopicLayout:
    """The layout of a recording, with the topic names of that recording.

    Args:
        recording: the recording.
        layout: a layout, or its name or path; None to recognise a shipped one.
        cameras: the cameras of a model, under its names; other cameras are ignored.

    Raises:
        BagError: the layout, or every shipped one, does not fit; the message lists what is missing.
        YamlError: the layout file is wrong.
        ValueError: the layout has none of the model's cameras.
    """
    if layout is None:
        recognised = _recognised(recording)
        return recognised if cameras is None else recognised.for_model(cameras)
    if not isinstance(layout, TopicLayout):
        layout = load_layout(layout)
    if cameras is not None:
        layout = layout.for_model(cameras)
    match = match_layout(layout, recording.topic_types)
    if not match.fits:
        raise BagError(
            f"layout {layout.name} does not fit {recording.path}: {'; '.join(match.problems)}. "
            "`occ info` lists the topics of the recording"
        )
    if _lacks_header_stamps(recording, match.layout):
        raise BagError(
            f"{recording.path}: images have stamp 0, and layout {layout.name} reads the header; "
            "give a layout with `stamp_source: receive`, such as clynamen_ros2"
        )
    return match.layout


def _recognised(recording: Recording) -> TopicLayout:
    matches = recognise_layouts(recording.topic_types)
    fitting = [match.layout for match in matches if match.fits]
    if not fitting:
        best = matches[0]
        raise BagError(
            f"no shipped layout fits {recording.path}; the nearest is {best.layout.name}, but: "
            f"{'; '.join(best.problems)}. Write a layout file (docs/bags.md) and pass it"
        )
    for layout in fitting:
        if not _lacks_header_stamps(recording, layout):
            return layout
    raise BagError(
        f"{recording.path}: images have stamp 0; give a layout with `stamp_source: receive`"
    )


def _lacks_header_stamps(recording: Recording, layout: TopicLayout) -> bool:
    """Whether the layout reads header stamps and the recording's images have none."""
    if layout.stamp_source != "header":
        return False
    reference = next(c for c in layout.cameras if c.name == layout.reference_camera)
    message = next(recording.messages({reference.image}), None)
    return message is not None and recording.header_stamp_ns(message) == 0


def discover_vehicle(recording: Recording, plan: InputPlan) -> tuple[VehicleInputs, CameraRig]:
    """Calibration and mounts before the first frame of a recording, and the rig made from them.

    Reads camera_info and tf until everything is known. If a calibration changes within the
    recording, this is the first one.

    Args:
        recording: the recording.
        plan: the inputs to look for.

    Raises:
        BagError: a calibration or mount is missing; the message lists all missing parts.
    """
    vehicle = VehicleInputs(plan)
    _read_image_frames(recording, vehicle, _read_camera_infos(recording, vehicle))
    if plan.reads_tf:
        _read_mounts(recording, vehicle, lambda: vehicle.is_complete)
    if not vehicle.is_complete:
        vehicle.fill_in()
    rig = vehicle.rig()
    if rig is None:
        raise BagError(
            f"{recording.path} lacks a part of its calibration: "
            f"{'; '.join(vehicle.problems.values())}. Give a rig file"
        )
    return vehicle, rig


def discover_mount(recording: Recording, vehicle: VehicleInputs, topic: str) -> None:
    """Read tf until the mount of a topic's lidar is known, or to the end of the recording."""
    first = next(recording.messages({topic}), None)
    if first is None:
        return
    try:
        frame = recording.decode(first).header.frame_id
    except BagError:  # reported when the message itself is read
        return

    def is_known() -> bool:
        try:
            vehicle.mount(frame)
        except TransformError:
            return False
        return True

    _read_mounts(recording, vehicle, is_known)


def _read_camera_infos(recording: Recording, vehicle: VehicleInputs) -> set[str]:
    """Read camera_info until every camera has a usable one.

    Returns the cameras whose camera_info names a frame.
    """
    cameras = info_topics(vehicle.plan)
    missing, named = set(cameras), set()
    for message in recording.messages(cameras):
        if message.topic in missing:
            camera = cameras[message.topic]
            try:
                info = recording.decode(message)
            except BagError as error:  # a problem of the recording when it is read
                vehicle.take_unreadable_camera_info(camera, str(error))
                continue
            vehicle.take_camera_info(camera, info)
            if vehicle.has_camera_info(camera):
                missing.remove(message.topic)
            if info.header.frame_id:
                named.add(camera)
        if not missing:
            break
    return named


def _read_image_frames(recording: Recording, vehicle: VehicleInputs, named: set[str]) -> None:
    """Read the frame from the first image's header for cameras whose frame is not known yet."""
    for camera in vehicle.plan.cameras:
        if camera.frame_id or camera.name in named:
            continue
        for message in islice(recording.messages({camera.image}), 1):
            with reported(recording, message):
                frame_id = recording.decode(message).header.frame_id
                vehicle.take_image_frame(camera.name, frame_id)


def _read_mounts(
    recording: Recording, vehicle: VehicleInputs, is_enough: Callable[[], bool]
) -> None:
    """Read tf until ``is_enough``; static transforms first, whose first messages hold all."""
    for static in (True, False):
        topics = tf_topics(recording, static)
        if not topics or is_enough():
            continue
        for message in recording.messages(topics):
            try:
                take_transforms(recording, vehicle, message)
            except TimeJump:
                vehicle.rewind()
                take_transforms(recording, vehicle, message)
            if is_enough():
                break
    vehicle.rewind()


def take_transforms(recording: Recording, vehicle: VehicleInputs, message: RecordedMessage) -> None:
    """Feed a tf message to the vehicle; refused transforms become problems of the recording.

    Raises:
        TimeJump: see :meth:`VehicleInputs.take_transforms`.
    """
    static = is_static(message.topic)
    with reported(recording, message):
        for refusal in vehicle.take_transforms(recording.decode(message), static):
            recording.note("transform", f"{message.topic}: {refusal}")


@contextmanager
def reported(recording: Recording, message: RecordedMessage) -> Iterator[None]:
    """Turn a message that cannot be read into a problem of the recording."""
    try:
        yield
    except BagError as error:
        recording.note("unreadable_message", str(error), message.received_ns)


def info_topics(plan: InputPlan) -> dict[str, str]:
    """camera_info topic -> camera, for the cameras that have one."""
    return {camera.camera_info: camera.name for camera in plan.cameras if camera.camera_info}


def tf_topics(recording: Recording, static: bool) -> set[str]:
    """The topics with static transforms, or those with moving ones."""
    return {
        name
        for name, topic in recording.topics.items()
        if topic.kind in TF_TYPES and is_static(name) == static
    }


def is_static(topic: str) -> bool:
    """Whether a topic of transforms is static, by its name."""
    return topic.endswith("static")


def topic_of_points(recording: Recording, wanted: str | None = None) -> str:
    """The topic of the lidar's points, see :func:`~..sensing.layouts.lidar_topic`.

    Raises:
        BagError: the topic does not exist, or the choice is ambiguous.
    """
    try:
        return lidar_topic(recording.topic_types, wanted)
    except LidarTopicError as error:
        raise BagError(f"{recording.path}: {error}") from error
