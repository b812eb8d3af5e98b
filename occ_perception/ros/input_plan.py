"""Which topics the node listens to: parameters, topic layout and model card put together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast

from occ_perception.frames import CameraRig
from occ_perception.models.zoo import ModelCard
from occ_perception.ros.parameters import NodeParameters, ParameterError, parse_assignments
from occ_perception.sensing.calibration import load_rig
from occ_perception.sensing.layouts import CameraTopics, PoseSource, TopicLayout, load_layout


@dataclass(frozen=True, eq=False)
class InputPlan:
    """Everything the node must know about its inputs.

    Attributes:
        cameras: the model's cameras, in the model's order and under its names, as far as layout
            and rig have them; ``camera_info`` is empty for those whose calibration is in ``rig``.
        absent: the model's cameras that layout or rig do not have.
        pose: source of the ego pose.
        reference_camera: camera whose stamp a grid is expressed at.
        stamp_source: ``header`` or ``receive``.
        tolerance_ns: largest spread of a ring.
        rig: calibration from a file, None where camera_info and tf give all of it.
        encodings: camera -> encoding to assume for its raw pictures.
        lidar_frame: frame of the lidar in tf, where the model's grid lies in it or its points are
            read, and no file says where the lidar is; empty else.
        lidar_topic: points for a model that is given depth; empty for others.
    """

    cameras: tuple[CameraTopics, ...]
    absent: tuple[str, ...]
    pose: PoseSource
    reference_camera: str
    stamp_source: str
    tolerance_ns: int
    rig: CameraRig | None
    encodings: dict[str, str]
    lidar_frame: str = ""
    lidar_topic: str = ""

    @property
    def needs_tf(self) -> bool:
        """Whether the pose or a sensor's mount comes from tf."""
        mounts = bool(self.lidar_frame) or any(camera.camera_info for camera in self.cameras)
        return self.pose.kind == "tf" or mounts


def plan_inputs(parameters: NodeParameters, card: ModelCard) -> InputPlan:
    """Resolve the parameters for a model.

    Raises:
        ParameterError: they contradict each other, the layout or the model.
    """
    layout = _layout(parameters, card)
    rig = _rig(parameters, layout)
    if parameters.rig and rig is not None:  # it is the whole calibration: others cannot be used
        layout = _only(layout, rig, parameters)
    cameras = tuple(_camera(camera, layout, parameters) for camera in layout.cameras)
    for camera in cameras:
        if not camera.camera_info and (rig is None or camera.name not in rig.names):
            has = "there is no rig file" if rig is None else f"the rig has {', '.join(rig.names)}"
            raise ParameterError(
                f"camera {camera.name} has no camera_info topic and {has}; set rig or "
                "camera_info_topics"
            )
    reference = parameters.reference_camera or layout.reference_camera
    if reference not in layout.camera_names:
        raise ParameterError(
            f"reference_camera is {reference}, expected one of {', '.join(layout.camera_names)}"
        )
    tolerance_ms = parameters.sync_tolerance_ms or layout.ring_tolerance_ms
    lidar_known = rig is not None and rig.ego_T_lidar is not None
    lidar_frame = parameters.lidar_frame or layout.lidar_frame
    return InputPlan(
        cameras=cameras,
        absent=tuple(name for name in card.cameras if name not in layout.camera_names),
        pose=_pose(parameters, layout),
        reference_camera=reference,
        stamp_source=(
            layout.stamp_source if parameters.stamp_source == "layout" else parameters.stamp_source
        ),
        tolerance_ns=round(tolerance_ms * 1e6),
        rig=rig,
        encodings={camera.name: camera.encoding for camera in cameras if camera.encoding},
        lidar_frame=lidar_frame if _needs_lidar_mount(card) and not lidar_known else "",
        lidar_topic=_lidar_topic(parameters, card),
    )


def _needs_lidar_mount(card: ModelCard) -> bool:
    return card.grid_frame == "lidar" or card.measures_depth


def _lidar_topic(parameters: NodeParameters, card: ModelCard) -> str:
    if not card.measures_depth:
        return ""
    if not parameters.lidar_topic:
        raise ParameterError(
            f"model {card.name} is given lidar depth and cannot run on cameras alone: set "
            "lidar.topic to a topic of sensor_msgs/PointCloud2, or choose another model"
        )
    return parameters.lidar_topic


def _layout(parameters: NodeParameters, card: ModelCard) -> TopicLayout:
    if not parameters.layout:
        return _private_layout(card)
    try:
        return load_layout(parameters.layout).for_model(card.cameras)
    except (ValueError, OSError) as error:
        raise ParameterError(f"layout: {error}") from error


def _only(layout: TopicLayout, rig: CameraRig, parameters: NodeParameters) -> TopicLayout:
    """The layout without the cameras that the rig file does not have."""
    reference = parameters.reference_camera or layout.reference_camera
    try:
        return replace(layout, reference_camera=reference).only(rig.names)
    except ValueError as error:
        raise ParameterError(f"rig {parameters.rig}: {error}") from error


def _private_layout(card: ModelCard) -> TopicLayout:
    """Topics under ~/input, for deployments that remap."""
    return TopicLayout(
        name="",
        cameras=tuple(
            CameraTopics(
                name=name,
                image=f"~/input/{name.lower()}/image",
                camera_info=f"~/input/{name.lower()}/camera_info",
            )
            for name in card.cameras
        ),
        pose=PoseSource("odometry", "~/input/odometry", "map", "base_link"),
        reference_camera=card.reference_camera,
    )


def _rig(parameters: NodeParameters, layout: TopicLayout) -> CameraRig | None:
    chosen = parameters.rig or layout.rig
    if not chosen:
        return None
    try:
        return layout.under_model_names(load_rig(chosen))
    except (ValueError, OSError) as error:
        raise ParameterError(f"rig: {error}") from error


def _camera(camera: CameraTopics, layout: TopicLayout, parameters: NodeParameters) -> CameraTopics:
    """The layout's camera with the overrides of the parameters."""
    for parameter, entries in (
        ("image_topics", parameters.image_topics),
        ("camera_info_topics", parameters.camera_info_topics),
    ):
        for other in parse_assignments(parameter, entries):
            if other not in layout.camera_names:
                raise ParameterError(
                    f"{parameter}: no camera is called {other}; the layout has "
                    f"{', '.join(layout.camera_names)}"
                )
    name = camera.name
    images = parse_assignments("image_topics", parameters.image_topics)
    infos = parse_assignments("camera_info_topics", parameters.camera_info_topics)
    return replace(
        camera,
        image=images.get(name, camera.image),
        # A rig file that was asked for is the whole calibration.
        camera_info="" if parameters.rig else infos.get(name, camera.camera_info),
        encoding=parameters.image_encoding or camera.encoding,
    )


def _pose(parameters: NodeParameters, layout: TopicLayout) -> PoseSource:
    kind = layout.pose.kind if parameters.pose_source == "layout" else parameters.pose_source
    if kind == layout.pose.kind:
        topic = parameters.pose_topic or layout.pose.topic
    else:
        topic = parameters.pose_topic or ("/tf" if kind == "tf" else "~/input/odometry")
    return PoseSource(
        kind=cast(Literal["odometry", "tf"], kind),
        topic=topic,
        world_frame=parameters.world_frame or layout.pose.world_frame,
        ego_frame=parameters.ego_frame or layout.pose.ego_frame,
    )
