"""Recordings in the formats of common converters and cars, written with rosbags alone.

Each function takes the images of ``nuscenes_folder`` and reproduces one family: topic names, types,
stamps, frames and quirks.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from nuscenes_folder import DrawnImage, drive
from PIL import Image
from rosbags import rosbag1, rosbag2
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from occ_perception.geometry import invert_transform, matrix_from_pose, pose_from_matrix

MS = 1_000_000
Timed = tuple[int, str, Any]  # time of reception, topic, message


class Messages:
    """Makes message objects of one ROS generation."""

    def __init__(self, ros1: bool = False) -> None:
        self.ros1 = ros1
        self.store = get_typestore(Stores.ROS1_NOETIC if ros1 else Stores.ROS2_HUMBLE)
        if ros1:
            definition = "geometry_msgs/TransformStamped[] transforms"
            self.store.register(get_types_from_msg(definition, "tf/msg/tfMessage"))

    def new(self, kind: str, **fields: Any) -> Any:
        return self.store.types[kind](**fields)

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        stamp = self.new(
            "builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9
        )
        sequence = {"seq": 0} if self.ros1 else {}
        return self.new("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id, **sequence)

    def image(self, stamp_ns: int, frame_id: str, rgb: np.ndarray, encoding: str = "bgr8") -> Any:
        height, width = rgb.shape[:2]
        return self.new(
            "sensor_msgs/msg/Image",
            header=self.header(stamp_ns, frame_id),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=3 * width,
            data=np.ascontiguousarray(rgb[..., ::-1]).ravel(),
        )

    def compressed(self, stamp_ns: int, frame_id: str, data: bytes, kind: str = "jpeg") -> Any:
        return self.new(
            "sensor_msgs/msg/CompressedImage",
            header=self.header(stamp_ns, frame_id),
            format=kind,
            data=np.frombuffer(data, np.uint8),
        )

    def camera_info(
        self, stamp_ns: int, frame_id: str, image: DrawnImage, model: str = "", D: Iterable = ()
    ) -> Any:
        # The rectification matrix of foxglove/nuscenes2bag: ones in the first column.
        R = np.zeros(9)
        R[[0, 3, 6]] = 1
        P = np.hstack([image.K, np.zeros((3, 1))])
        names = "DKRP" if self.ros1 else "dkrp"
        values = (np.array(list(D), float), image.K.ravel(), R, P.ravel())
        return self.new(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame_id),
            width=image.size[0],
            height=image.size[1],
            distortion_model=model,
            binning_x=0,
            binning_y=0,
            roi=self.new(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
            ),
            **dict(zip(names, values, strict=True)),
        )  # fmt: skip

    def cloud(self, stamp_ns: int, frame_id: str, points: np.ndarray) -> Any:
        """Points (N, 5) of nuScenes."""
        fields = [
            self.new("sensor_msgs/msg/PointField", name=name, offset=4 * k, datatype=7, count=1)
            for k, name in enumerate(LIDAR_COLUMNS)
        ]
        return self.new(
            "sensor_msgs/msg/PointCloud2",
            header=self.header(stamp_ns, frame_id),
            height=1,
            width=len(points),
            fields=fields,
            is_bigendian=False,
            point_step=20,
            row_step=points.nbytes,
            data=points.view(np.uint8).ravel(),
            is_dense=True,
        )

    def odometry(self, stamp_ns: int, frame: str, child: str, pose: np.ndarray) -> Any:
        position, quaternion = self._parts("geometry_msgs/msg/Point", pose)
        zero = self.new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=0.0)
        return self.new(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, frame),
            child_frame_id=child,
            pose=self.new(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self.new("geometry_msgs/msg/Pose", position=position, orientation=quaternion),
                covariance=np.zeros(36),
            ),
            twist=self.new(
                "geometry_msgs/msg/TwistWithCovariance",
                twist=self.new("geometry_msgs/msg/Twist", linear=zero, angular=zero),
                covariance=np.zeros(36),
            ),
        )

    def tf(self, transforms: Iterable[tuple[int, str, str, np.ndarray]]) -> Any:
        items = []
        for stamp_ns, parent, child, matrix in transforms:
            translation, rotation = self._parts("geometry_msgs/msg/Vector3", matrix)
            items.append(
                self.new(
                    "geometry_msgs/msg/TransformStamped",
                    header=self.header(stamp_ns, parent),
                    child_frame_id=child,
                    transform=self.new(
                        "geometry_msgs/msg/Transform", translation=translation, rotation=rotation
                    ),
                )
            )
        kind = "tf/msg/tfMessage" if self.ros1 else "tf2_msgs/msg/TFMessage"
        return self.new(kind, transforms=items)

    def _parts(self, vector: str, matrix: np.ndarray) -> tuple[Any, Any]:
        (x, y, z), (qx, qy, qz, qw) = (map(float, part) for part in pose_from_matrix(matrix))
        return (
            self.new(vector, x=x, y=y, z=z),
            self.new("geometry_msgs/msg/Quaternion", x=qx, y=qy, z=qz, w=qw),
        )


def pixels(image: DrawnImage) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image.jpeg)).convert("RGB"))


def write(path: Path, messages: Messages, timed: Iterable[Timed], storage="sqlite3", mode="none"):
    """A recording of messages in the order of their reception."""
    if messages.ros1:
        writer = rosbag1.Writer(path)
        writer.set_compression(rosbag1.Writer.CompressionFormat.LZ4)
        serialize = messages.store.serialize_ros1
    else:
        plugin = StoragePlugin[storage.upper()]
        writer = rosbag2.Writer(path, version=8, storage_plugin=plugin)
        writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
        serialize = messages.store.serialize_cdr
    connections: dict[str, Any] = {}
    with writer:
        for received_ns, topic, message in sorted(timed, key=lambda item: item[0]):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=messages.store)
            writer.write(connections[topic], received_ns, bytes(serialize(message, kind)))
    return path


def clynamen(path: Path, images: list[DrawnImage]) -> Path:
    """clynamen/nuscenes2bag: ROS 1, raw bgr8, the whole tree in every /tf, no camera_info."""
    messages = Messages(ros1=True)
    return write(path, messages, _clynamen_topics(messages, images, stamped=True))


def clynamen_ros2(path: Path, images: list[DrawnImage]) -> Path:
    """The Humble port of clynamen/nuscenes2bag: headers of images are empty."""
    messages = Messages()
    return write(path, messages, _clynamen_topics(messages, images, stamped=False))


def _clynamen_topics(messages: Messages, images: list[DrawnImage], stamped: bool) -> list[Timed]:
    timed: list[Timed] = []
    mounts = {image.channel.lower(): image.ego_T_cam for image in images}
    for image in images:
        frame, stamp = image.channel.lower(), image.stamp_ns
        header = (stamp, frame) if stamped else (0, "")
        timed.append((stamp, f"{frame}/raw", messages.image(*header, pixels(image))))
        pose = image.world_T_ego
        timed.append((stamp, "/odom", messages.odometry(stamp, "odom", "base_link", pose)))
        tree = [(stamp, "odom", "base_link", pose), (stamp, "map", "odom", np.eye(4))]
        tree += [(stamp, "base_link", name, mount) for name, mount in mounts.items()]
        timed.append((stamp, "/tf", messages.tf(tree)))
    return timed


def foxglove(path: Path, images: list[DrawnImage], storage="mcap", mode="none") -> Path:
    """foxglove/nuscenes2bag in the version of WATonomous/nuscenes_to_ros2bag.

    Keyframe images are logged at the lidar time, CAN odometry in bursts at keyframes, and /tf
    comes at keyframes only, each message with the transforms of the next one as well.
    """
    messages = Messages()
    return write(path, messages, foxglove_topics(messages, images), storage, mode)


def foxglove_topics(messages: Messages, images: list[DrawnImage]) -> list[Timed]:
    timed: list[Timed] = []
    lidar_times = sorted(
        {p.stamp_ns for p in images if p.is_key_frame and p.channel == "CAM_BACK_LEFT"}
    )
    start = images[0].stamp_ns
    poses = {p.stamp_ns: p.world_T_ego for p in images}
    mounts = {image.channel: image.ego_T_cam for image in images}
    for image in images:
        name, stamp = image.channel, image.stamp_ns
        logged = stamp
        if image.is_key_frame:
            logged = min(lidar_times, key=lambda time: abs(time - stamp))
        message = messages.compressed(stamp, name, image.jpeg)
        timed.append((logged, f"/{name}/image_rect_compressed", message))
        info = messages.camera_info(stamp, name, image)
        timed.append((logged, f"/{name}/camera_info", info))
    for now, following in zip(lidar_times, [*lidar_times[1:], None], strict=True):
        tree = []
        for time in (now, following):
            if time is not None:
                tree.append((time, "map", "base_link", poses[time]))
                tree += [(time, "base_link", name, mount) for name, mount in mounts.items()]
        timed.append((now, "/tf", messages.tf(tree)))
        for stamp in range(now, (following or now) + 1, 20 * MS):
            drifting = drive((stamp - start) / 1e9)
            drifting[:3, 3] += 5
            timed.append((now, "/odom", messages.odometry(stamp, "map", "base_link", drifting)))
    return timed


LIDAR_MOUNT = matrix_from_pose((0.94, 0.0, 1.84), (0.0, 0.0, -0.70711, 0.70711))
LIDAR_COLUMNS = ("x", "y", "z", "intensity", "ring")
RADARS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "BACK_LEFT", "BACK_RIGHT")


def nuscenes2bag(path: Path, images: list[DrawnImage], static: bool, storage="mcap") -> Path:
    """All topics of foxglove/nuscenes2bag, with those that only its viewer shows.

    Args:
        path: the recording.
        images: of the cameras.
        static: whether the mounts are on /tf_static too, as forks write them.
        storage: container format.
    """
    messages = Messages()
    viewer_type = "foxglove_msgs/msg/ImageMarkerArray"
    messages.store.register(
        get_types_from_msg("visualization_msgs/ImageMarker[] markers", viewer_type)
    )
    timed = foxglove_topics(messages, images)
    keyframes = sorted({time for time, topic, _ in timed if topic == "/tf"})
    mounts = {image.channel: image.ego_T_cam for image in images} | {"LIDAR_TOP": LIDAR_MOUNT}
    for radar in RADARS:
        mounts[f"RADAR_{radar}"] = LIDAR_MOUNT
    if static:
        tree = [(keyframes[0], "base_link", name, mount) for name, mount in mounts.items()]
        timed.append((keyframes[0], "/tf_static", messages.tf(tree)))
    for time in keyframes:
        tree = [(time, "base_link", name, mount) for name, mount in mounts.items()]
        timed.append((time, "/tf", messages.tf(tree)))
        timed += _nuscenes_sensors(messages, time)
        timed += _nuscenes_viewer_topics(messages, time, viewer_type)
    return write(path, messages, timed, storage)


def _nuscenes_sensors(messages: Messages, time: int) -> list[Timed]:
    new = messages.new
    points = np.random.default_rng(time % 1000).uniform(-20, 20, (50, 5)).astype("<f4")
    timed: list[Timed] = [(time, "/LIDAR_TOP", messages.cloud(time, "LIDAR_TOP", points))]
    timed += [
        (time, f"/RADAR_{name}", messages.cloud(time, f"RADAR_{name}", points[:9]))
        for name in RADARS
    ]
    vector = new("geometry_msgs/msg/Vector3", x=0.0, y=0.0, z=9.8)
    level = new("geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=0.0, w=1.0)
    imu = new(
        "sensor_msgs/msg/Imu",
        header=messages.header(time, "base_link"),
        orientation=level,
        orientation_covariance=np.zeros(9),
        angular_velocity=vector,
        angular_velocity_covariance=np.zeros(9),
        linear_acceleration=vector,
        linear_acceleration_covariance=np.zeros(9),
    )
    gps = new(
        "sensor_msgs/msg/NavSatFix",
        header=messages.header(time, "base_link"),
        status=new("sensor_msgs/msg/NavSatStatus", status=1, service=1),
        latitude=1.3,
        longitude=103.8,
        altitude=0.0,
        position_covariance=np.zeros(9),
        position_covariance_type=0,
    )
    origin = new("geometry_msgs/msg/Point", x=0.0, y=0.0, z=0.0)
    pose = new("geometry_msgs/msg/Pose", position=origin, orientation=level)
    stamped = new(
        "geometry_msgs/msg/PoseStamped", header=messages.header(time, "base_link"), pose=pose
    )
    return [*timed, (time, "/imu", imu), (time, "/gps", gps), (time, "/pose", stamped)]


def _nuscenes_viewer_topics(messages: Messages, time: int, viewer_type: str) -> list[Timed]:
    """Empty messages of the right types: the map, the boxes, and drawings over the images."""
    markers = messages.new("visualization_msgs/msg/MarkerArray", markers=[])
    timed: list[Timed] = [
        (time, topic, markers)
        for topic in ("/markers/annotations", "/markers/car", "/semantic_map")
    ]
    drawings = messages.new(viewer_type, markers=[])
    timed += [(time, f"/CAM_{name}/image_markers_annotations", drawings) for name in RADARS]
    diagnostics = messages.new(
        "diagnostic_msgs/msg/DiagnosticArray", header=messages.header(time, ""), status=[]
    )
    return [*timed, (time, "/diagnostics", diagnostics)]


AUTOWARE_CAMERAS = {
    "CAM_FRONT": 0,
    "CAM_FRONT_RIGHT": 1,
    "CAM_BACK_RIGHT": 2,
    "CAM_BACK": 3,
    "CAM_BACK_LEFT": 4,
    "CAM_FRONT_LEFT": 5,
}
PLUMB_BOB = (-0.2, 0.05, 0.001, -0.0005, 0.0)


def autoware(path: Path, images: list[DrawnImage]) -> Path:
    """A real car: distorted images, mounts as chains in /tf_static, localisation at 50 Hz."""
    messages = Messages()
    first, last = images[0].stamp_ns, images[-1].stamp_ns
    timed: list[Timed] = []
    static = []
    # Body frames look along x; the optical frame is rotated relative to them.
    body_T_optical = np.array([[0, 0, 1, 0.01], [-1, 0, 0, 0.0], [0, -1, 0, 0.02], [0, 0, 0, 1.0]])
    for name, mount in {image.channel: image.ego_T_cam for image in images}.items():
        link = f"camera{AUTOWARE_CAMERAS[name]}/camera_link"
        base_T_link = mount @ invert_transform(body_T_optical)
        static.append((first, "base_link", link, base_T_link))
        optical = f"camera{AUTOWARE_CAMERAS[name]}/camera_optical_link"
        static.append((first, link, optical, body_T_optical))
    timed.append((first - MS, "/tf_static", messages.tf(static)))
    for image in images:
        topic = f"/sensing/camera/camera{AUTOWARE_CAMERAS[image.channel]}"
        frame = f"camera{AUTOWARE_CAMERAS[image.channel]}/camera_optical_link"
        stamp = image.stamp_ns
        message = messages.compressed(stamp, frame, image.jpeg, "bgr8; jpeg compressed bgr8")
        info = messages.camera_info(stamp, frame, image, "plumb_bob", PLUMB_BOB)
        # A driver needs some time to send an image.
        timed.append((stamp + 15 * MS, f"{topic}/image_raw/compressed", message))
        timed.append((stamp + 15 * MS, f"{topic}/camera_info", info))
    start_us = first / 1e9
    for stamp in range(first - 100 * MS, last + 100 * MS, 20 * MS):
        pose = drive(stamp / 1e9 - start_us)
        odometry = messages.odometry(stamp, "map", "base_link", pose)
        timed.append((stamp + 30 * MS, "/localization/kinematic_state", odometry))
    return write(path, messages, timed, storage="mcap")
