"""Topic layouts: the topics of the cameras, the source of the ego pose, the source of stamps.

A layout is a YAML file. Layouts of common converters are shipped beside this module; docs/bags.md
describes the keys. Topic names are matched without regard to case and leading slash, because
converters differ in both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, cast

from occ_perception.errors import OccError
from occ_perception.frames import CameraRig
from occ_perception.sensing.yaml_file import YamlError, YamlSection, read_yaml, shipped_names

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE_TYPE = "sensor_msgs/msg/CompressedImage"
CAMERA_INFO_TYPE = "sensor_msgs/msg/CameraInfo"
POINTS_TYPE = "sensor_msgs/msg/PointCloud2"
ODOMETRY_TYPE = "nav_msgs/msg/Odometry"
TF_TYPES = ("tf2_msgs/msg/TFMessage", "tf/msg/tfMessage")


class LayoutError(OccError):
    """A layout lacks the required cameras."""


@dataclass(frozen=True)
class CameraTopics:
    """The topics of one camera.

    Attributes:
        name: the camera's name in the model's vocabulary.
        image: topic of the images, raw or compressed. ``<image>/compressed`` is used if only
            that exists.
        camera_info: topic of the calibration; empty if there is none.
        frame_id: optical frame in tf; empty = from camera_info or the image's header.
        encoding: encoding of raw images; empty = from the message.
        rectified: whether images are rectified; None = from the topic's name, see
            :meth:`is_rectified`.
    """

    name: str
    image: str
    camera_info: str = ""
    frame_id: str = ""
    encoding: str = ""
    rectified: bool | None = None

    def is_rectified(self, topic: str = "") -> bool:
        """Whether the images are rectified, so that camera_info's P applies instead of K and D.

        Args:
            topic: topic of the images after remapping; "" = :attr:`image`.
        """
        if self.rectified is not None:
            return self.rectified
        # image_proc names rectified images image_rect and image_rect_color.
        return "/image_rect" in (topic or self.image)


@dataclass(frozen=True)
class PoseSource:
    """The source of the ego pose.

    Attributes:
        kind: ``odometry`` for nav_msgs/Odometry, ``tf`` for the chain world to ego in tf.
        topic: the topic; static transforms are always read from ``tf_static``.
        world_frame: the fixed frame of the poses.
        ego_frame: the vehicle frame, on the ground under the rear axle.
    """

    kind: Literal["odometry", "tf"]
    topic: str
    world_frame: str
    ego_frame: str


@dataclass(frozen=True)
class TopicLayout:
    """The mapping from the topics of a recording or a vehicle to cameras and pose.

    Attributes:
        name: file name without suffix.
        description: one line on the recordings that have this layout.
        cameras: the cameras of a frame set.
        pose: source of the ego pose.
        stamp_source: ``header`` = stamps from image headers, ``receive`` = reception times.
        reference_camera: camera whose stamp the output refers to.
        rig: rig (name or path) for cameras without camera_info; None if all have one.
        sync_tolerance_ms: largest spread of a frame set; None to observe it, see
            :func:`~.camera_timing.observed_tolerance`.
        lidar_frame: frame of the lidar in tf, for models whose grid lies in it.
        model_cameras: camera name in a model -> camera name in this layout and its rig files, for
            the cameras where the two differ.
    """

    name: str
    cameras: tuple[CameraTopics, ...]
    pose: PoseSource
    reference_camera: str
    description: str = ""
    stamp_source: Literal["header", "receive"] = "header"
    rig: str | None = None
    sync_tolerance_ms: float | None = None
    lidar_frame: str = "lidar_top"
    model_cameras: Mapping[str, str] = field(default_factory=dict)

    @property
    def camera_names(self) -> tuple[str, ...]:
        """Names of the cameras, in the layout's order."""
        return tuple(camera.name for camera in self.cameras)

    def for_model(self, names: Sequence[str]) -> TopicLayout:
        """The layout with the cameras of a model, under the model's names.

        Cameras that the model does not use are left out. Cameras of the model that the layout
        lacks are absent from the result.

        Raises:
            LayoutError: the layout has none of the cameras, or ``model_cameras`` maps two of them
                to the same images.
        """
        own = {camera.name: camera for camera in self.cameras}
        own_names = {name: self.model_cameras.get(name, name) for name in names}
        cameras = tuple(replace(own[n], name=name) for name, n in own_names.items() if n in own)
        if not cameras:
            raise LayoutError(
                f"layout {self.name} has none of the model's cameras {', '.join(names)}; it has "
                f"{', '.join(own)}. Map the names in its model_cameras"
            )
        used = [own_names[camera.name] for camera in cameras]
        if len(set(used)) < len(used):
            raise LayoutError(
                f"model_cameras of layout {self.name} gives two of the model's cameras the same "
                f"images: {', '.join(f'{c.name}: {own_names[c.name]}' for c in cameras)}"
            )
        reference = next(
            (name for name, n in own_names.items() if n == self.reference_camera), None
        )
        return replace(
            self,
            cameras=cameras,
            # If the model does not use the layout's reference camera, its first camera takes over.
            reference_camera=reference or cameras[0].name,
            model_cameras={name: n for name, n in own_names.items() if n in own},
        )

    def only(self, names: Collection[str]) -> TopicLayout:
        """The layout with the named cameras only.

        Raises:
            LayoutError: the reference camera is not among them.
        """
        cameras = tuple(camera for camera in self.cameras if camera.name in names)
        if self.reference_camera not in names:
            raise LayoutError(
                f"the reference camera {self.reference_camera} is not among "
                f"{', '.join(names) or 'the cameras, of which there are none'}"
            )
        return replace(self, cameras=cameras)

    def under_model_names(self, rig: CameraRig) -> CameraRig:
        """A rig with its cameras under the model's names; see :meth:`for_model`."""
        return rig.renamed({own: name for name, own in self.model_cameras.items()})


