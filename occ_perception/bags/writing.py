"""Writes recordings in the topic layout ``occ_perception``, without ROS."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from occ_perception.bags.atomic_writer import AtomicWriter, Storage
from occ_perception.codec import FORMAT_VERSION, RLE, encode_flow, encode_observed, encode_occupancy
from occ_perception.frames import CameraCalibration, OccupancyPrediction
from occ_perception.geometry import pose_from_matrix
from occ_perception.labels import MOVING_CLASSES, UNKNOWN_CLASS
from occ_perception.sensing.images import EncodedImage

_CUBE = 1  # visualization_msgs/Marker.type

ODOMETRY_TOPIC = "/odom"
NODE_NAMESPACE = "/occupancy_node"
OCCUPANCY_TOPIC = f"{NODE_NAMESPACE}/occupancy"
FLOW_TOPIC = f"{NODE_NAMESPACE}/flow"


def camera_topic(camera: str, rectified: bool = True) -> str:
    """Topic of a camera's compressed images."""
    return f"/{camera.lower()}/{'image_rect' if rectified else 'image_raw'}/compressed"


def camera_info_topic(camera: str) -> str:
    """Topic of a camera's calibration."""
    return f"/{camera.lower()}/camera_info"


def optical_frame(camera: str) -> str:
    """Name of a camera's optical frame, after REP 103."""
    return f"{camera.lower()}_optical"


@dataclass(frozen=True, eq=False)
class LabelledBox:
    """A labelled bounding box of an object.

    Attributes:
        name: class of the object.
        track: number of the object, the same in every message.
        frame_T_box: (4, 4) pose of its centre, x along its length, z up.
        size: length, width, height, metres.
    """

    name: str
    track: int
    frame_T_box: ArrayLike
    size: ArrayLike


