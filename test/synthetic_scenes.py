"""The frames of test towns that the tests of the synthetic town use, generated once."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from occ_perception.synthetic.drive import Drive, Scene
from occ_perception.synthetic.labels import voxelise
from occ_perception.synthetic.render import View, render_view
from occ_perception.synthetic.rig import synthetic_rig
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions
from occ_perception.synthetic.town import Town

FRAMES = ((20_000, 0, 2.0), (20_000, 1, 9.0), (20_001, 0, 4.5), (20_001, 2, 15.0))
"""Town, drive and time of the fixed frames."""


@cache
def town(seed: int) -> Town:
    return Town(seed)


@cache
def drive(seed: int, index: int) -> Drive:
    return Drive(town(seed), index)


@cache
def scene(frame: tuple[int, int, float]) -> Scene:
    seed, index, t = frame
    return drive(seed, index).scene(t)


@cache
def voxels(frame: tuple[int, int, float]):
    return voxelise(scene(frame))


@cache
def views(frame: tuple[int, int, float], size: tuple[int, int] = (352, 198)) -> dict[str, View]:
    seed, index, _ = frame
    weather = drive(seed, index).weather
    rig = synthetic_rig(size)
    return {camera.name: render_view(scene(frame), weather, camera) for camera in rig.cameras}


def sensors(index: int = 0) -> DriveSensors:
    """The sensors of a drive through the first town, with small images."""
    return DriveSensors(drive(20_000, index), SensorOptions(size=(160, 90)))


def files_of(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def run_code(code: str, path: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a separate process that can import the tests; ``path`` is its argument."""
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
