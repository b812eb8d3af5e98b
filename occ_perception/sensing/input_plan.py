"""Which inputs there are: a topic layout, what a model asks for and rig files put together.

The node, the live view and the reader of recordings all ask here, so that they read the same
cameras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from occ_perception.errors import OccError
from occ_perception.frames import CameraRig
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.layouts import CameraTopics, PoseSource, TopicLayout


class InputPlanError(OccError):
    """Layout, model and rig do not go together; the text says which part is missing."""


@dataclass(frozen=True, eq=False)
class InputPlan:
    """The inputs to read.

    Attributes:
        layout: the cameras to read, in the model's order and under its names, and all else that a
            layout states. ``camera_info`` is empty for cameras whose calibration is in ``given``.
        given: a rig that holds for everything it names, whatever messages say; None without.
        nominal: the layout's rig, for what messages do not say; None without, and where a rig is
            given.
        absent: the model's cameras that layout or given rig do not have.
        lidar_frame: the lidar in tf, where its mount is needed and ``given`` does not have it;
            empty else.
    """

    layout: TopicLayout
    given: CameraRig | None = None
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
        """Camera whose stamp a grid is expressed at."""
        return self.layout.reference_camera

    @property
    def tolerance_ns(self) -> int:
        """Largest spread of a frame set."""
        return round(self.layout.sync_tolerance_ms * 1e6)

    @property
    def encodings(self) -> dict[str, str]:
        """Camera -> encoding to read its raw images as."""
        return {camera.name: camera.encoding for camera in self.cameras if camera.encoding}

    @property
    def needs_tf(self) -> bool:
        """Whether the pose or a sensor's mount is known from tf only."""
        if self.pose.kind == "tf" or any(camera.camera_info for camera in self.cameras):
            return True
        no_file_has_it = self.nominal is None or self.nominal.ego_T_lidar is None
        return bool(self.lidar_frame) and no_file_has_it

    @property
    def reads_tf(self) -> bool:
        """Whether tf can add something, be it the mounts that a nominal rig knows roughly."""
        return self.needs_tf or self.nominal is not None


def plan_inputs(
    layout: TopicLayout,
    rig: CameraRig | str | Path | None = None,
    cameras: Sequence[str] | None = None,
    needs_lidar_mount: bool = False,
) -> InputPlan:
    """Resolve a layout for a model.

    Args:
        layout: what there is; for a model, under the model's names (:meth:`TopicLayout.for_model`).
        rig: a given rig, or its name or path, cameras under the names of the layout's file.
        cameras: those of the model. Where it has some that layout or rig do not have, it runs
            without. None where no model asks: then a given rig must have all of the layout's.
        needs_lidar_mount: whether the model must know where the lidar is.

    Raises:
        InputPlanError: the parts do not go together.
        YamlError: a rig file is wrong.
        LayoutError: the given rig does not have the reference camera.
    """
    given = _loaded(rig, layout, cameras)
    if given is not None:
        layout = _only_given(layout, given, cameras)
    nominal = _loaded(layout.rig, layout, cameras) if given is None else None
    for camera in layout.cameras:
        known = given or nominal
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


def _only_given(
    layout: TopicLayout, given: CameraRig, cameras: Sequence[str] | None
) -> TopicLayout:
    """The layout with the given rig's cameras, whose camera_info nobody needs."""
    if cameras is not None:
        layout = layout.only(given.names)
    if missing := [name for name in layout.camera_names if name not in given.names]:
        raise InputPlanError(
            f"the given rig has no {', '.join(missing)}; it has {', '.join(given.names)}"
        )
    return replace(layout, cameras=tuple(replace(c, camera_info="") for c in layout.cameras))
