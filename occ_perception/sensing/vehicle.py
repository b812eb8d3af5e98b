"""Vehicle inputs: calibration, mounts and ego pose from messages, for recordings and the node.

Both feed the same class in the order in which messages arrived. The same messages therefore give
the same rig and the same poses, from a file as well as over the network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import Float64
from occ_perception.sensing.calibration import (
    CalibrationError,
    CameraInfo,
    calibration_from_camera_info,
)
from occ_perception.sensing.ego_pose import EgoPoses, PoseBuffer
from occ_perception.sensing.from_messages import (
    camera_info_from_message,
    gives_pose_of,
    pose_from_odometry,
    stamp_ns,
)
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.layouts import CameraTopics
from occ_perception.sensing.plausibility import distortion_of_rectified, doubts_about_rig
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_messages import add_transforms
from occ_perception.sensing.transform_tree import TransformError, TransformTree

LIDAR = "lidar"
"""Key of the lidar's mount among the problems; the other keys are camera names."""

# No state of the tree: the rig must be rebuilt.
_NONE_SEEN = -1
# Some drivers compute camera_info for every image; the last digits then flicker.
_INTRINSICS_NOISE_PX = 0.05


class VehicleInputs:
    """Calibration, mounts and ego pose of a vehicle, from its messages; without threads or a clock.

    A given rig takes precedence for everything it contains. Otherwise intrinsics come from the
    newest camera_info, and mounts from tf. The nominal rig fills in what no message contains: at
    once for cameras without a camera_info topic (tf replaces their mount when it arrives), for
    other cameras after a recording was searched to its end (:meth:`fill_in`).

    The methods ``take_...`` return the parts of a message that were refused, as sentences without
    the topic's name; the rest of the message is used.

    Args:
        plan: cameras, source of the pose, rigs.
        max_extrapolation_ns, max_gap_ns: limits of the poses, see :class:`PoseBuffer`.

    Attributes:
        poses: the ego pose over time, from odometry or tf.
        changes: number of times a complete rig was replaced by another one.
    """

    def __init__(
        self,
        plan: InputPlan,
        max_extrapolation_ns: int = 50_000_000,
        max_gap_ns: int = 750_000_000,
    ) -> None:
        self.plan = plan
        pose = plan.pose
        self._tree = TransformTree(max_extrapolation_ns, max_gap_ns)
        self._odometry = PoseBuffer(max_extrapolation_ns, max_gap_ns)
        self.poses: EgoPoses = self._odometry
        if pose.kind == "tf":
            self.poses = self._tree.poses(pose.world_frame, pose.ego_frame)
        self._infos: dict[str, CameraInfo] = dict(plan.infos)
        self._refused_infos: dict[str, tuple[CameraInfo, str]] = {}
        self._unreadable_infos: dict[str, str] = {}
        self._image_frames: dict[str, str] = {}
        self._image_topics: dict[str, str] = {}
        self._other_frames: set[str] = set()
        self._searched_to_the_end = False
        self._dispensable: frozenset[str] = frozenset()
        self._mounts_seen = _NONE_SEEN
        self._rig: CameraRig | None = None
        self._problems: dict[str, str] = {}
        self._nominal_intrinsics: list[str] = []
        self._nominal_mounts: list[str] = []
        self.changes = 0

    # -- messages --------------------------------------------------------------------------------

    def take_camera_info(self, camera: str, message: Any) -> tuple[str, ...]:
        """Take a camera's calibration, as a sensor_msgs/CameraInfo or a :class:`CameraInfo`.

        An unusable one does not replace a usable one: it is refused, and is a problem of the
        camera until the next message. Drivers send camera_info with every image, so the refusal of
        repeated messages is returned once.
        """
        is_plain = isinstance(message, CameraInfo)
        info = message if is_plain else camera_info_from_message(message)
        known, refused = self._infos.get(camera), self._refused_infos.get(camera)
        if refused is not None and vars(refused[0]) == vars(info):
            return ()
        is_new = known is None or vars(known) != vars(info)
        if is_new and self.has_camera_info(camera):
            why = self._why_unusable(camera, info)
            if why:
                sentence = f"{why}; the calibration before it stays in effect"
                self._refused_infos[camera] = info, sentence
                return (sentence,)
        self._refused_infos.pop(camera, None)
        if is_new:
            self._infos[camera] = info
            self._mounts_seen = _NONE_SEEN
        return ()

    def take_unreadable_camera_info(self, camera: str, why: str) -> None:
        """Take note of a camera_info that could not be decoded, for a camera without any other."""
        self._unreadable_infos.setdefault(camera, why)
        self._mounts_seen = _NONE_SEEN

    def take_image_frame(self, camera: str, frame_id: str) -> None:
        """Take the frame in an image's header; used if layout and camera_info have none."""
        if self._image_frames.get(camera) != frame_id:
            self._image_frames[camera] = frame_id
            self._mounts_seen = _NONE_SEEN

    def take_image_topic(self, camera: str, topic: str) -> None:
        """Take the actual topic of a camera's images, after remapping."""
        self._image_topics[camera] = topic
        self._mounts_seen = _NONE_SEEN

    def take_odometry(self, message: Any) -> tuple[str, ...]:
        """Take the ego pose of a nav_msgs/Odometry; returns the reason if it is refused.

        Raises:
            TimeJump: its stamp is more than 1 s older than the newest; the message is not taken.
        """
        expected = self.plan.pose.ego_frame
        if not gives_pose_of(message, expected):
            return (
                f"odometry gives poses of {message.child_frame_id!r}, expected {expected!r}; set "
                "ego_frame (of the layout's pose), or take the pose from tf",
            )
        try:
            world_T_ego = pose_from_odometry(message)
        except ValueError as error:
            return (str(error),)
        stamp = stamp_ns(message.header.stamp)
        try:
            self._odometry.add(stamp, world_T_ego)
        except TimeJump:
            if stamp:
                raise
            return ("odometry carries stamp 0: its publisher does not fill the header",)
        return ()

    def take_transforms(self, message: Any, static: bool) -> tuple[str, ...]:
        """Take the transforms of a tf message; returns the reasons of refused ones.

        A frame whose stamps go back restarts alone if neither the ego pose nor a sensor's mount
        depends on it: its publishers disagree, and time has not gone back.

        Args:
            message: tf2_msgs/TFMessage.
            static: whether it came on /tf_static.

        Raises:
            TimeJump: stamps of a frame that the pose or a mount depends on went back by more than
                1 s. After a :meth:`reset` the same message is accepted.
        """
        return add_transforms(self._tree, message, static, self._matters)

    def _matters(self, child: str) -> bool:
        """Whether the pose or a mount depends on the transform to a frame."""
        pose = self.plan.pose
        frames = {self._frame_of(camera) for camera in self.plan.cameras}
        ways = {(pose.ego_frame, frame) for frame in {*frames, *self._other_frames} if frame}
        if self.plan.lidar_frame:
            ways.add((pose.ego_frame, self.plan.lidar_frame))
        if pose.kind == "tf":
            ways.add((pose.world_frame, pose.ego_frame))
        return any(self._tree.lies_between(child, *way) for way in ways)

    # -- time ------------------------------------------------------------------------------------

    def fill_in(self) -> None:
        """Use the nominal rig for calibrations that a recording, read to its end, does not have."""
        self._searched_to_the_end = True
        self._mounts_seen = _NONE_SEEN

    def rewind(self) -> None:
        """Drop the poses, keep the rig, before the same messages are read again."""
        self._odometry.reset()
        self._tree.rewind()

    def reset(self) -> None:
        """Drop the poses, and the mounts from /tf, after time went back.

        The next mounts on /tf may be those of another vehicle's recording. The calibration and
        static mounts stay.
        """
        self._odometry.reset()
        self._tree.reset()

    def do_without(self, cameras: Iterable[str]) -> None:
        """Name the cameras that the rig may lack as long as their calibration is unknown."""
        self._dispensable = frozenset(cameras)
        self._mounts_seen = _NONE_SEEN

    # -- state -----------------------------------------------------------------------------------

    def rig(self) -> CameraRig | None:
        """The calibration of all cameras; None while a part is missing, see :attr:`problems`.

        Parts of cameras in :meth:`do_without` may be missing; the rig then has no such camera.

        The same object is returned until a number changes, so that callers can compare by identity.
        Changes of the intrinsics that no image shows are no changes.
        """
        if self._mounts_seen != self._tree.mount_changes:
            self._mounts_seen = self._tree.mount_changes
            rig = self._make()
            if rig is None or self._rig is None or not _agree(rig, self._rig):
                self.changes += int(self._rig is not None and rig is not None)
                self._rig = rig
        return self._rig

    @property
    def problems(self) -> dict[str, str]:
        """Camera, or :data:`LIDAR` -> a sentence about what is missing or wrong."""
        self.rig()
        return dict(self._problems)

    def problem(self, camera: str) -> str:
        """Why a camera cannot be used, or why its last camera_info was refused; "" if neither."""
        problems, (_, refusal) = self.problems, self._refused_infos.get(camera, (None, ""))
        return problems.get(camera, "") or problems.get(LIDAR, "") or refusal

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence for each part of the rig that comes from no message."""
        self.rig()
        if self.plan.given is not None:
            return ("the rig is the given one",)
        nominal = f"those of rig {self.plan.layout.rig}"
        notes = []
        if self.plan.infos:
            notes.append(f"intrinsics of {', '.join(self.plan.infos)} are those of the given files")
        if self._nominal_intrinsics:
            notes.append(f"intrinsics of {', '.join(self._nominal_intrinsics)} are {nominal}")
        if self._nominal_mounts:
            notes.append(f"mounts of {', '.join(self._nominal_mounts)} are {nominal}")
        return tuple(notes)

    @property
    def doubts(self) -> tuple[str, ...]:
        """One sentence for each calibration that can hardly be true, see :mod:`.plausibility`."""
        rig = self.rig()
        if rig is None:
            return ()
        rectified = [
            sentence
            for camera in self.plan.cameras
            if (info := self._infos.get(camera.name)) is not None
            and camera.is_rectified(topic := self._image_topics.get(camera.name, camera.image))
            for sentence in distortion_of_rectified(camera.name, topic, info)
        ]
        return (*doubts_about_rig(rig), *rectified)

    @property
    def is_complete(self) -> bool:
        """Whether the rig is known, and no message can replace a nominal part of it."""
        rig = self.rig()
        topics = (camera for camera in self.plan.cameras if camera.camera_info)
        return (
            rig is not None
            and not self._nominal_mounts
            and all(camera.name in self._infos for camera in topics)
        )

    def has_camera_info(self, camera: str) -> bool:
        """Whether a usable camera_info was received, regardless of the mount."""
        info = self._infos.get(camera)
        return info is not None and not self._why_unusable(camera, info)

    def mount(self, frame: str) -> Float64:
        """``ego_T_frame`` (4, 4) of a lidar, for points in ``frame``.

        The lidar mount of a given rig applies to every frame except the ego frame. A frame that tf
        does not contain is taken for the lidar of the plan, or of the nominal rig.

        Raises:
            TransformError: the mount of the frame is unknown.
        """
        ego, frame = self.plan.pose.ego_frame, frame.lstrip("/")
        if frame == ego:
            return np.eye(4)
        given = self.plan.given
        if given is not None and given.ego_T_lidar is not None:
            return given.ego_T_lidar
        self._other_frames.add(frame)
        try:
            return self._tree.static_transform(ego, frame)
        except TransformError:
            rig = self.rig()
            if rig is not None and rig.ego_T_lidar is not None:
                return rig.ego_T_lidar
            raise

    # -- rig -------------------------------------------------------------------------------------

    def _make(self) -> CameraRig | None:
        self._problems = {}
        self._nominal_intrinsics, self._nominal_mounts = [], []
        cameras = []
        for camera in self.plan.cameras:
            try:
                cameras.append(self._calibration(camera))
            except CalibrationError as error:  # noqa: PERF203  (all cameras are reported together)
                self._problems[camera.name] = str(error)
        ego_T_lidar = None
        try:
            ego_T_lidar = self._ego_T_lidar()
        except CalibrationError as error:
            self._problems[LIDAR] = str(error)
        is_known = self._problems.keys() <= self._dispensable
        return CameraRig(tuple(cameras), ego_T_lidar) if is_known else None

    def _calibration(self, camera: CameraTopics) -> CameraCalibration:
        name, given = camera.name, self.plan.given
        if given is not None and name in given.names:
            return given.camera(name)
        info, nominal = self._infos.get(name), self._nominal(camera)
        if info is None and nominal is None:
            why = self._unreadable_infos.get(name, f"no camera_info on {camera.camera_info}")
            raise CalibrationError(f"camera {name}: {why}")
        frame = self._frame_of(camera)
        mount = self._mount_of(name, frame, nominal)
        if info is not None:
            return replace(self._calibration_from(camera, info, mount), frame_id=frame)
        assert nominal is not None
        self._nominal_intrinsics.append(name)
        return replace(nominal, ego_T_cam=mount, frame_id=frame or nominal.frame_id)

    def _why_unusable(self, camera: str, info: CameraInfo) -> str:
        """Why a camera_info is unusable, regardless of the mount; "" if it is usable."""
        topics = next(one for one in self.plan.cameras if one.name == camera)
        try:
            self._calibration_from(topics, info, np.eye(4))
        except CalibrationError as error:
            return str(error)
        return ""

    def _calibration_from(
        self, camera: CameraTopics, info: CameraInfo, ego_T_cam: Float64
    ) -> CameraCalibration:
        rectified = camera.is_rectified(self._image_topics.get(camera.name, ""))
        return calibration_from_camera_info(info, camera.name, ego_T_cam, rectified)

    def _nominal(self, camera: CameraTopics) -> CameraCalibration | None:
        """The nominal calibration, if it may replace missing messages."""
        rig = self.plan.nominal
        if rig is None or camera.name not in rig.names:
            return None
        may_come = bool(camera.camera_info) and not self._searched_to_the_end
        return None if may_come else rig.camera(camera.name)

    def _frame_of(self, camera: CameraTopics) -> str:
        """A camera's frame in tf; "" if it is unknown."""
        info = self._infos.get(camera.name)
        stated = camera.frame_id or (info.frame_id if info is not None else "")
        return (stated or self._image_frames.get(camera.name, "")).lstrip("/")

    def _mount_of(self, name: str, frame: str, nominal: CameraCalibration | None) -> Float64:
        if frame:
            try:
                return self._tree.static_transform(self.plan.pose.ego_frame, frame)
            except TransformError as error:
                why = f"no mount of {frame} in tf: {error}"
        else:
            why = (
                "no frame_id in its camera_info and images, so its mount is unknown; set the frame "
                "in the layout (frame_id)"
            )
        if name in self.plan.infos:
            why += "; calibration files have no mounts: publish them on tf, or give a rig file"
        if nominal is None:
            raise CalibrationError(f"camera {name}: {why}")
        self._nominal_mounts.append(name)
        return nominal.ego_T_cam

    def _ego_T_lidar(self) -> Float64 | None:
        given, nominal, frame = self.plan.given, self.plan.nominal, self.plan.lidar_frame
        if given is not None and given.ego_T_lidar is not None:
            return given.ego_T_lidar
        in_nominal = nominal.ego_T_lidar if nominal is not None else None
        if not frame:
            return in_nominal
        try:
            return self._tree.static_transform(self.plan.pose.ego_frame, frame)
        except TransformError as error:
            if in_nominal is None:
                raise CalibrationError(
                    f"the model needs the mount of the lidar: no mount of {frame} in tf: {error}"
                ) from error
        self._nominal_mounts.append(LIDAR)
        return in_nominal


def _agree(first: CameraRig, second: CameraRig) -> bool:
    """Whether two rigs differ by nothing but rounding of the intrinsics."""
    if first.names != second.names:
        return False
    pairs = list(zip(first.cameras, second.cameras, strict=True))
    if any(np.abs(one.K - other.K).max() > _INTRINSICS_NOISE_PX for one, other in pairs):
        return False
    with_the_same_K = replace(second, cameras=tuple(replace(b, K=a.K) for a, b in pairs))
    return first.fingerprint() == with_the_same_K.fingerprint()
