"""The table of topics that the node prints when it becomes active."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from occ_msgs.msg import Latency
from occ_perception.ros.outputs import LATENCY_TOPIC, OUTPUT_DEPTH, OUTPUTS
from occ_perception.ros.parameters import NodeParameters
from occ_perception.sensing.input_plan import InputPlan

_Row = tuple[str, str, str, str]
_TF = "tf2_msgs/TFMessage"
_WHEN = {"always": "", "subscribed": ", while subscribed", "available": ", with flow"}


def topic_table(node: Node, plan: InputPlan, lidar_topic: str, values: NodeParameters) -> str:
    """One line per topic: direction and use, name, type, QoS."""
    rows = [
        (use, node.resolve_topic_name(topic) if topic else "rig file", type_name, quality)
        for use, topic, type_name, quality in (
            *_inputs(plan, lidar_topic, values.qos_reliability),
            *_outputs(),
        )
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join((*map(str.ljust, row[:3], widths), row[3])) for row in rows)


def _inputs(plan: InputPlan, lidar_topic: str, reliability: str) -> Iterable[_Row]:
    quality = {"auto": "as published", "best_effort": "best effort"}.get(reliability, reliability)
    images = f"{_type_name(Image)}, or {_type_name(CompressedImage)} below /compressed"
    for camera in plan.cameras:
        only = camera.image.endswith("/compressed")
        kind = _type_name(CompressedImage) if only else images
        yield f"in   {camera.name}", camera.image, kind, quality
        yield f"in   {camera.name} calibration", camera.camera_info, _type_name(CameraInfo), quality
    pose = plan.pose
    if pose.kind == "odometry":
        yield "in   ego pose", pose.topic, _type_name(Odometry), quality
    if plan.needs_tf:
        moving = "ego pose" if pose.kind == "tf" else "moving mounts"
        topic = pose.topic if pose.kind == "tf" else "/tf"
        yield f"in   {moving}", topic, _TF, quality
        yield "in   mounts", "/tf_static", _TF, f"{quality}, latched"
    if lidar_topic:
        yield "in   lidar", lidar_topic, _type_name(PointCloud2), quality


def _outputs() -> Iterable[_Row]:
    for output in OUTPUTS:
        use = output.topic.removeprefix("~/").replace("_", " ")
        quality = f"reliable, depth {OUTPUT_DEPTH}{_WHEN[output.when]}"
        yield f"out  {use}", output.topic, _type_name(output.message_type), quality
    yield "out  latency", LATENCY_TOPIC, _type_name(Latency), f"reliable, depth {OUTPUT_DEPTH}"


def _type_name(message_class: type[Any]) -> str:
    """``package/Name`` of a message class."""
    return f"{message_class.__module__.partition('.')[0]}/{message_class.__name__}"
