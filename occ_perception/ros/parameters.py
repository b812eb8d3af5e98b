"""Every parameter of the node, declared once: type, default, meaning, limits.

:class:`NodeParameters` is the table. The declaration to ROS, the validation,
config/occupancy_node.yaml and the table in docs/node.md all follow it (tests hold the latter two
to it).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from occ_perception.errors import OccError


class ParameterError(OccError):
    """A parameter has a value the node cannot work with; the text names it and says what fits."""


@dataclass(frozen=True)
class Declaration:
    """What ROS is told about one parameter.

    Attributes:
        name: the ROS name, with dots.
        default: its default; the Python type is the parameter's type.
        description: one sentence, units included.
        choices: the values a text may have; empty = any.
        minimum, maximum: limits of a number, both included.
        live: whether it may be changed while the node runs.
    """

    name: str
    default: Any
    description: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    live: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The declaration in ROS terms."""
        descriptor = ParameterDescriptor(
            name=self.name, description=self.description, read_only=not self.live
        )
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, int):
                limits = IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))
                descriptor.integer_range = [limits]
            else:
                bounds = FloatingPointRange(from_value=self.minimum, to_value=self.maximum)
                descriptor.floating_point_range = [bounds]
        return descriptor

    def problem(self, value: Any) -> str:
        """Why ``value`` cannot be taken, "" if it can."""
        if self.choices and value not in self.choices:
            return f"{self.name} must be one of {', '.join(self.choices)}, got {value!r}"
        if self.minimum is None or self.maximum is None:
            return ""
        if not math.isfinite(value) or not self.minimum <= value <= self.maximum:
            return f"{self.name} must lie in [{self.minimum}, {self.maximum}], got {value}"
        return ""


def _parameter(name: str, default: Any, description: str, **limits: Any) -> Any:
    """A field of the table; a list default becomes a tuple so that the table stays frozen."""
    held = tuple(default) if isinstance(default, list) else default
    declaration = Declaration(name, default, description, **limits)
    return field(default=held, metadata={"declaration": declaration})


