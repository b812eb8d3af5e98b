"""The vehicle's sensors along a drive: camera frames, labels and lidar points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from occ_perception.errors import OptionError
from occ_perception.frames import CameraFrame, CameraRig, OccupancyPrediction
from occ_perception.geometry import Float64, VoxelGrid
from occ_perception.labels import LABEL_SETS
from occ_perception.synthetic.drive import Drive
from occ_perception.synthetic.labels import (
    OCC3D_GRID,
    LidarMasks,
    OccupancyLabels,
    camera_mask,
    voxelise,
)
from occ_perception.synthetic.lidar import LidarPoints, LidarSweep, ray_sweep, sense
from occ_perception.synthetic.render import View, develop_image, draw_sensor, render_view
from occ_perception.synthetic.rig import REFERENCE_CAMERA, STAGGER_NS, at_size, synthetic_rig
from occ_perception.synthetic.route import DURATION_S
from occ_perception.synthetic.seeds import random_for

_EPOCH_NS = 1_600_000_000_000_000_000
_SPACING_NS = 100_000_000_000


@dataclass(frozen=True)
class SensorOptions:
    """Options of the sensors.

    Attributes:
        size: width and height of the images.
        stagger: whether cameras expose one after the other before the lidar's time, as on the real
            vehicles, or all at that time.
        jitter_rig: whether the mounts differ slightly from the nominal ones, by drive.
        samples: rays per pixel, 1, 2 or 4.
        threads: threads for rendering; None = all CPUs.
    """

    size: tuple[int, int] = (1600, 900)
    stagger: bool = True
    jitter_rig: bool = False
    samples: int = 1
    threads: int | None = None


class DriveSensors:
    """The sensors of one drive.

    Args:
        drive: the drive.
        options: options of the sensors.

    Raises:
        OptionError: the image size does not fit the native one.
    """

    def __init__(self, drive: Drive, options: SensorOptions | None = None) -> None:
        self.drive = drive
        self.options = options or SensorOptions()
        seeds = (drive.town.seed, drive.index)
        jitter = random_for("rig", *seeds) if self.options.jitter_rig else None
        self._native_rig = synthetic_rig(jitter=jitter)
        self.rig: CameraRig = at_size(self._native_rig, self.options.size)
        self._first_stamp = _EPOCH_NS + _SPACING_NS * (1000 * (seeds[0] % 1000) + seeds[1])

    @property
    def ego_T_lidar(self) -> Float64:
        """(4, 4) lidar mount."""
        mount = self._native_rig.ego_T_lidar
        assert mount is not None
        return mount

    def stamp_ns(self, t: float) -> int:
        """Stamp of a time of the drive."""
        return self._first_stamp + round(t * 1e9)

    def exposure(self, camera: str, t: float) -> float:
        """Exposure time of a camera for the lidar's time ``t``, seconds since the drive's start."""
        return t + STAGGER_NS[camera] * 1e-9 * self.options.stagger

    def reference_time(self, t: float) -> float:
        """Exposure time of the reference camera for the lidar's time ``t``."""
        return self.exposure(REFERENCE_CAMERA, t)

    def view(self, camera: str, t: float) -> View:
        """The view of a camera at exactly ``t``: colour, depth, class, instance."""
        options = self.options
        return render_view(
            self.drive.scene(t),
            self.drive.weather,
            self.rig.camera(camera),
            options.samples,
            options.threads,
        )

    def image(self, camera: str, t: float) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 RGB image taken at exactly ``t``."""
        return self.developed(self.view(camera, t), camera, t)

    def developed(self, view: View, camera: str, t: float) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 RGB of the camera's sensor, from its view at ``t``."""
        index = list(STAGGER_NS).index(camera)
        keys = (self.drive.town.seed, self.drive.index, round((t + 10) * 1e6), index)
        rng = random_for("sensor", *keys)
        return develop_image(view, draw_sensor(rng, int(rng.integers(1 << 20))))

    def frame(self, t: float) -> CameraFrame:
        """The six images that belong to the lidar's time ``t``, each with its own pose."""
        times = {camera: self.exposure(camera, t) for camera in self.rig.names}
        return CameraFrame(
            rig=self.rig,
            images={camera: self.image(camera, when) for camera, when in times.items()},
            stamps_ns={camera: self.stamp_ns(when) for camera, when in times.items()},
            world_T_ego={camera: self.drive.pose(when) for camera, when in times.items()},
            reference_camera=REFERENCE_CAMERA,
            sequence=self.drive.name,
            token=f"{self.drive.name}-{self.stamp_ns(t)}",
        )

    def sweep(self, t: float) -> LidarSweep:
        """One rotation of the lidar at ``t``, without noise."""
        return ray_sweep(self.drive.scene(t), self.ego_T_lidar)

    def points(self, t: float) -> LidarPoints:
        """The points that the lidar reports at ``t``."""
        keys = (self.drive.town.seed, self.drive.index, round((t + 10) * 1e6))
        return sense(self.sweep(t), random_for("lidar", *keys))

    @cached_property
    def _lidar_masks(self) -> LidarMasks:
        return LidarMasks(self.drive, self.ego_T_lidar)

    def labels(self, t: float, grid: VoxelGrid = OCC3D_GRID) -> OccupancyLabels:
        """Labels in the ego frame at exactly ``t``; the masks are those of uncropped images."""
        scene = self.drive.scene(t)
        semantics, instances, flow = voxelise(scene, grid)
        seen = camera_mask(scene, self._native_rig, grid, threads=self.options.threads)
        swept = self._lidar_masks.at(t, ray_sweep(scene, self.ego_T_lidar))
        return OccupancyLabels(grid, semantics, instances, flow, seen, swept)

    def truth(self, t: float) -> tuple[OccupancyPrediction, NDArray[np.bool_]]:
        """The ground truth as a prediction, for the frame set of the lidar's time ``t``.

        Its stamp is that of the reference camera. The second value is the camera mask (X, Y, Z).
        """
        when = self.reference_time(t)
        scene = self.drive.scene(when)
        semantics, _, flow = voxelise(scene)
        seen = camera_mask(scene, self._native_rig, threads=self.options.threads)
        classes = LABEL_SETS["occ3d"]
        truth = OccupancyPrediction(
            stamp_ns=self.stamp_ns(when),
            frame_id="base_link",
            grid=OCC3D_GRID,
            ego_T_grid=np.eye(4),
            labels=semantics,
            class_names=classes.class_names,
            empty_class=classes.empty_class,
            flow=flow,
            model="ground truth",
            camera_stamps_ns={
                camera: self.stamp_ns(self.exposure(camera, t)) for camera in self.rig.names
            },
        )
        return truth, seen


def frame_times(frames: int, rate: float) -> list[float]:
    """Times of ``frames`` frame sets at ``rate`` Hz from the drive's start.

    Raises:
        OptionError: the number is below 1 or more than a drive has.
    """
    most = int(DURATION_S * rate + 1e-9) + 1
    if not 1 <= frames <= most:
        raise OptionError(
            f"a drive lasts {DURATION_S:g} s: at {rate:g} Hz give 1 to {most} frames, got {frames}"
        )
    return [n / rate for n in range(frames)]