@dataclass(frozen=True)
class LayoutMatch:
    """How well a layout fits a set of topics.

    Attributes:
        layout: the layout, with the actual topic names.
        problems: one sentence for each topic that does not fit; empty if the layout fits.
        found: fraction of its topics that were found, 0 to 1.
    """

    layout: TopicLayout
    problems: tuple[str, ...]
    found: float

    @property
    def fits(self) -> bool:
        """Whether the node could run on these topics."""
        return not self.problems


def layout_names() -> tuple[str, ...]:
    """Names of the shipped layouts."""
    return shipped_names(__name__)


def load_layout(name_or_path: str | Path) -> TopicLayout:
    """Read a shipped layout by name or any layout file by path.

    Raises:
        YamlError: missing file, missing, unknown or wrong key.
    """
    top = read_yaml(name_or_path, __name__, "topic layout")
    top.allow(
        "description",
        "cameras",
        "pose",
        "reference_camera",
        "stamp_source",
        "rig",
        "sync_tolerance_ms",
        "lidar_frame",
        "model_cameras",
    )
    pose = top.section("pose")
    pose.allow("kind", "topic", "world_frame", "ego_frame")
    cameras = tuple(_camera(name, section) for name, section in top.section("cameras").sections())
    layout = TopicLayout(
        name=Path(name_or_path).stem,
        description=top.text("description", ""),
        cameras=cameras,
        pose=PoseSource(
            kind=cast(Literal["odometry", "tf"], pose.choice("kind", ("odometry", "tf"))),
            topic=pose.text("topic"),
            world_frame=pose.text("world_frame"),
            ego_frame=pose.text("ego_frame", "base_link"),
        ),
        reference_camera=top.text("reference_camera"),
        stamp_source=cast(
            Literal["header", "receive"],
            top.choice("stamp_source", ("header", "receive"), "header"),
        ),
        rig=_rig_reference(name_or_path, top.text("rig", "")),
        sync_tolerance_ms=(top.number("sync_tolerance_ms") if "sync_tolerance_ms" in top else None),
        lidar_frame=top.text("lidar_frame", "lidar_top"),
        model_cameras=_model_cameras(top, {camera.name for camera in cameras}),
    )
    if layout.reference_camera not in layout.camera_names:
        raise YamlError(
            f"{top.source}: reference_camera must be one of {', '.join(layout.camera_names)}, "
            f"got {layout.reference_camera!r}"
        )
    return layout


def match_layout(layout: TopicLayout, topics: Mapping[str, str]) -> LayoutMatch:
    """Look up a layout's topics among existing ones.

    Args:
        layout: the layout.
        topics: topic name -> message type, e.g. ``sensor_msgs/msg/Image``; the ROS 1 spelling
            without ``/msg/`` is accepted too.
    """
    search = _TopicSearch(topics)
    cameras = []
    for camera in layout.cameras:
        image = search.first(
            f"camera {camera.name}: images",
            (IMAGE_TYPE, COMPRESSED_IMAGE_TYPE),
            camera.image,
            f"{camera.image}/compressed",
            camera.image.removesuffix("/compressed"),
        )
        info = ""
        if camera.camera_info:
            what = f"camera {camera.name}: calibration"
            required = layout.rig is None
            info = search.first(what, (CAMERA_INFO_TYPE,), camera.camera_info, required=required)
        cameras.append(replace(camera, image=image or camera.image, camera_info=info))
    pose_types = TF_TYPES if layout.pose.kind == "tf" else (ODOMETRY_TYPE,)
    pose = search.first("ego pose", pose_types, layout.pose.topic)
    resolved = replace(
        layout,
        cameras=tuple(cameras),
        pose=replace(layout.pose, topic=pose or layout.pose.topic),
    )
    return LayoutMatch(resolved, tuple(search.problems), search.hits / search.lookups)