@dataclass(frozen=True)
class NodeParameters:
    """The values the node runs with. Times are in the unit their name ends with."""

    model: str = _parameter(
        "model", "alocc_2d_mini", "Name of the network; `occ models list` prints them."
    )
    weights: str = _parameter(
        "weights", "", "Path of the checkpoint (.pth or .safetensors) of that network."
    )
    random_weights_seed: int = _parameter(
        "random_weights_seed",
        -1,
        "Run with random weights from this seed instead of a checkpoint, for tests of the data "
        "path; the output then means nothing. -1 = off.",
        minimum=-1,
        maximum=2**31 - 1,
    )
    device: str = _parameter(
        "device", "auto", "Where the network runs: auto (CUDA if present), cpu, cuda or cuda:N."
    )

    layout: str = _parameter(
        "layout",
        "",
        "Topic layout, shipped name or YAML path: topics, frames and pose source of a family of "
        'bags. "" = topics under ~/input (camera names in lower case), to be remapped.',
    )
    rig: str = _parameter(
        "rig",
        "",
        "Rig YAML with intrinsics and extrinsics of all cameras. "
        '"" = intrinsics from camera_info and extrinsics from tf.',
    )
    image_topics: tuple[str, ...] = _parameter(
        "image_topics",
        [""],
        "Image topics that differ from the layout, as CAMERA=topic; raw or compressed is found "
        "out from the publisher.",
    )
    camera_info_topics: tuple[str, ...] = _parameter(
        "camera_info_topics", [""], "camera_info topics that differ, as CAMERA=topic."
    )
    image_encoding: str = _parameter(
        "image_encoding",
        "",
        "Encoding to assume for raw images whatever their message says, e.g. bgr8 for drivers "
        'that send 8UC3. "" = believe the message (or the layout).',
    )
    stamp_source: str = _parameter(
        "stamp_source",
        "layout",
        "Time of an image: its header's, or when it was received (for bags with empty headers). "
        "layout = what the layout says, header without one.",
        choices=("layout", "header", "receive"),
    )
    qos_reliability: str = _parameter(
        "qos_reliability",
        "auto",
        "Reliability of the input subscriptions; auto follows the publishers: reliable if all of "
        "a topic are, else best effort.",
        choices=("auto", "reliable", "best_effort"),
    )
    reference_camera: str = _parameter(
        "reference_camera",
        "",
        "Camera whose stamp the grid is expressed at. "
        "\"\" = the layout's, the network's without one.",
    )

    pose_source: str = _parameter(
        "pose.source",
        "layout",
        "Ego pose from nav_msgs/Odometry or from tf. layout = what the layout says, odometry "
        "without one.",
        choices=("layout", "odometry", "tf"),
    )
    pose_topic: str = _parameter(
        "pose.topic", "", 'Odometry topic. "" = the layout\'s, ~/input/odometry without one.'
    )
    world_frame: str = _parameter(
        "pose.world_frame",
        "",
        'Fixed frame of the ego pose in tf. "" = the layout\'s, map without one.',
    )
    ego_frame: str = _parameter(
        "ego_frame",
        "",
        'Vehicle frame on the ground under the rear axle. "" = the layout\'s, base_link without '
        "one.",
    )
    lidar_frame: str = _parameter(
        "lidar_frame",
        "",
        "Frame of the lidar in tf; only read for models whose grid lies in it or that are given "
        "depth, where no rig file has the lidar's pose. \"\" = the layout's, lidar_top without "
        "one.",
    )
    lidar_topic: str = _parameter(
        "lidar.topic",
        "",
        "Topic of sensor_msgs/PointCloud2; only read for models that are given depth, which need "
        "it.",
    )
    lidar_tolerance_ms: float = _parameter(
        "lidar.tolerance_ms",
        200.0,
        "How far from a frame set's reference stamp its lidar sweep may lie; a lidar at 10 Hz that "
        "stamps the beginning of a rotation delivers it 100 ms later.",
        minimum=0.0,
        maximum=1000.0,
    )
    pose_extrapolation_ms: float = _parameter(
        "pose.max_extrapolation_ms",
        50.0,
        "How far beyond the known poses an image may lie.",
        minimum=0.0,
        maximum=1000.0,
    )
    pose_gap_ms: float = _parameter(
        "pose.max_gap_ms",
        750.0,
        "Longest gap between two poses that is interpolated over.",
        minimum=1.0,
        maximum=10000.0,
    )
    pose_wait_ms: float = _parameter(
        "pose.wait_ms",
        200.0,
        "How long a frame set waits for a pose newer than its images before the pose is "
        "extrapolated or the frame set is dropped.",
        minimum=0.0,
        maximum=5000.0,
        live=True,
    )

    sync_policy: str = _parameter(
        "sync.policy",
        "native",
        "How images become frame sets: native, or the ApproximateTimeSynchronizer of the "
        "message_filters package where that is installed.",
        choices=("native", "message_filters"),
    )
    sync_tolerance_ms: float = _parameter(
        "sync.tolerance_ms",
        0.0,
        "Largest spread of the stamps of one frame set. 0 = the layout's, 50 without one.",
        minimum=0.0,
        maximum=1000.0,
    )
    sync_deadline_ms: float = _parameter(
        "sync.deadline_ms",
        150.0,
        "How long, in ROS time, an incomplete frame set waits for its missing cameras.",
        minimum=1.0,
        maximum=10000.0,
    )
    missing_camera: str = _parameter(
        "missing_camera",
        "drop",
        "What becomes of a frame set with a missing camera: drop it, or reuse that camera's last "
        "image.",
        choices=("drop", "reuse_last"),
    )

    history_spacing_s: float = _parameter(
        "history_spacing_s",
        -1.0,
        "Time between the frames the network remembers; 0 = every frame. -1 = the spacing the "
        "network was trained at.",
        minimum=-1.0,
        maximum=10.0,
    )
    occupancy_encoding: str = _parameter(
        "occupancy_encoding",
        "rle",
        "Encoding of ~/occupancy: rle (about 50 kB), sparse (about 200 kB) or dense (640 kB).",
        choices=("rle", "sparse", "dense"),
        live=True,
    )
    flow_min_speed: float = _parameter(
        "flow_min_speed",
        0.2,
        "Voxels slower than this are left out of ~/flow, m/s.",
        minimum=0.0,
        maximum=100.0,
        live=True,
    )
    stale_after_s: float = _parameter(
        "stale_after_s",
        2.0,
        "An input without a message for this long is reported as stale.",
        minimum=0.1,
        maximum=60.0,
        live=True,
    )

    def __post_init__(self) -> None:
        parse_assignments("image_topics", self.image_topics)
        parse_assignments("camera_info_topics", self.camera_info_topics)


