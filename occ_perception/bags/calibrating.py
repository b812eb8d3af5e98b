"""Finding out a recording's layout and rig before its frames are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from occ_perception.bags.recording import BagError, RecordedMessage, Recording
from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.sensing.calibration import (
    CalibrationError,
    CameraInfo,
    calibration_from_camera_info,
    load_rig,
)
from occ_perception.sensing.layouts import (
    TF_TYPES,
    CameraTopics,
    TopicLayout,
    load_layout,
    match_layout,
    recognise_layouts,
)
from occ_perception.sensing.message_fields import (
    camera_info_from_message,
    transforms_from_message,
)
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree


def choose_layout(
    recording: Recording,
    layout: TopicLayout | str | Path | None,
    cameras: Sequence[str] | None = None,
) -> TopicLayout:
    """The layout of a recording, with the names its topics really have.

    Args:
        recording: where to look.
        layout: a layout, or its name or path; None to recognise a shipped one.
        cameras: those of a model, as it calls them; others are not looked for.

    Raises:
        BagError: it does not fit, or none does; the message lists what is missing.
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
            "`occ info` lists what the recording has"
        )
    if _believes_empty_stamps(recording, match.layout):
        raise BagError(
            f"{recording.path}: pictures have stamp 0, and layout {layout.name} reads the header; "
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
            f"{'; '.join(best.problems)}. Write a layout file (docs/bags.md) and give it"
        )
    for layout in fitting:
        if not _believes_empty_stamps(recording, layout):
            return layout
    raise BagError(
        f"{recording.path}: pictures have stamp 0; give a layout with `stamp_source: receive`"
    )


def _believes_empty_stamps(recording: Recording, layout: TopicLayout) -> bool:
    """Whether the layout takes header stamps that the converter never filled in."""
    if layout.stamp_source != "header":
        return False
    reference = next(c for c in layout.cameras if c.name == layout.reference_camera)
    message = next(recording.messages({reference.image}), None)
    return message is not None and recording.header_stamp_ns(message) == 0


def tf_topics(recording: Recording, static: bool) -> set[str]:
    """The topics that carry transforms: /tf, or /tf_static."""
    return {
        name
        for name, topic in recording.topics.items()
        if topic.kind in TF_TYPES and name.endswith("static") == static
    }


def add_transforms(
    recording: Recording, message: RecordedMessage, tree: TransformTree, static: bool
) -> None:
    """Feed a tf message to a tree; transforms it refuses are listed as problems.

    Raises:
        TimeJump: see :meth:`TransformTree.add`.
    """

    def add(parent: str, child: str, stamp_ns: int, parent_T_child: np.ndarray) -> None:
        try:
            tree.add(parent, child, stamp_ns, parent_T_child, static)
        except TransformError as error:
            recording.note("transform", f"{message.topic}: {error}")

    try:
        for transform in transforms_from_message(recording.decode(message)):
            add(*transform)
    except ValueError as error:
        recording.note("transform", f"{message.topic}: {error}")


@dataclass(frozen=True)
class CalibratedRig:
    """A rig and where its numbers come from.

    Attributes:
        rig: as the pictures arrive, distortion included.
        notes: one sentence on every fact that is not the recording's own.
    """

    rig: CameraRig
    notes: tuple[str, ...] = ()


def calibrate(
    recording: Recording,
    layout: TopicLayout,
    rig: CameraRig | str | Path | None = None,
    with_lidar: bool = False,
) -> CalibratedRig:
    """The rig of a recording.

    A rig that is given holds for everything. Otherwise intrinsics come from camera_info and
    mounts from tf, and the layout's rig fills in what the recording does not have.

    Args:
        recording: where to look.
        layout: what to look for.
        rig: a given rig, or its name or path, cameras under the layout's names.
        with_lidar: whether the lidar's mount is wanted, too.

    Raises:
        BagError: something is known from nowhere; the message lists all of it.
        YamlError: the rig file is wrong.
    """
    if rig is not None:
        given = rig if isinstance(rig, CameraRig) else load_rig(rig)
        missing = [name for name in layout.camera_names if name not in given.names]
        if missing:
            raise BagError(
                f"the given rig has no {', '.join(missing)}; it has {', '.join(given.names)}"
            )
        cameras = tuple(given.camera(name) for name in layout.camera_names)
        return CalibratedRig(replace(given, cameras=cameras), ("the rig is the one given",))
    scan = _Scan(recording, layout, with_lidar)
    scan.read_until_complete()
    return scan.result()


