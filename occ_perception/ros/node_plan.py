"""The inputs of the node: a topic layout with the overrides of the node's parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

from occ_perception.errors import OccError
from occ_perception.models.card import ModelCard
from occ_perception.ros.parameters import NodeParameters, ParameterError, parse_assignments
from occ_perception.sensing.input_plan import InputPlan, plan_inputs
from occ_perception.sensing.layouts import CameraTopics, PoseSource, TopicLayout, load_layout


def plan_node(parameters: NodeParameters, card: ModelCard) -> InputPlan:
    """The inputs of a node that runs a model.

    Raises:
        ParameterError: the parameters contradict each other, the layout or the model.
    """
    layout = _layout(parameters, card)
    layout = replace(
        layout,
        cameras=_cameras(parameters, layout),
        pose=_pose(parameters, layout.pose),
        reference_camera=parameters.reference_camera or layout.reference_camera,
        stamp_source=cast(
            Literal["header", "receive"],
            layout.stamp_source if parameters.stamp_source == "layout" else parameters.stamp_source,
        ),
        sync_tolerance_ms=parameters.sync_tolerance_ms or layout.sync_tolerance_ms,
        lidar_frame=parameters.lidar_frame or layout.lidar_frame,
    )
    needs_lidar_mount = card.grid_frame == "lidar" or card.measures_depth
    try:
        return plan_inputs(layout, parameters.rig or None, card.cameras, needs_lidar_mount)
    except (OccError, ValueError, OSError) as error:
        raise ParameterError(
            f"rig {parameters.rig}: {error}" if parameters.rig else str(error)
        ) from error


def lidar_topic_of(parameters: NodeParameters, card: ModelCard) -> str:
    """The topic of lidar points for a model that takes lidar depth; "" for other models.

    Raises:
        ParameterError: the model takes lidar depth and no topic is set.
    """
    if not card.measures_depth:
        return ""
    if not parameters.lidar_topic:
        raise ParameterError(
            f"model {card.name} takes lidar depth and cannot run on cameras alone: set "
            "lidar.topic to a topic of sensor_msgs/PointCloud2, or choose another model"
        )
    return parameters.lidar_topic


def _layout(parameters: NodeParameters, card: ModelCard) -> TopicLayout:
    if not parameters.layout:
        return _private_layout(card)
    try:
        return load_layout(parameters.layout).for_model(card.cameras)
    except (OccError, OSError) as error:
        raise ParameterError(f"layout: {error}") from error


def _private_layout(card: ModelCard) -> TopicLayout:
    """A layout with topics under ~/input, for deployments that remap topics."""
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


def _cameras(parameters: NodeParameters, layout: TopicLayout) -> tuple[CameraTopics, ...]:
    """The layout's cameras with the overrides of the parameters."""
    images = parse_assignments("image_topics", parameters.image_topics)
    infos = parse_assignments("camera_info_topics", parameters.camera_info_topics)
    for parameter, names in (("image_topics", images), ("camera_info_topics", infos)):
        if strangers := [name for name in names if name not in layout.camera_names]:
            raise ParameterError(
                f"{parameter}: no camera is called {strangers[0]}; the layout has "
                f"{', '.join(layout.camera_names)}"
            )
    return tuple(
        replace(
            camera,
            image=images.get(camera.name, camera.image),
            camera_info=infos.get(camera.name, camera.camera_info),
            encoding=parameters.image_encoding or camera.encoding,
        )
        for camera in layout.cameras
    )


def _pose(parameters: NodeParameters, stated: PoseSource) -> PoseSource:
    kind = stated.kind if parameters.pose_source == "layout" else parameters.pose_source
    if kind == stated.kind:
        topic = parameters.pose_topic or stated.topic
    else:
        topic = parameters.pose_topic or ("/tf" if kind == "tf" else "~/input/odometry")
    return PoseSource(
        kind=cast(Literal["odometry", "tf"], kind),
        topic=topic,
        world_frame=parameters.world_frame or stated.world_frame,
        ego_frame=parameters.ego_frame or stated.ego_frame,
    )
