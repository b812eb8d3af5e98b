"""Vehicle inputs: calibration, mounts and ego pose out of messages, for recordings and the node.

Both feed the same class in the order in which messages arrived, so the same messages give the same
rig and the same poses, whether they come out of a file or over the network.
"""

from __future__ import annotations

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
    is_about,
    pose_from_odometry,
    stamp_ns,
    transform_from_message,
)
from occ_perception.sensing.input_plan import InputPlan
from occ_perception.sensing.layouts import CameraTopics
from occ_perception.sensing.time_jumps import TimeJump
from occ_perception.sensing.transform_tree import TransformError, TransformTree

LIDAR = "lidar"
"""Key of the lidar's mount among the problems, beside the names of the cameras."""

# No state of the tree: the rig must be made anew.
_NONE_SEEN = -1
# An optical axis (z of an optical frame) that rises more steeply than 53 degrees is the z axis of
# a body frame: a camera that looks at the sky sees no traffic.
_RISING = 0.8


class VehicleInputs:
    """What messages say about a vehicle's sensors and motion; without threads or a clock.

    A given rig holds for everything it names. Otherwise intrinsics come from camera_info, of which
    the newest holds, and mounts from tf. The nominal rig fills in what no message says: at once
    for cameras that have no camera_info topic (their mount changes to tf's when that comes), for
    the others once a recording was searched to its end (:meth:`fill_in`).

    What a message says is either taken or refused. Refused parts come back as sentences, without
    the topic's name; the rest of the message is taken.

    Args:
        plan: which cameras there are, the pose's source, the rigs.
        max_extrapolation_ns, max_gap_ns: limits of the poses, see :class:`PoseBuffer`.

    Attributes:
        poses: the ego pose over time, out of odometry or tf.
        changes: how often a complete rig was replaced by another one.
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
        self._infos: dict[str, CameraInfo] = {}
        self._refused_infos: dict[str, tuple[CameraInfo, str]] = {}
        self._image_frames: dict[str, str] = {}
        self._image_topics: dict[str, str] = {}
        self._other_frames: set[str] = set()
        self._searched_to_the_end = False
        self._mounts_seen = _NONE_SEEN
        self._rig: CameraRig | None = None
        self._problems: dict[str, str] = {}
        self._nominal_intrinsics: list[str] = []
        self._nominal_mounts: list[str] = []
        self.changes = 0

    # -- what arrives ----------------------------------------------------------------------------

    def take_camera_info(self, camera: str, message: Any) -> tuple[str, ...]:
        """A camera's calibration, as a sensor_msgs/CameraInfo or a :class:`CameraInfo`.

        One that cannot be used does not replace one that can: it is refused, and is a problem of
        the camera until the next. Drivers send camera_info with every image, so a refusal is
        returned once, not at every repetition.
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
                sentence = f"{why}; the calibration before it holds"
                self._refused_infos[camera] = info, sentence
                return (sentence,)
        self._refused_infos.pop(camera, None)
        if is_new:
            self._infos[camera] = info
            self._mounts_seen = _NONE_SEEN
        return ()

    def take_image_frame(self, camera: str, frame_id: str) -> None:
        """The frame in an image's header; holds where neither layout nor camera_info has one."""
        if self._image_frames.get(camera) != frame_id:
            self._image_frames[camera] = frame_id
            self._mounts_seen = _NONE_SEEN

    def take_image_topic(self, camera: str, topic: str) -> None:
        """Where a camera's images really come from, whatever was remapped."""
        self._image_topics[camera] = topic
        self._mounts_seen = _NONE_SEEN

    def take_odometry(self, message: Any) -> tuple[str, ...]:
        """The ego pose of a nav_msgs/Odometry; returns why it was refused, if it was.

        Raises:
            TimeJump: its stamp is more than 1 s older than the newest; nothing was taken.
        """
        expected = self.plan.pose.ego_frame
        if not is_about(message, expected):
            return (
                f"odometry gives poses of {message.child_frame_id!r}, expected {expected!r}; set "
                "ego_frame (of the layout's pose), or take the pose from tf",
            )
        try:
            world_T_ego = pose_from_odometry(message)
        except ValueError as error:
            return (str(error),)
        self._odometry.add(stamp_ns(message.header.stamp), world_T_ego)
        return ()

    def take_transforms(self, message: Any, static: bool) -> tuple[str, ...]:
        """The transforms of a tf message; returns why some were refused.

        A frame whose stamps go back starts anew by itself where neither the ego pose nor a
        sensor's mount depends on it: its publishers disagree, time does not run backwards.

        Args:
            message: tf2_msgs/TFMessage.
            static: whether it came on /tf_static.

        Raises:
            TimeJump: stamps of a frame that matters went back by more than 1 s. After a
                :meth:`reset` the same message is taken without.
        """
        refusals = []
        # Oldest first: one message may hold a frame twice, which is no jump.
        for item in sorted(message.transforms, key=lambda item: stamp_ns(item.header.stamp)):
            parent, child = item.header.frame_id, item.child_frame_id
            stamp = stamp_ns(item.header.stamp)
            try:
                self._add_transform(parent, child, stamp, transform_from_message(item), static)
            except TransformError as error:
                refusals.append(str(error))
            except ValueError as error:
                refusals.append(f"transform {parent} -> {child}: {error}")
        return tuple(refusals)

    def _add_transform(
        self, parent: str, child: str, stamp: int, parent_T_child: Float64, static: bool
    ) -> None:
        try:
            self._tree.add(parent, child, stamp, parent_T_child, static)
        except TimeJump:
            if self._matters(child):
                raise
            self._tree.forget_history(child)
            self._tree.add(parent, child, stamp, parent_T_child, static)

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
        """A recording was searched to its end: what no message said, the nominal rig says."""
        self._searched_to_the_end = True
        self._mounts_seen = _NONE_SEEN

    def rewind(self) -> None:
        """The same messages come once more from the start: forget poses, keep the rig."""
        self._odometry.reset()
        self._tree.rewind()

    def reset(self) -> None:
        """Time went back: forget poses, and mounts that did not come as static.

        Those come again, perhaps from another vehicle's recording. The calibration stays.
        """
        self._odometry.reset()
        self._tree.reset()

    # -- what is known ---------------------------------------------------------------------------

    def rig(self) -> CameraRig | None:
        """The calibration of all cameras; None while something is missing, see :attr:`problems`.

        The object stays the same while the numbers do, so that readers can compare it.
        """
        if self._mounts_seen != self._tree.mount_changes:
            self._mounts_seen = self._tree.mount_changes
            rig = self._make()
            if rig is None or self._rig is None or rig.fingerprint() != self._rig.fingerprint():
                self.changes += int(self._rig is not None and rig is not None)
                self._rig = rig
        return self._rig

    @property
    def problems(self) -> dict[str, str]:
        """What is missing or wrong: camera, or :data:`LIDAR`, -> a sentence that names it."""
        self.rig()
        return dict(self._problems)

    def problem(self, camera: str) -> str:
        """What keeps a camera from being used, or was refused of it; "" if nothing."""
        problems, (_, refusal) = self.problems, self._refused_infos.get(camera, (None, ""))
        return problems.get(camera, "") or problems.get(LIDAR, "") or refusal

    @property
    def notes(self) -> tuple[str, ...]:
        """One sentence on every fact that no message stated, or that looks odd."""
        rig = self.rig()
        if self.plan.given is not None:
            return ("the rig is the one given",)
        nominal = f"those of rig {self.plan.layout.rig}"
        notes = []
        if self._nominal_intrinsics:
            notes.append(f"intrinsics of {', '.join(self._nominal_intrinsics)} are {nominal}")
        if self._nominal_mounts:
            notes.append(f"mounts of {', '.join(self._nominal_mounts)} are {nominal}")
        rising = [c.name for c in rig.cameras if c.ego_T_cam[2, 2] > _RISING] if rig else []
        if rising:
            notes.append(
                f"{', '.join(rising)} look upwards: their frames in tf may be those of the bodies "
                "(x forward), not the optical ones (z forward); name those in the layout (frame_id)"
            )
        return tuple(notes)

    @property
    def is_complete(self) -> bool:
        """Whether the rig is known, and no message can replace what is taken of the nominal one."""
        rig = self.rig()
        topics = (camera for camera in self.plan.cameras if camera.camera_info)
        return (
            rig is not None
            and not self._nominal_mounts
            and all(camera.name in self._infos for camera in topics)
        )

    def has_camera_info(self, camera: str) -> bool:
        """Whether a camera_info came that can be used, wherever the camera is mounted."""
        info = self._infos.get(camera)
        return info is not None and not self._why_unusable(camera, info)

    def mount(self, frame: str) -> Float64:
        """``ego_T_frame`` (4, 4) of a lidar, for points given in ``frame``.

        The mount of a given rig's lidar holds for every frame but the ego frame; a frame that tf
        does not know is taken as the lidar of the plan, or of the nominal rig.

        Raises:
            TransformError: nothing says where the frame is.
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

    # -- put together ----------------------------------------------------------------------------

    def _make(self) -> CameraRig | None:
        self._problems = {}
        self._nominal_intrinsics, self._nominal_mounts = [], []
        cameras = []
        for camera in self.plan.cameras:
            try:
                cameras.append(self._calibration(camera))
            except CalibrationError as error:  # noqa: PERF203  (all cameras are reported together)
                self._problems[camera.name] = str(error)
        try:
            ego_T_lidar = self._ego_T_lidar()
        except CalibrationError as error:
            self._problems[LIDAR] = str(error)
        return None if self._problems else CameraRig(tuple(cameras), ego_T_lidar)

    def _calibration(self, camera: CameraTopics) -> CameraCalibration:
        name, given = camera.name, self.plan.given
        if given is not None and name in given.names:
            return given.camera(name)
        info, nominal = self._infos.get(name), self._nominal(camera)
        if info is None and nominal is None:
            raise CalibrationError(f"camera {name}: no camera_info on {camera.camera_info}")
        frame = self._frame_of(camera)
        mount = self._mount_of(name, frame, nominal)
        if info is not None:
            return replace(self._calibration_from(camera, info, mount), frame_id=frame)
        assert nominal is not None
        self._nominal_intrinsics.append(name)
        return replace(nominal, ego_T_cam=mount, frame_id=frame or nominal.frame_id)

    def _why_unusable(self, camera: str, info: CameraInfo) -> str:
        """Why a camera_info makes no calibration, wherever the camera is mounted; "" if it does."""
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
        """The nominal calibration, where it may stand in for what no message said."""
        rig = self.plan.nominal
        if rig is None or camera.name not in rig.names:
            return None
        may_come = bool(camera.camera_info) and not self._searched_to_the_end
        return None if may_come else rig.camera(camera.name)

    def _frame_of(self, camera: CameraTopics) -> str:
        """A camera's frame in tf, "" where nothing names it."""
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
                "no frame_id in its camera_info and images, so its mount is not known; name the "
                "frame in the layout (frame_id)"
            )
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
                    f"the model must know where the lidar is: no mount of {frame} in tf: {error}"
                ) from error
        self._nominal_mounts.append(LIDAR)
        return in_nominal
