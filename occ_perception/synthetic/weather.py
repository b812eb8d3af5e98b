"""The weather of a drive: sun, sky, visibility and wetness."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from occ_perception.synthetic.seeds import random_for


@dataclass(frozen=True)
class Weather:
    """Sun, sky, air and road for the renderer.

    Attributes:
        sun_elevation, sun_azimuth: direction towards the sun, radians; azimuth in world axes.
        overcast: 0 = clear sky, 1 = no sun and no shadows.
        visibility: distance (m) over which contrast falls to 1/e.
        wet: 0 = dry road, 1 = road that reflects the sky.
        dusk: 0 = day, 1 = last light, lamps on.
        clouds: seed of the cloud pattern.
    """

    sun_elevation: float
    sun_azimuth: float
    overcast: float
    visibility: float
    wet: float
    dusk: float
    clouds: int

    def values(self) -> NDArray[np.float64]:
        """(10,) numbers in the order of the renderer's kernel."""
        flat = np.cos(self.sun_elevation)
        return np.array(
            [
                flat * np.cos(self.sun_azimuth),
                flat * np.sin(self.sun_azimuth),
                np.sin(self.sun_elevation),
                self.overcast,
                1.0 / self.visibility,
                self.wet,
                self.dusk,
                float(self.clouds),
                max(0.0, 1.0 - self.sun_elevation / 0.9),
                0.0,
            ]
        )


def draw_weather(town_seed: int, drive: int) -> Weather:
    """Draw the weather of a drive: mostly dry days, some fog, wet roads and dusk."""
    rng = random_for("weather", town_seed, drive)
    overcast = float(np.clip(rng.beta(0.8, 0.8) * 1.2 - 0.1, 0, 1))
    foggy = rng.random() < 0.12
    wet = float(rng.uniform(0.3, 0.9)) if overcast > 0.5 and rng.random() < 0.4 else 0.0
    dusk = float(rng.uniform(0.5, 1.0)) if rng.random() < 0.1 else 0.0
    return Weather(
        sun_elevation=float(np.radians(rng.uniform(18, 70) if not dusk else rng.uniform(10, 18))),
        sun_azimuth=float(rng.uniform(0, 2 * np.pi)),
        overcast=overcast,
        visibility=float(rng.uniform(80, 200) if foggy else rng.uniform(350, 2500)),
        wet=wet,
        dusk=dusk,
        clouds=int(rng.integers(1 << 16)),
    )
