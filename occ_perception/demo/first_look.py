"""The first image of a demonstration, before the drive is rendered: one moment beside its truth."""

from __future__ import annotations

from pathlib import Path

from occ_perception.runtime.stream import OccupancyStream
from occ_perception.runtime.weights import load_model
from occ_perception.synthetic import Drive, DriveSensors, SensorOptions, Town
from occ_perception.synthetic.drive import KEYFRAME_PERIOD_S
from occ_perception.synthetic.seeds import DEMO_DRIVE, DEMO_TOWN
from occ_perception.viewer.comparison import compare
from occ_perception.viewer.images import film_image, write_png

MOMENT_S = 4.5
"""Seconds since the start of the drive."""


def first_look(
    out: Path, model: str, weights: str, seed: int, device: str, size: tuple[int, int]
) -> Path:
    """Predict one moment of the demonstration drive and draw it; returns the image's path.

    The network sees the moment before as well, so that it has a history.

    Args:
        out: folder.
        model, weights, seed, device: as in :class:`~.setting.Setting`.
        size: (width, height) of the images.
    """
    sensors = DriveSensors(Drive(Town(DEMO_TOWN), DEMO_DRIVE), SensorOptions(size=size))
    loaded = load_model(
        model, weights or None, None if weights else seed, device, sensors.rig.names
    )
    stream = OccupancyStream(loaded)
    for t in (MOMENT_S - KEYFRAME_PERIOD_S, MOMENT_S):
        frame = sensors.frame(t)
        prediction = stream.step(frame)
    truth, seen_XYZ = sensors.truth(MOMENT_S)
    path = out / "first.png"
    write_png(path, film_image(prediction, frame, compare(prediction, truth, seen_XYZ)))
    return path
