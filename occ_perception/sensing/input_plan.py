"""The input plan: combines a topic layout, the cameras of a model, and rig files.

The node, the live view and the reader of recordings all use it, so that they read the same
cameras.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from occ_perception.errors import OccError
from occ_perception.frames import CameraRig
from occ_perception.sensing.calibration import CameraInfo, load_rig
from occ_perception.sensing.calibration_files import load_camera_infos
from occ_perception.sensing.layouts import CameraTopics, PoseSource, TopicLayout


class InputPlanError(OccError):
    """Layout, model and rig do not match; the text says which part is missing."""


@dataclass(frozen=True, eq=False)
class InputPlan:
    """The inputs to read.

    Attributes:
        layout: the layout with the cameras to read, in the model's order and under its names.
            ``camera_info`` is empty for cameras whose calibration is in ``given`` or ``infos``.
        given: a rig that takes precedence over messages; None if there is none.
        infos: camera -> calibration from a file that takes precedence over camera_info; its mount
            comes from tf or ``nominal``.
        nominal: the layout's rig, for calibrations that no message contains; None if there is
            none, or if a rig is given.
        absent: cameras of the model that the layout or the given rig lacks.
        lidar_frame: frame of the lidar in tf, if its mount is needed and ``given`` lacks it;
            otherwise empty.
    """

    layout: TopicLayout
    given: CameraRig | None = None
    infos: Mapping[str, CameraInfo] = field(default_factory=dict)
    nominal: CameraRig | None = None
    absent: tuple[str, ...] = ()
    lidar_frame: str = ""

    @property
    def cameras(self) -> tuple[CameraTopics, ...]:
        """The cameras to read."""
        return self.layout.cameras

    @property
    def pose(self) -> PoseSource:
        """Source of the ego pose."""
        return self.layout.pose

    @property
    def reference_camera(self) -> str:
        """Camera whose stamp is the time of the grid."""
        return self.layout.reference_camera

    @property
    def tolerance_ns(self) -> int | None:
        """Largest spread of a frame set; None to observe it."""
        stated = self.layout.sync_tolerance_ms
        return None if stated is None else round(stated * 1e6)

    @property
    def encodings(self) -> dict[str, str]:
        """Camera -> encoding of its raw images."""
        return {camera.name: camera.encoding for camera in self.cameras if camera.encoding}

    @property
    def needs_tf(self) -> bool:
        """Whether the pose or the mount of a sensor can only come from tf."""
        if self.pose.kind == "tf" or any(camera.camera_info for camera in self.cameras):
            return True
        if any(self.nominal is None or name not in self.nominal.names for name in self.infos):
            return True
        no_file_has_it = self.nominal is None or self.nominal.ego_T_lidar is None
        return bool(self.lidar_frame) and no_file_has_it

    @property
    def reads_tf(self) -> bool:
        """Whether tf is needed, or can replace the nominal mounts of the layout's rig."""
        return self.needs_tf or self.nominal is not None


def plan_inputs(
    layout: TopicLayout,
    rig: CameraRig | str | Path | None = None,
    cameras: Sequence[str] | None = None,
    needs_lidar_mount: bool = False,
) -> InputPlan:
    """Resolve a layout for a model.

    Args:
        layout: the layout; for a model under its names, see :meth:`TopicLayout.for_model`.
        rig: a given rig, or its name or path, with the camera names of the layout's file; or a
            folder of calibration files, see :func:`~.calibration_files.load_camera_infos`.
        cameras: cameras of the model; it runs without those that layout or rig lack. None without
            a model: then a given rig must have all cameras of the layout.
        needs_lidar_mount: whether the model needs the mount of the lidar.

    Raises:
        InputPlanError: the parts do not match.
        YamlError: a rig file is wrong.
        LayoutError: the given rig does not have the reference camera.
    """
    infos: dict[str, CameraInfo] = {}
    if isinstance(rig, str | Path) and Path(rig).expanduser().is_dir():
        layout, infos = _with_infos(layout, Path(rig))
        rig = None
    given = _loaded(rig, layout, cameras)
    if given is not None:
        layout = _only_given(layout, given, cameras)
    nominal = _loaded(layout.rig, layout, cameras) if given is None else None
    for camera in layout.cameras:
        known = given or nominal
        if camera.name in infos:
            continue
        if not camera.camera_info and (known is None or camera.name not in known.names):
            has = (
                "there is no rig file" if known is None else f"the rig has {', '.join(known.names)}"
            )
            raise InputPlanError(
                f"camera {camera.name} has no camera_info topic and {has}; give its calibration in "
                "a rig file, or name its camera_info topic"
            )
    if layout.reference_camera not in layout.camera_names:
        raise InputPlanError(
            f"reference_camera is {layout.reference_camera}, expected one of "
            f"{', '.join(layout.camera_names)}"
        )
    lidar_given = given is not None and given.ego_T_lidar is not None
    return InputPlan(
        layout=layout,
        given=given,
        infos=infos,
        nominal=nominal,
        absent=tuple(name for name in cameras or () if name not in layout.camera_names),
        lidar_frame=layout.lidar_frame if needs_lidar_mount and not lidar_given else "",
    )


def _loaded(
    rig: CameraRig | str | Path | None, layout: TopicLayout, cameras: Sequence[str] | None
) -> CameraRig | None:
    if rig is None:
        return None
    loaded = rig if isinstance(rig, CameraRig) else load_rig(rig)
    return loaded if cameras is None else layout.under_model_names(loaded)


def _with_infos(layout: TopicLayout, folder: Path) -> tuple[TopicLayout, dict[str, CameraInfo]]:
    """The layout without the camera_info topics of cameras that have a file, and those files."""
    files = load_camera_infos(folder)
    infos = {}
    for camera in layout.cameras:
        own_name = layout.model_cameras.get(camera.name, camera.name).lower()
        if own_name in files:
            infos[camera.name] = files[own_name]
    if not infos:
        raise InputPlanError(
            f"no calibration file in {folder} is for one of the cameras "
            f"{', '.join(layout.camera_names)}; there are files for {', '.join(sorted(files))}. "
            "A file is named after its camera, or its camera_name is"
        )
    cameras = (replace(c, camera_info="") if c.name in infos else c for c in layout.cameras)
    return replace(layout, cameras=tuple(cameras)), infos


def _only_given(
    layout: TopicLayout, given: CameraRig, cameras: Sequence[str] | None
) -> TopicLayout:
    """The layout with the cameras of the given rig; their camera_info is not needed."""
    if cameras is not None:
        layout = layout.only(given.names)
    if missing := [name for name in layout.camera_names if name not in given.names]:
        raise InputPlanError(
            f"the given rig has no {', '.join(missing)}; it has {', '.join(given.names)}"
        )
    return replace(layout, cameras=tuple(replace(c, camera_info="") for c in layout.cameras))
