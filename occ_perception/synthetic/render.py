"""Images of a scene: colour, depth, class and instance of every pixel from one ray."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from occ_perception.frames import CameraCalibration
from occ_perception.synthetic.drive import Scene
from occ_perception.synthetic.weather import Weather

_ROWS_PER_TASK = 32


@dataclass(frozen=True, eq=False)
class View:
    """The view of one camera, before its sensor.

    Attributes:
        colour: (H, W, 3) float32 linear light.
        distance: (H, W) float32 metres along the ray, 0 for sky.
        classes: (H, W) uint8 Occ3D class, 17 = sky.
        instances: (H, W) int32 instance id of the drive, 0 = none.
    """

    colour: NDArray[np.float32]
    distance: NDArray[np.float32]
    classes: NDArray[np.uint8]
    instances: NDArray[np.int32]

    def depth(self, K: NDArray[np.float64]) -> NDArray[np.float32]:
        """(H, W) distance along the optical axis, metres, 0 for sky."""
        height, width = self.distance.shape
        x = (np.arange(width) - K[0, 2]) / K[0, 0]
        y = (np.arange(height) - K[1, 2]) / K[1, 1]
        ray = np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)
        return np.asarray(self.distance / ray, dtype=np.float32)


def default_threads() -> int:
    """Default number of threads of a render: the CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def render_view(
    scene: Scene,
    weather: Weather,
    camera: CameraCalibration,
    samples: int = 1,
    threads: int | None = None,
) -> View:
    """Render one camera; the result does not depend on the number of threads.

    Args:
        scene: the world at the exposure's time.
        weather: its light.
        camera: a rectified camera.
        samples: rays per pixel for colour, 1, 2 or 4.
        threads: None = all CPUs.
    """
    from occ_perception.synthetic.kernels.images import render_rows

    shape = (camera.height, camera.width)
    view = View(
        np.empty((*shape, 3), np.float32),
        np.empty(shape, np.float32),
        np.empty(shape, np.uint8),
        np.empty(shape, np.int32),
    )
    world_T_cam = scene.world_T_ego @ camera.ego_T_cam
    K = camera.K
    intrinsics = (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))
    light = weather.values()

    def task(first: int) -> None:
        last = min(first + _ROWS_PER_TASK, camera.height)
        render_rows(
            scene.world,
            light,
            world_T_cam,
            intrinsics,
            first,
            last,
            samples,
            view.colour,
            view.distance,
            view.classes,
            view.instances,
        )

    rows = range(0, camera.height, _ROWS_PER_TASK)
    count = threads or default_threads()
    if count == 1:
        for first in rows:
            task(first)
    else:
        with ThreadPoolExecutor(count) as pool:
            list(pool.map(task, rows))
    return view


@dataclass(frozen=True)
class Sensor:
    """The image sensor of a camera.

    Attributes:
        blur: standard deviation of the optics' blur, pixels.
        exposure: factor on the automatic exposure.
        balance: factors on red, green and blue.
        shot_noise, read_noise: standard deviations in linear units, at full light and in the dark.
        seed: seed of the noise.
    """

    blur: float
    exposure: float
    balance: tuple[float, float, float]
    shot_noise: float
    read_noise: float
    seed: int


def draw_sensor(rng: np.random.Generator, seed: int) -> Sensor:
    """Draw a sensor's parameters for one image."""
    balance = rng.normal(1.0, 0.02, 3)
    return Sensor(
        blur=0.55,
        exposure=float(np.exp(rng.normal(0, 0.12))),
        balance=(float(balance[0]), float(balance[1]), float(balance[2])),
        shot_noise=float(rng.uniform(0.004, 0.012)),
        read_noise=float(rng.uniform(0.001, 0.004)),
        seed=seed,
    )


def develop_image(view: View, sensor: Sensor) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB image of a view through a sensor."""
    import cv2

    from occ_perception.synthetic.kernels.images import develop

    blurred = np.asarray(cv2.GaussianBlur(view.colour, (3, 3), sensor.blur))
    sample = view.colour[::4, ::4]
    luminance = sample @ np.array([0.25, 0.6, 0.15], dtype=np.float32)
    level = float(np.exp(np.log(np.maximum(luminance, 0.0) + 0.02).mean()))
    exposure = sensor.exposure * 0.25 / (level + 0.02)
    image = np.empty(view.colour.shape, np.uint8)
    gains = exposure * np.array(sensor.balance)
    noise = np.array([sensor.shot_noise, sensor.read_noise])
    develop(blurred, gains, sensor.seed, noise, _NORMALS, _TONE_CURVE, image)
    return image


def _tone_curve() -> NDArray[np.uint8]:
    """The tone curve over linear 0..2: a shoulder towards white, then gamma 2.2."""
    linear = (np.arange(4096) + 0.5) / 2048.0
    shoulder = (1 - np.exp(-1.5 * linear)) / (1 - np.exp(-3.0))
    return np.asarray(np.round(255 * np.clip(shoulder, 0, 1) ** (1 / 2.2)), dtype=np.uint8)


_TONE_CURVE = _tone_curve()
_NORMALS = ndtri((np.arange(1024) + 0.5) / 1024)