def declarations() -> tuple[Declaration, ...]:
    """The table, in its order."""
    return tuple(item.metadata["declaration"] for item in fields(NodeParameters))


def parse_assignments(name: str, entries: Iterable[str]) -> dict[str, str]:
    """``CAMERA=topic`` entries as a dict; empty entries are skipped.

    Raises:
        ParameterError: an entry has another form, or a camera occurs twice.
    """
    topics: dict[str, str] = {}
    for entry in filter(None, entries):
        camera, separator, topic = (part.strip() for part in entry.partition("="))
        if not (camera and separator and topic) or camera in topics:
            raise ParameterError(
                f"{name}: expected one CAMERA=topic per camera, e.g. "
                f"CAM_FRONT=/front/image_raw, got {entry!r}"
            )
        topics[camera] = topic
    return topics


class ParameterServer:
    """Declares the table on a node and keeps :attr:`values` in step with accepted changes.

    Raises:
        ParameterError: a start value has the wrong type or is out of its limits.
    """

    def __init__(self, node: Node) -> None:
        self._fields = {
            item.metadata["declaration"].name: (item.name, item.metadata["declaration"])
            for item in fields(NodeParameters)
        }
        self.unknown = unknown_parameters(node, self._fields)
        node.add_on_set_parameters_callback(self._check)
        start: dict[str, Any] = {}
        for name, (attribute, declaration) in self._fields.items():
            start[attribute] = _declare(node, name, declaration)
        self.values = NodeParameters(**start)
        node.add_post_set_parameters_callback(self._store)

    def _check(self, parameters: list[Parameter[Any]]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name in self._fields:
                problem = self._fields[parameter.name][1].problem(parameter.value)
                if problem:
                    return SetParametersResult(successful=False, reason=problem)
        return SetParametersResult(successful=True)

    def _store(self, parameters: list[Parameter[Any]]) -> None:
        changed = {
            self._fields[parameter.name][0]: parameter.value
            for parameter in parameters
            if parameter.name in self._fields
        }
        # One assignment of a frozen value: the worker thread reads either the old or the new.
        self.values = replace(self.values, **changed)


def unknown_parameters(node: Node, known: Iterable[str]) -> list[str]:
    """Parameters that the params file or the command line sets but nothing declares.

    ROS ignores them without a word, so a typing mistake looks like a setting that does nothing.
    Each entry is a sentence that names the nearest declared parameter.
    """
    names = list(known)
    sentences = []
    # rclpy keeps the overrides in this attribute only; it has no accessor for those undeclared.
    for override in sorted(node._parameter_overrides):
        if override in names or node.has_parameter(override) or override.startswith("qos_over"):
            continue
        near = difflib.get_close_matches(override, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "see config/occupancy_node.yaml"
        sentences.append(f"parameter {override} does not exist and has no effect; {hint}")
    return sentences


def _declare(node: Node, name: str, declaration: Declaration) -> Any:
    try:
        value = node.declare_parameter(name, declaration.default, declaration.descriptor()).value
    except InvalidParameterTypeException:
        got = node._parameter_overrides[name]
        raise ParameterError(
            f"{name} must be of type {_type_name(declaration.default)}, got "
            f"{got.type_.name.lower()} {got.value!r}"
            + ("; write it with a decimal point" if isinstance(declaration.default, float) else "")
        ) from None
    except InvalidParameterValueException as error:
        problem = declaration.problem(node._parameter_overrides[name].value)
        raise ParameterError(problem or str(error)) from None
    return tuple(value) if isinstance(value, list) else value


def _type_name(default: Any) -> str:
    if isinstance(default, list):
        return "string_array"
    return {str: "string", float: "double", int: "integer"}[type(default)]