def recognise_layouts(topics: Mapping[str, str]) -> list[LayoutMatch]:
    """All shipped layouts, best match first, each with its problems.

    Layouts that differ only in their stamp source fit the same topics. The messages decide: images
    with stamp 0 need ``stamp_source: receive``.
    """
    matches = [match_layout(load_layout(name), topics) for name in layout_names()]
    return sorted(matches, key=lambda match: (not match.fits, -match.found))


class LidarTopicError(OccError):
    """The topic of the lidar points is missing or ambiguous; the text lists the candidates."""


def lidar_topic(topics: Mapping[str, str], wanted: str | None = None) -> str:
    """The topic of point clouds: ``wanted``, or the only one, or the one named lidar.

    Args:
        topics: topic name -> message type.
        wanted: name of the topic; None to find it.

    Raises:
        LidarTopicError: the topic does not exist, or there are several candidates.
    """
    clouds = sorted(name for name, kind in topics.items() if kind == POINTS_TYPE)
    if not clouds:
        raise LidarTopicError(f"there is no topic of type {POINTS_TYPE}")
    likely = [name for name in clouds if "lidar" in name.lower()] if len(clouds) > 1 else clouds
    if wanted is not None:
        likely = [name for name in clouds if name == wanted]
    if len(likely) != 1:
        fault = "there are several topics" if wanted is None else f"{wanted} is not a topic"
        raise LidarTopicError(
            f"{fault} of type {POINTS_TYPE}; choose one of {', '.join(clouds)} (--lidar-topic)"
        )
    return likely[0]


def _model_cameras(top: YamlSection, own: Collection[str]) -> dict[str, str]:
    if "model_cameras" not in top:
        return {}
    section = top.section("model_cameras")
    mapping = {name: section.text(name) for name in section}
    for name, camera in mapping.items():
        if camera not in own:
            raise YamlError(
                f"{top.source}: model_cameras.{name} must be one of the layout's cameras "
                f"{', '.join(sorted(own))}, got {camera!r}"
            )
    return mapping


class _TopicSearch:
    """Finds topics without regard to case and leading slash, and collects problems."""

    def __init__(self, topics: Mapping[str, str]) -> None:
        self._topics = {_plain(name): (name, kind) for name, kind in topics.items()}
        self.problems: list[str] = []
        self.hits = 0
        self.lookups = 0

    def first(
        self, what: str, types: tuple[str, ...], *candidates: str, required: bool = True
    ) -> str:
        """The actual name of the first candidate that exists with a matching type, or ''."""
        self.lookups += 1
        wrong_type = ""
        for candidate in candidates:
            name, kind = self._topics.get(_plain(candidate), ("", ""))
            if name and _ros2_type(kind) in types:
                self.hits += 1
                return name
            if name:
                wrong_type = f"; {name} is {kind}, expected {' or '.join(types)}"
        if required:
            self.problems.append(f"{what}: no topic {candidates[0]}{wrong_type}")
        return ""


def _rig_reference(layout: str | Path, rig: str) -> str | None:
    """The path of a rig file, relative to the layout file that refers to it, or a rig name."""
    beside = Path(layout).expanduser().parent / rig
    return str(beside) if rig and beside.is_file() else rig or None


def _plain(topic: str) -> str:
    return topic.strip("/").lower()


def _ros2_type(kind: str) -> str:
    package, _, name = kind.rpartition("/")
    return kind if package.endswith("/msg") else f"{package}/msg/{name}"


def _camera(name: str, section: YamlSection) -> CameraTopics:
    section.allow("image", "camera_info", "frame_id", "encoding", "rectified")
    return CameraTopics(
        name=name,
        image=section.text("image"),
        camera_info=section.text("camera_info", ""),
        frame_id=section.text("frame_id", ""),
        encoding=section.text("encoding", ""),
        rectified=section.flag("rectified"),
    )