class BagWriter(AtomicWriter):
    """Writes images, poses, points and predictions to the topics that this package reads.

    Args:
        path, storage: see :class:`AtomicWriter`.
        world_frame, ego_frame: frames of the ego poses.
        rectified: whether the images are rectified; others go to topics ``image_raw``.

    Raises:
        OptionError, OutputError: see :class:`AtomicWriter`.
    """

    def __init__(
        self,
        path: str | Path,
        storage: Storage = "mcap",
        world_frame: str = "map",
        ego_frame: str = "base_link",
        rectified: bool = True,
    ) -> None:
        super().__init__(path, storage)
        self._rectified = rectified
        self.world_frame = world_frame
        self.ego_frame = ego_frame

    def write_camera(self, camera: str, stamp_ns: int, image: bytes | EncodedImage) -> None:
        """One image as sensor_msgs/CompressedImage; JPEG and PNG bytes are stored unchanged."""
        if isinstance(image, bytes):
            kind = "png" if image.startswith(b"\x89PNG") else "jpeg"
            image = EncodedImage(kind, image)
        message = self.new(
            "sensor_msgs/msg/CompressedImage",
            header=self._header(stamp_ns, optical_frame(camera)),
            format=image.format,
            data=np.frombuffer(image.data, dtype=np.uint8),
        )
        self.write(camera_topic(camera, self._rectified), stamp_ns, message)

    def write_camera_info(self, calibration: CameraCalibration, stamp_ns: int) -> None:
        """The calibration of the image with the same stamp."""
        K = np.asarray(calibration.K, dtype=np.float64)
        message = self.new(
            "sensor_msgs/msg/CameraInfo",
            header=self._header(stamp_ns, optical_frame(calibration.name)),
            height=calibration.height,
            width=calibration.width,
            distortion_model=calibration.distortion_model,
            d=np.asarray(calibration.distortion, dtype=np.float64),
            k=K.ravel(),
            r=np.eye(3).ravel(),
            p=np.hstack([K, np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=self.new(
                "sensor_msgs/msg/RegionOfInterest",
                x_offset=0,
                y_offset=0,
                height=0,
                width=0,
                do_rectify=False,
            ),
        )
        self.write(camera_info_topic(calibration.name), stamp_ns, message)

    def write_odometry(self, stamp_ns: int, world_T_ego: ArrayLike) -> None:
        """The ego pose as nav_msgs/Odometry; twist and covariances are zero (unknown)."""
        zero = np.zeros(36)
        no_motion = self._vector(np.zeros(3))
        twist = self.new("geometry_msgs/msg/Twist", linear=no_motion, angular=no_motion)
        message = self.new(
            "nav_msgs/msg/Odometry",
            header=self._header(stamp_ns, self.world_frame),
            child_frame_id=self.ego_frame,
            pose=self.new(
                "geometry_msgs/msg/PoseWithCovariance",
                pose=self._pose(world_T_ego),
                covariance=zero,
            ),
            twist=self.new("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=zero),
        )
        self.write(ODOMETRY_TOPIC, stamp_ns, message)

    def write_transforms(
        self,
        stamp_ns: int,
        transforms: Iterable[tuple[str, str, ArrayLike]],
        static: bool = False,
    ) -> None:
        """(parent, child, ``parent_T_child``) to /tf, or to /tf_static, transient local."""
        items = []
        for parent, child, matrix in transforms:
            translation, quaternion = pose_from_matrix(matrix)
            transform = self.new(
                "geometry_msgs/msg/Transform",
                translation=self._vector(translation),
                rotation=self._quaternion(quaternion),
            )
            items.append(
                self.new(
                    "geometry_msgs/msg/TransformStamped",
                    header=self._header(stamp_ns, parent),
                    child_frame_id=child,
                    transform=transform,
                )
            )
        message = self.new("tf2_msgs/msg/TFMessage", transforms=items)
        self.write("/tf_static" if static else "/tf", stamp_ns, message, static)

    def write_points(
        self,
        topic: str,
        stamp_ns: int,
        frame_id: str,
        points: NDArray[np.float32],
        names: Sequence[str] = ("x", "y", "z", "intensity", "ring"),
    ) -> None:
        """A lidar sweep (N, columns) with x, y, z in metres as sensor_msgs/PointCloud2.

        ``names`` are the columns' names; each becomes a float32 field.
        """
        cloud = np.ascontiguousarray(points, dtype="<f4")
        fields = [
            self.new("sensor_msgs/msg/PointField", name=name, offset=4 * i, datatype=7, count=1)
            for i, name in enumerate(names)
        ]
        message = self.new(
            "sensor_msgs/msg/PointCloud2",
            header=self._header(stamp_ns, frame_id),
            height=1,
            width=len(cloud),
            fields=fields,
            is_bigendian=False,
            point_step=4 * len(names),
            row_step=4 * cloud.size,
            data=cloud.view(np.uint8).ravel(),
            is_dense=True,
        )
        self.write(topic, stamp_ns, message)

    def write_boxes(
        self, topic: str, stamp_ns: int, frame_id: str, boxes: Iterable[LabelledBox]
    ) -> None:
        """Boxes as visualization_msgs/MarkerArray cubes, which RViz can display."""
        kind = "visualization_msgs/msg/Marker"
        header = self._header(stamp_ns, frame_id)
        nothing = self.new("builtin_interfaces/msg/Duration", sec=0, nanosec=0)
        colour = self.new("std_msgs/msg/ColorRGBA", r=1.0, g=0.6, b=0.0, a=0.4)
        empty = self.new(
            "sensor_msgs/msg/CompressedImage",
            header=header,
            format="",
            data=np.empty(0, np.uint8),
        )
        markers = [
            self.new(
                kind,
                header=header,
                ns=box.name,
                id=box.track,
                type=_CUBE,
                action=0,
                pose=self._pose(box.frame_T_box),
                scale=self._vector(box.size),
                color=colour,
                lifetime=nothing,
                frame_locked=False,
                points=[],
                colors=[],
                texture_resource="",
                texture=empty,
                uv_coordinates=[],
                text="",
                mesh_resource="",
                mesh_file=self.new(
                    "visualization_msgs/msg/MeshFile", filename="", data=np.empty(0, np.uint8)
                ),
                mesh_use_embedded_materials=False,
            )
            for box in boxes
        ]
        self.write(topic, stamp_ns, self.new("visualization_msgs/msg/MarkerArray", markers=markers))

    def write_occupancy(
        self,
        prediction: OccupancyPrediction,
        encoding: int = RLE,
        min_speed: float = 0.0,
        received_ns: int | None = None,
        namespace: str = NODE_NAMESPACE,
    ) -> None:
        """A prediction as occ_msgs/SemanticOccupancy, and as OccupancyFlow if it has flow.

        Args:
            prediction: output of the stream.
            encoding: encoding of the labels, see :mod:`occ_perception.codec`.
            min_speed: moving voxels slower than this are left out of the flow, m/s.
            received_ns: reception time of the message; by default its stamp.
            namespace: namespace of the topics ``occupancy`` and ``flow``.
        """
        received_ns = prediction.stamp_ns if received_ns is None else received_ns
        header = self._header(prediction.stamp_ns, prediction.frame_id)
        encoded = encode_occupancy(prediction.labels, prediction.empty_class, encoding)
        seen = prediction.observed
        observed_runs = np.empty(0, np.uint32) if seen is None else encode_observed(seen)
        grid = self._grid(prediction)
        message = self.new(
            "occ_msgs/msg/SemanticOccupancy",
            header=header,
            format_version=FORMAT_VERSION,
            grid=grid,
            encoding=encoded.encoding,
            empty_class=prediction.empty_class,
            unknown_class=UNKNOWN_CLASS,
            class_names=list(prediction.class_names),
            labels=encoded.labels,
            indices=encoded.indices,
            run_lengths=encoded.run_lengths,
            observed_runs=observed_runs,
            model=prediction.model,
            camera_names=list(prediction.camera_stamps_ns),
            camera_stamps=[self._time(s) for s in prediction.camera_stamps_ns.values()],
            committed=prediction.committed,
            history_length=prediction.history_length,
            history_break=prediction.history_break,
        )
        self.write(f"{namespace}/occupancy", received_ns, message)
        if prediction.flow is None:
            return
        can_move = np.array([name in MOVING_CLASSES for name in prediction.class_names])
        moving = can_move[prediction.labels]
        flow = encode_flow(prediction.flow, moving, min_speed)
        message = self.new(
            "occ_msgs/msg/OccupancyFlow",
            header=header,
            format_version=FORMAT_VERSION,
            grid=grid,
            indices=flow.indices,
            vx=flow.vx,
            vy=flow.vy,
            min_speed=flow.min_speed,
            model=prediction.model,
        )
        self.write(f"{namespace}/flow", received_ns, message)

    def _grid(self, prediction: OccupancyPrediction) -> Any:
        frame_T_lower = np.array(prediction.ego_T_grid, dtype=np.float64)
        frame_T_lower[:3, 3] += frame_T_lower[:3, :3] @ np.asarray(prediction.grid.lower)
        return self.new(
            "occ_msgs/msg/GridGeometry",
            origin=self._pose(frame_T_lower),
            voxel_size=np.asarray(prediction.grid.voxel_size, dtype=np.float32),
            dims=np.asarray(prediction.grid.dims, dtype=np.uint32),
        )

    def _header(self, stamp_ns: int, frame_id: str) -> Any:
        return self.new("std_msgs/msg/Header", stamp=self._time(stamp_ns), frame_id=frame_id)

    def _time(self, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return self.new("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)

    def _pose(self, matrix: ArrayLike) -> Any:
        translation, quaternion = pose_from_matrix(matrix)
        x, y, z = (float(value) for value in translation)
        return self.new(
            "geometry_msgs/msg/Pose",
            position=self.new("geometry_msgs/msg/Point", x=x, y=y, z=z),
            orientation=self._quaternion(quaternion),
        )

    def _vector(self, values: ArrayLike) -> Any:
        x, y, z = (float(value) for value in np.asarray(values))
        return self.new("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def _quaternion(self, xyzw: ArrayLike) -> Any:
        x, y, z, w = (float(value) for value in np.asarray(xyzw))
        return self.new("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)