class _Scan:
    """Reads camera_info and tf until every camera is known."""

    def __init__(self, recording: Recording, layout: TopicLayout, with_lidar: bool) -> None:
        self._recording = recording
        self._layout = layout
        self._fallback = layout.under_model_names(load_rig(layout.rig)) if layout.rig else None
        self._ego_T_lidar = self._fallback.ego_T_lidar if self._fallback else None
        self._looks_for_lidar = with_lidar and self._ego_T_lidar is None
        self._infos: dict[str, CameraInfo] = {}
        self._frames: dict[str, str] = {}
        self._mounts: dict[str, np.ndarray] = {}
        self._why_no_mount: dict[str, str] = {}
        self._tree = TransformTree()

    def read_until_complete(self) -> None:
        self._read_infos()
        for camera in self._layout.cameras:
            self._frames[camera.name] = self._frame_id(camera)
        self._read_mounts()

    def _read_infos(self) -> None:
        by_topic = {camera.camera_info: camera.name for camera in self._layout.cameras}
        by_topic.pop("", None)
        for message in self._recording.messages(by_topic):
            self._infos.setdefault(
                by_topic[message.topic],
                camera_info_from_message(self._recording.decode(message)),
            )
            if len(self._infos) == len(by_topic):
                return

    def _frame_id(self, camera: CameraTopics) -> str:
        if camera.frame_id:
            return camera.frame_id
        if camera.name in self._infos and self._infos[camera.name].frame_id:
            return self._infos[camera.name].frame_id
        picture = next(self._recording.messages({camera.image}), None)
        return self._recording.decode(picture).header.frame_id if picture else ""

    def _read_mounts(self) -> None:
        # Static transforms come first: they are complete with their first messages.
        for static in (True, False):
            for message in self._recording.messages(tf_topics(self._recording, static)):
                try:
                    add_transforms(self._recording, message, self._tree, static)
                except TimeJump:
                    self._tree.reset()
                if self._find_mounts():
                    return
        self._find_mounts()

    def _find_mounts(self) -> bool:
        for name, frame in self._frames.items():
            if name in self._mounts or not frame:
                continue
            try:
                self._mounts[name] = self._tree.static_transform(self._layout.pose.ego_frame, frame)
            except TransformError as error:
                self._why_no_mount[name] = str(error)
        return self._has_lidar() and len(self._mounts) == len(self._layout.cameras)

    def _has_lidar(self) -> bool:
        """Whether the lidar's mount is known, if it is wanted."""
        if self._looks_for_lidar and self._ego_T_lidar is None:
            ego, lidar = self._layout.pose.ego_frame, self._layout.lidar_frame
            try:
                self._ego_T_lidar = self._tree.static_transform(ego, lidar)
            except TransformError as error:
                self._why_no_lidar = str(error)
                return False
        return True

    def result(self) -> CalibratedRig:
        found = [self._calibration(camera) for camera in self._layout.cameras]
        missing = [str(one) for one in found if isinstance(one, CalibrationError)]
        if not self._has_lidar():
            missing.append(
                f"the model's grid lies in the lidar frame, and where {self._layout.lidar_frame} "
                f"is mounted is not known: {self._why_no_lidar}"
            )
        if missing:
            raise BagError(
                f"{self._recording.path} does not say everything about its sensors: "
                f"{'; '.join(missing)}. Give a rig file"
            )
        cameras = tuple(one for one in found if isinstance(one, CameraCalibration))
        return CalibratedRig(CameraRig(cameras, self._ego_T_lidar), self._notes())

    def _calibration(self, camera: CameraTopics) -> CameraCalibration | CalibrationError:
        """The calibration, or why there is none: all cameras are reported together."""
        try:
            return self._put_together(camera)
        except CalibrationError as error:
            return error

    def _put_together(self, camera: CameraTopics) -> CameraCalibration:
        name = camera.name
        nominal = self._nominal().get(name)
        mount = self._mounts.get(name)
        if mount is None and nominal is not None:
            mount = nominal.ego_T_cam
        if mount is None:
            why = self._why_no_mount.get(name, "its pictures have no frame_id")
            raise CalibrationError(f"camera {name}: no mounting pose: {why}")
        if name in self._infos:
            calibration = calibration_from_camera_info(
                self._infos[name], name, mount, camera.is_rectified()
            )
            return replace(calibration, frame_id=self._frames[name])
        if nominal is None:
            raise CalibrationError(
                f"camera {name}: no message on {camera.camera_info or 'camera_info'}"
            )
        return replace(nominal, ego_T_cam=mount, frame_id=self._frames[name])

    def _nominal(self) -> Mapping[str, CameraCalibration]:
        return {c.name: c for c in self._fallback.cameras} if self._fallback else {}

    def _notes(self) -> tuple[str, ...]:
        names = self._layout.camera_names
        notes = []
        if without := [name for name in names if name not in self._infos]:
            notes.append(f"intrinsics of {', '.join(without)} are those of rig {self._layout.rig}")
        if without := [name for name in names if name not in self._mounts]:
            notes.append(f"mounts of {', '.join(without)} are those of rig {self._layout.rig}")
        return tuple(notes)
