"""Every parameter of the node, declared once: type, default, meaning, limits.

:class:`NodeParameters` is the table. The declaration to ROS and the validation are generated from
it. Tests check config/occupancy_node.yaml and the list in docs/node.md against it.
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
from occ_perception.runtime.execution import MODES, PRECISIONS
from occ_perception.runtime.self_check import AUTO


class ParameterError(OccError):
    """A parameter has an invalid value; the message names it and the accepted values."""


@dataclass(frozen=True)
class Declaration:
    """The declaration of one parameter to ROS.

    Attributes:
        name: the ROS name, with dots.
        default: its default; the Python type is the parameter's type.
        description: one to three sentences, units included.
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
        """The declaration as a ROS descriptor."""
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
        """Why ``value`` is invalid; "" if it is valid."""
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
        "model", "alocc_2d_mini", "Name of the network; `occ models list` prints the names."
    )
    weights: str = _parameter(
        "weights",
        "",
        "Path of that network's checkpoint (.pth or .safetensors). "
        '"" = the one that `occ weights fetch` has stored.',
    )
    random_weights_seed: int = _parameter(
        "random_weights_seed",
        -1,
        "Seed of random weights, used instead of a checkpoint to test the data path; the output "
        "is then meaningless. -1 = off.",
        minimum=-1,
        maximum=2**31 - 1,
    )
    device: str = _parameter(
        "device",
        "auto",
        "Device of the network: auto (CUDA if available, otherwise CPU), cpu, cuda or cuda:N.",
    )
    precision: str = _parameter(
        "precision",
        "auto",
        "Number format of the network. auto = the fastest one whose grids agree with those of fp32 "
        "on this device.",
        choices=(AUTO, *PRECISIONS),
    )
    execution: str = _parameter(
        "execution",
        "auto",
        "How the network is launched: operation by operation (eager), as one CUDA graph, compiled "
        "by torch, which takes minutes, or by the readable operations alone. auto = a graph where "
        "it works.",
        choices=(AUTO, *MODES),
    )

    autostart: bool = _parameter(
        "autostart",
        True,
        "Whether the node configures and activates itself at its start. false = a lifecycle "
        "manager does.",
    )

    layout: str = _parameter(
        "layout",
        "",
        "Topic layout, as a shipped name or the path of a YAML file: topics, frames and pose "
        'source. "" = topics under ~/input (camera names in lower case), to be remapped.',
    )
    rig: str = _parameter(
        "rig",
        "",
        "Rig file with the intrinsics and extrinsics of all cameras, as a shipped name or the path "
        "of a YAML file; or a folder of camera_calibration files, with extrinsics from tf. "
        '"" = intrinsics from camera_info, extrinsics from tf.',
    )
    image_topics: tuple[str, ...] = _parameter(
        "image_topics",
        [""],
        "Image topics that differ from the layout, each as CAMERA=topic. Raw or compressed is "
        "detected from the publisher.",
    )
    camera_info_topics: tuple[str, ...] = _parameter(
        "camera_info_topics",
        [""],
        "camera_info topics that differ from the layout, each as CAMERA=topic.",
    )
    image_encoding: str = _parameter(
        "image_encoding",
        "",
        "Encoding to assume for raw images, whatever their messages state; e.g. bgr8 for drivers "
        'that send 8UC3. "" = the encoding in the layout, otherwise the one in the message.',
    )
    stamp_source: str = _parameter(
        "stamp_source",
        "layout",
        "Stamp of an image: the stamp in its header, or the time it was received (for bags with "
        "empty headers). layout = as in the layout, header without a layout.",
        choices=("layout", "header", "receive"),
    )
    qos_reliability: str = _parameter(
        "qos_reliability",
        "auto",
        "Reliability of the input subscriptions. auto follows the publishers: reliable if all "
        "publishers of a topic are reliable, otherwise best effort.",
        choices=("auto", "reliable", "best_effort"),
    )
    reference_camera: str = _parameter(
        "reference_camera",
        "",
        "Camera whose stamp is the time of the grid. "
        '"" = as in the layout; without a layout, as in the network.',
    )

    pose_source: str = _parameter(
        "pose.source",
        "layout",
        "Source of the ego pose: nav_msgs/Odometry or tf. layout = as in the layout, odometry "
        "without a layout.",
        choices=("layout", "odometry", "tf"),
    )
    pose_topic: str = _parameter(
        "pose.topic",
        "",
        'Topic of the ego pose. "" = as in the layout; without a layout, or where pose.source '
        "differs from it, ~/input/odometry or /tf.",
    )
    world_frame: str = _parameter(
        "pose.world_frame",
        "",
        'Fixed frame of the ego pose in tf, and of ~/map_points. "" = as in the layout, map '
        "without a layout.",
    )
    ego_frame: str = _parameter(
        "ego_frame",
        "",
        'Vehicle frame, on the ground under the rear axle. "" = as in the layout, base_link '
        "without a layout.",
    )
    lidar_frame: str = _parameter(
        "lidar_frame",
        "",
        "Frame of the lidar in tf. Read only for models whose grid lies in that frame or that take "
        "lidar depth, and only if the rig file has no lidar pose. "
        '"" = as in the layout, lidar_top without a layout.',
    )
    lidar_topic: str = _parameter(
        "lidar.topic",
        "",
        "Topic of sensor_msgs/PointCloud2. Read only for models that take lidar depth, which "
        "require it.",
    )
    lidar_tolerance_ms: float = _parameter(
        "lidar.tolerance_ms",
        200.0,
        "Largest time difference between a lidar sweep and the reference stamp of its frame set. "
        "A 10 Hz lidar that stamps the start of a rotation delivers the sweep 100 ms later.",
        minimum=0.0,
        maximum=1000.0,
    )
    pose_extrapolation_ms: float = _parameter(
        "pose.max_extrapolation_ms",
        50.0,
        "Longest extrapolation of the ego pose beyond the known poses.",
        minimum=0.0,
        maximum=1000.0,
    )
    pose_gap_ms: float = _parameter(
        "pose.max_gap_ms",
        750.0,
        "Longest gap between two poses that is interpolated across.",
        minimum=1.0,
        maximum=10000.0,
    )
    pose_wait_ms: float = _parameter(
        "pose.wait_ms",
        200.0,
        "How long, in ROS time, a frame set waits for a pose at or after its newest image. Then "
        "the pose is extrapolated or the frame set is dropped.",
        minimum=0.0,
        maximum=5000.0,
        live=True,
    )

    sync_policy: str = _parameter(
        "sync.policy",
        "native",
        "How images are grouped into frame sets: native, or ApproximateTimeSynchronizer of the "
        "message_filters package, where that is installed.",
        choices=("native", "message_filters"),
    )
    sync_tolerance_ms: float = _parameter(
        "sync.tolerance_ms",
        0.0,
        "Largest spread of a frame set, newest minus oldest stamp. 0 = as in the layout; if that "
        "has none, observed: halfway between the spread of one trigger and that of two mixed.",
        minimum=0.0,
        maximum=1000.0,
    )
    sync_deadline_ms: float = _parameter(
        "sync.deadline_ms",
        150.0,
        "How long, in ROS time, a frame set waits for missing cameras after its reference image "
        "arrived.",
        minimum=1.0,
        maximum=10000.0,
    )
    missing_camera: str = _parameter(
        "missing_camera",
        "drop",
        "What to do with a frame set that lacks a camera: drop it, or reuse the last image of that "
        "camera. mask = drop it, and leave out a camera that stays silent, see mask_after_s.",
        choices=("drop", "reuse_last", "mask"),
    )
    mask_after_s: float = _parameter(
        "mask_after_s",
        0.5,
        "With missing_camera: mask, how far the stamps of another camera go on, and at least three "
        "periods of the silent one, before the network does without it. It comes back with its "
        "next image.",
        minimum=0.05,
        maximum=60.0,
    )

    history_spacing_s: float = _parameter(
        "history_spacing_s",
        -1.0,
        "Time between frames that enter the history of the network. 0 = every frame, -1 = the "
        "spacing used in training.",
        minimum=-1.0,
        maximum=10.0,
    )
    history_gap_s: float = _parameter(
        "history.max_gap_s",
        0.0,
        "Longest time without a frame that enters the history; a longer one clears it. 0 = three "
        "times the spacing, at least 1.5 s.",
        minimum=0.0,
        maximum=600.0,
    )
    history_speed_mps: float = _parameter(
        "history.max_speed_mps",
        70.0,
        "Fastest motion of the ego pose between two frames, m/s, plus 1 m; a faster one is a jump "
        "and clears the history.",
        minimum=0.1,
        maximum=1000.0,
    )
    history_turn_rate_dps: float = _parameter(
        "history.max_turn_rate_dps",
        120.0,
        "Fastest turn of the ego pose between two frames, degrees per second, plus 5 degrees; a "
        "faster one is a jump and clears the history.",
        minimum=1.0,
        maximum=3600.0,
    )
    occupancy_encoding: str = _parameter(
        "occupancy_encoding",
        "rle",
        "Encoding of ~/occupancy: rle, sparse or dense; about 50, 200 and 640 kB for a grid of "
        "200x200x16 voxels.",
        choices=("rle", "sparse", "dense"),
        live=True,
    )
    flow_min_speed: float = _parameter(
        "flow_min_speed",
        0.2,
        "Lowest speed in ~/flow, m/s; slower voxels are left out.",
        minimum=0.0,
        maximum=100.0,
        live=True,
    )
    observed_memory_s: float = _parameter(
        "observed.memory_s",
        8.0,
        "How long a voxel that a camera has seen counts as observed. 0 = only what is seen now, "
        "-1 = observed space is not computed, and no column of ~/costmap is unknown.",
        minimum=-1.0,
        maximum=600.0,
    )
    costs: str = _parameter(
        "costs",
        "",
        "YAML file with the cost of every class and the band of heights of ~/costmap and "
        '~/obstacle_points. "" = the costs of this package.',
    )
    footprint_front: float = _parameter(
        "footprint.front_m",
        3.7,
        "Distance from the origin of the ego frame to the front of the vehicle, for the time to "
        "collision.",
        minimum=0.1,
        maximum=30.0,
    )
    footprint_rear: float = _parameter(
        "footprint.rear_m",
        1.0,
        "Distance from the origin of the ego frame to the rear of the vehicle.",
        minimum=0.1,
        maximum=30.0,
    )
    footprint_side: float = _parameter(
        "footprint.side_m",
        1.0,
        "Distance from the origin of the ego frame to the left and to the right side.",
        minimum=0.1,
        maximum=10.0,
    )
    collision_horizon_s: float = _parameter(
        "collision.horizon_s",
        8.0,
        "How far ahead the time to collision looks. 0 = it is not computed.",
        minimum=0.0,
        maximum=60.0,
    )
    map_period_s: float = _parameter(
        "map.period_s",
        0.0,
        "Stream time between two maps of the drive on ~/map_points. 0 = no map is made. A map "
        "takes about 0.8 kB per square metre that was seen, until the node is deactivated.",
        minimum=0.0,
        maximum=3600.0,
    )
    stale_after_s: float = _parameter(
        "stale_after_s",
        2.0,
        "Time without a message after which the diagnostics report an input as silent.",
        minimum=0.1,
        maximum=60.0,
        live=True,
    )
    stalled_after_s: float = _parameter(
        "stalled_after_s",
        10.0,
        "Time after which the diagnostics report a frame set that the network has not finished as "
        "a stall of the device.",
        minimum=0.1,
        maximum=3600.0,
        live=True,
    )

    def __post_init__(self) -> None:
        parse_assignments("image_topics", self.image_topics)
        parse_assignments("camera_info_topics", self.camera_info_topics)
        if self.missing_camera == "mask" and self.sync_policy != "native":
            raise ParameterError(
                f"missing_camera: mask needs sync.policy: native, got {self.sync_policy}, which "
                "delivers no frame set that lacks a camera"
            )


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
    """Declares the parameters on a node and updates :attr:`values` after accepted changes.

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

    ROS ignores them silently, so that a mistyped name would have no effect and no warning. Each
    entry is a sentence that names the nearest declared parameter.
    """
    names = list(known)
    sentences = []
    # rclpy has no accessor for undeclared overrides; this attribute holds them.
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
    return {str: "string", float: "double", int: "integer", bool: "bool"}[type(default)]
