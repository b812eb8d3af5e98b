"""The calibration of all cameras, from camera_info and tf or from a rig file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from occ_perception.frames import CameraCalibration, CameraRig
from occ_perception.geometry import Float64
from occ_perception.sensing.calibration import CameraInfo, calibration_from_camera_info
from occ_perception.sensing.layouts import CameraTopics
from occ_perception.sensing.transform_tree import TransformError, TransformTree

# No state of the tree: the rig must be made anew.
_NONE_SEEN = -1


class RigSource:
    """The calibration of all cameras, complete as soon as everything it needs has arrived.

    Args:
        cameras: the model's cameras, with their layout.
        ego_frame: vehicle frame in tf.
        fixed: rig file for the cameras without a camera_info topic.
        tree: extrinsics of the others; what changes in it is noticed.
        lidar_frame: frame of the lidar in tf, only for models that must know where it is.
    """

    def __init__(
        self,
        cameras: tuple[CameraTopics, ...],
        ego_frame: str,
        fixed: CameraRig | None,
        tree: TransformTree,
        lidar_frame: str = "",
    ) -> None:
        self._cameras = cameras
        self._ego_frame = ego_frame
        self._fixed = fixed
        self._tree = tree
        self._lidar_frame = lidar_frame
        self._infos: dict[str, CameraInfo] = {}
        self._picture_topics: dict[str, str] = {}
        self._rig: CameraRig | None = None
        self._problems: dict[str, str] = {}
        self.changes = 0
        self._mounts_seen = _NONE_SEEN

    def take_camera_info(self, camera: str, info: CameraInfo) -> None:
        """A camera's calibration arrived or changed."""
        self._infos[camera] = info
        self._mounts_seen = _NONE_SEEN

    def take_picture_topic(self, camera: str, topic: str) -> None:
        """Where a camera's pictures really come from, whatever was remapped."""
        self._picture_topics[camera] = topic
        self._mounts_seen = _NONE_SEEN

    def rig(self) -> CameraRig | None:
        """The rig; None while something is missing, see :meth:`problem`."""
        if self._mounts_seen != self._tree.mount_changes:
            self._mounts_seen = self._tree.mount_changes
            rig = self._make()
            # The object stays the same where the numbers do, so that readers can compare it.
            if rig is None or self._rig is None or rig.fingerprint() != self._rig.fingerprint():
                self.changes += int(self._rig is not None and rig is not None)
                self._rig = rig
        return self._rig

    def problem(self, camera: str) -> str:
        """What a camera's calibration waits for, or what is wrong with it; "" if nothing."""
        self.rig()
        return self._problems.get(camera, "") or self._problems.get("lidar", "")

    def _make(self) -> CameraRig | None:
        self._problems = {}
        calibrations: list[CameraCalibration] = [
            self._checked(topics.name, self._calibration, topics) for topics in self._cameras
        ]
        ego_T_lidar = self._checked("lidar", self._ego_T_lidar)
        if self._problems:
            return None
        return CameraRig(tuple(calibrations), ego_T_lidar)

    def _checked(self, name: str, make: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return make(*arguments)
        except (ValueError, LookupError) as error:
            self._problems[name] = str(error.args[0])
            return None

    def _calibration(self, topics: CameraTopics) -> CameraCalibration:
        if not topics.camera_info:
            assert self._fixed is not None, "the node refuses to start without either"
            return self._fixed.camera(topics.name)
        info = self._infos.get(topics.name)
        if info is None:
            raise LookupError(f"waiting for camera_info on {topics.camera_info}")
        frame = topics.frame_id or info.frame_id
        if not frame:
            raise LookupError(
                f"camera_info on {topics.camera_info} has no frame_id; set it in the layout"
            )
        try:
            ego_T_cam = self._tree.static_transform(self._ego_frame, frame)
        except TransformError as error:
            raise LookupError(f"waiting for the mount of {frame} in tf: {error}") from error
        rectified = topics.is_rectified(self._picture_topics.get(topics.name, ""))
        return calibration_from_camera_info(info, topics.name, ego_T_cam, rectified)

    def _ego_T_lidar(self) -> Float64 | None:
        if not self._lidar_frame:
            return None if self._fixed is None else self._fixed.ego_T_lidar
        if self._fixed is not None and self._fixed.ego_T_lidar is not None:
            return self._fixed.ego_T_lidar
        try:
            return self._tree.static_transform(self._ego_frame, self._lidar_frame)
        except TransformError as error:
            raise LookupError(
                f"the model needs to know where the lidar is; waiting for it in tf: {error}"
            ) from error
