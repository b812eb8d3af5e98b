"""Input and output of a stream: rigs, camera frames, predictions. Frozen data, numpy, no ROS.

Frames: ``ego`` is base_link (x forward, y left, z up, origin on the ground under the rear axle),
``cam`` a camera optical frame (z forward), ``world`` the fixed frame the ego pose is given in
(map or odom). Stamps are integer nanoseconds. See docs/conventions.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from occ_perception.geometry import Float64, VoxelGrid, require_rigid


@dataclass(frozen=True, eq=False)
class CameraCalibration:
    """One camera of a rig.

    Attributes:
        name: the camera's name in the model's vocabulary, e.g. ``CAM_FRONT``.
        width, height: size of the images the intrinsics belong to, pixels.
        K: (3, 3) intrinsics at that size.
        ego_T_cam: (4, 4) static extrinsics, optical frame to ego.
        frame_id: the camera's optical frame in tf; empty if unknown.
        distortion_model: ``""`` for rectified images, else ``plumb_bob``,
            ``rational_polynomial`` or ``equidistant``.
        distortion: coefficients in the order of sensor_msgs/CameraInfo.D.
    """

    name: str
    width: int
    height: int
    K: Float64
    ego_T_cam: Float64
    frame_id: str = ""
    distortion_model: str = ""
    distortion: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise ValueError(f"camera {self.name}: size {self.width}x{self.height} is not positive")
        if np.shape(self.K) != (3, 3) or not np.isfinite(self.K).all():
            raise ValueError(
                f"camera {self.name}: K must be a finite (3, 3) matrix, "
                f"got shape {np.shape(self.K)}: {np.asarray(self.K).tolist()}"
            )
        if self.K[0, 0] <= 0 or self.K[1, 1] <= 0:
            raise ValueError(
                f"camera {self.name}: focal lengths must be positive, got fx={self.K[0, 0]}, "
                f"fy={self.K[1, 1]}; an all-zero K means the driver publishes no calibration"
            )
        if not np.array_equal(self.K[2], (0, 0, 1)):
            raise ValueError(
                f"camera {self.name}: last row of K is {np.asarray(self.K[2]).tolist()}, "
                "expected [0, 0, 1]; is it transposed?"
            )
        if not np.isfinite(self.distortion).all():
            raise ValueError(f"camera {self.name}: distortion {self.distortion} is not finite")
        require_rigid(self.ego_T_cam, f"camera {self.name}: ego_T_cam")

    @property
    def is_rectified(self) -> bool:
        """Whether images need no rectification (no distortion coefficients except zeros)."""
        return not any(self.distortion)


@dataclass(frozen=True, eq=False)
class CameraRig:
    """The calibrated cameras of one vehicle, and its lidar's pose if a model needs it.

    Attributes:
        cameras: calibrations in any order; names are unique.
        ego_T_lidar: (4, 4) lidar pose, only for models whose grid lies in the lidar frame.
    """

    cameras: tuple[CameraCalibration, ...]
    ego_T_lidar: Float64 | None = None

    def __post_init__(self) -> None:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"camera names of a rig must be unique, got {names}")
        if self.ego_T_lidar is not None:
            require_rigid(self.ego_T_lidar, "ego_T_lidar")

    @property
    def names(self) -> tuple[str, ...]:
        """Camera names in the rig's order."""
        return tuple(camera.name for camera in self.cameras)

    def camera(self, name: str) -> CameraCalibration:
        """The calibration of the camera ``name``.

        Raises:
            KeyError: the rig has no such camera; the message lists its cameras.
        """
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise KeyError(f"rig has no camera {name!r}; it has {', '.join(self.names)}")

    def renamed(self, names: Mapping[str, str]) -> CameraRig:
        """The rig with renamed cameras.

        Args:
            names: old name -> new name; cameras without an entry keep their names.
        """
        renamed = (replace(c, name=names.get(c.name, c.name)) for c in self.cameras)
        return replace(self, cameras=tuple(renamed))

    def fingerprint(self) -> str:
        """Hash of everything a calibration table depends on; equal rigs give equal strings."""
        digest = hashlib.sha256()
        for camera in self.cameras:
            digest.update(
                f"{camera.name}|{camera.width}x{camera.height}|{camera.distortion_model}".encode()
            )
            for array in (camera.K, camera.ego_T_cam, np.asarray(camera.distortion)):
                digest.update(np.ascontiguousarray(array, dtype=np.float64).tobytes())
        if self.ego_T_lidar is not None:
            digest.update(np.ascontiguousarray(self.ego_T_lidar, dtype=np.float64).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class LidarPoints:
    """A lidar sweep near the time of a frame set, for models that take lidar depth.

    Attributes:
        stamp_ns: stamp of the sweep.
        points: (n, 3) float32 or float64 in the ego frame at that time, metres.
        world_T_ego: (4, 4) ego pose at that time.
    """

    stamp_ns: int
    points: NDArray[np.floating]
    world_T_ego: Float64

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != 3:
            raise ValueError(f"lidar points have shape {self.points.shape}, expected (n, 3)")
        require_rigid(self.world_T_ego, "lidar: world_T_ego")


@dataclass(frozen=True, eq=False)
class CameraFrame:
    """One decoded frame set, with the ego pose at each exposure.

    Attributes:
        rig: calibrations; the images are rectified and of the calibrated size.
        images: camera name -> (H, W, 3) uint8 **RGB**.
        stamps_ns: camera name -> exposure stamp.
        world_T_ego: camera name -> (4, 4) ego pose at that stamp.
        reference_camera: the camera whose stamp the output grid is expressed at.
        reused: cameras whose image comes from an earlier frame set.
        masked: cameras that fell silent; the network does without their images.
        sequence: id of the recording or scene; a change clears the history.
        token: source identifier (e.g. a nuScenes sample token); empty if there is none.
        lidar: the nearest sweep; only models that take lidar depth read it.
    """

    rig: CameraRig
    images: Mapping[str, NDArray[np.uint8]]
    stamps_ns: Mapping[str, int]
    world_T_ego: Mapping[str, Float64]
    reference_camera: str
    reused: tuple[str, ...] = ()
    masked: tuple[str, ...] = ()
    sequence: str = ""
    token: str = ""
    lidar: LidarPoints | None = None

    def __post_init__(self) -> None:
        if self.reference_camera not in self.images:
            raise ValueError(
                f"frame has no image of its reference camera {self.reference_camera!r}; "
                f"it has {', '.join(self.images)}"
            )
        for name, image in self.images.items():
            calibration = self.rig.camera(name)
            expected = (calibration.height, calibration.width, 3)
            if image.shape != expected or image.dtype != np.uint8:
                raise ValueError(
                    f"camera {name}: image is {image.dtype} {image.shape}, expected uint8 "
                    f"{expected} as calibrated; check that camera_info and image belong together"
                )
            if name not in self.stamps_ns or name not in self.world_T_ego:
                raise ValueError(f"camera {name}: image without a stamp or an ego pose")
            require_rigid(self.world_T_ego[name], f"camera {name}: world_T_ego")
        strangers = [name for name in self.reused if name not in self.images]
        if strangers:
            raise ValueError(
                f"reused images of {', '.join(strangers)}, but the frame has only "
                f"{', '.join(self.images)}"
            )

    @property
    def stamp_ns(self) -> int:
        """Stamp of the reference camera: the time the output is expressed at."""
        return self.stamps_ns[self.reference_camera]

    @property
    def world_T_reference_ego(self) -> Float64:
        """(4, 4) ego pose at :attr:`stamp_ns`."""
        return self.world_T_ego[self.reference_camera]


@dataclass(frozen=True, eq=False)
class OccupancyPrediction:
    """Semantic occupancy of one frame, and flow if the model predicts it.

    Attributes:
        stamp_ns: the reference camera's stamp.
        frame_id: the ego frame the grid is expressed in, ``base_link`` unless configured.
        grid: voxel layout in the grid's own frame.
        ego_T_grid: (4, 4) pose of that frame in ``frame_id`` (identity, or the lidar's pose).
        labels: (X, Y, Z) uint8 class ids, see ``class_names``.
        class_names: id -> name.
        empty_class: the id that means free space.
        flow: (X, Y, Z, 2) float32 velocity over ground (vx, vy), m/s, along the ego axes; None
            if the model predicts none.
        observed: (X, Y, Z) bool, voxels that a camera has seen, now or a short while ago (see
            :mod:`occ_perception.mapping.visibility`); None if that was not computed.
        model: name of the model, with the checksum prefix of its weights if known.
        camera_stamps_ns: the stamps of the images it was made from, in the model's order.
        committed: whether this frame entered the model's temporal history.
        history_length: frames of history the model had before this one, since the last break.
        history_break: why the history was cleared before this frame; "" if it was not.
        timings_ms: stage name -> milliseconds spent.
    """

    stamp_ns: int
    frame_id: str
    grid: VoxelGrid
    ego_T_grid: Float64
    labels: NDArray[np.uint8]
    class_names: tuple[str, ...]
    empty_class: int
    flow: NDArray[np.float32] | None = None
    observed: NDArray[np.bool_] | None = None
    model: str = ""
    camera_stamps_ns: Mapping[str, int] = field(default_factory=dict)
    committed: bool = True
    history_length: int = 0
    history_break: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.labels.shape != self.grid.dims or self.labels.dtype != np.uint8:
            raise ValueError(
                f"labels are {self.labels.dtype} {self.labels.shape}, "
                f"expected uint8 {self.grid.dims} (X, Y, Z)"
            )
        if not 0 <= self.empty_class < len(self.class_names):
            raise ValueError(
                f"empty class {self.empty_class} is not one of {len(self.class_names)} class names"
            )
        require_rigid(self.ego_T_grid, "ego_T_grid")
        expected = (*self.grid.dims, 2)
        if self.flow is not None and (self.flow.shape != expected or self.flow.dtype != np.float32):
            raise ValueError(
                f"flow is {self.flow.dtype} {self.flow.shape}, "
                f"expected float32 {expected} (X, Y, Z, 2)"
            )
        seen = self.observed
        if seen is not None and (seen.shape != self.grid.dims or seen.dtype != np.bool_):
            raise ValueError(
                f"observed is {seen.dtype} {seen.shape}, expected bool {self.grid.dims} (X, Y, Z)"
            )
