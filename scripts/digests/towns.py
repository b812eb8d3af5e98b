"""The synthetic town: sensor data, recordings and folders of short drives."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from values import Named, files_in, flat, messages_in

TOWN, DRIVE = 20_000, 1


def jobs() -> dict[str, Any]:
    """Sensors, recordings, folders."""
    return {
        "town/sensors": _sensors,
        "town/bag_mcap": partial(_bag, "mcap"),
        "town/bag_sqlite3": partial(_bag, "sqlite3"),
        "town/folder": _folder,
        "town/sheet": _sheet,
        "town/clips": _clips,
    }


def command(words: str, *more: Any, program: str = "occ") -> str:
    """Run ``occ`` (or ``occ-train``); returns what it prints to standard output.

    Args:
        words: of the command line, separated by blanks.
        more: paths and numbers, each one word.
        program: ``occ`` or ``occ-train``.

    Raises:
        RuntimeError: it failed.
    """
    import occ_training.cli
    from typer.testing import CliRunner

    import occ_perception.cli

    app = {"occ": occ_perception.cli.app, "occ-train": occ_training.cli.app}[program]
    done = CliRunner().invoke(app, [*words.split(), *map(str, more)])
    if done.exit_code:
        output = f"{done.stdout}{done.stderr}"
        raise RuntimeError(f"{program} {words} {more}: status {done.exit_code}: {output}")
    return done.stdout


def town_bag(out: Path, options: str = "--bag mcap --lidar 10") -> Path:
    """A drive of three frame sets, by default with lidar, with a fixed modification time."""
    place = f"--town {TOWN} --drive {DRIVE} --frames 3 --size 160x90 --jobs 1"
    command(f"town drive {place} {options} --out", out)
    age_files(out)
    return out


def town_folder(out: Path, *drives: int) -> Path:
    """Drives of three key frames in the devkit's format."""
    for drive in drives:
        place = f"--town {TOWN} --drive {drive} --frames 3 --size 320x180 --jobs 1"
        command(f"town drive {place} --out", out)
    return out


def clips(folder: Path) -> Any:
    """The index of two short clips, rendered as for training."""
    from occ_training.town import TownData, town_dataset

    data = TownData(towns=1, drives=2, clip_frames=2, size=(176, 99))
    return town_dataset(folder / "clips", "train", data.clips("train"), data, 1, lambda _: None)


def age_files(folder: Path) -> None:
    """Set a fixed modification time, because data sets store it."""
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def _sensors(_scratch: Path) -> Named:
    from occ_perception.synthetic import Drive, DriveSensors, SensorOptions, Town

    for index, options in enumerate(
        (
            SensorOptions(size=(176, 99), threads=1),
            SensorOptions(size=(176, 88), jitter_rig=True, samples=2, threads=1),
        )
    ):
        sensors = DriveSensors(Drive(Town(TOWN + index), DRIVE), options)
        for t in (0.0, 7.5):
            where = f"drive{index}/{t:g}s"
            frame, labels, points = sensors.frame(t), sensors.labels(t), sensors.points(t)
            yield from frame_values(where, frame)
            yield from flat(labels, f"{where}/labels")
            yield from flat(points, f"{where}/lidar")
            yield f"{where}/bodies", [repr(body) for body in sensors.drive.scene(t).bodies]
            yield from flat(sensors.view("CAM_FRONT", t), f"{where}/view")


def frame_values(where: str, frame: Any) -> Named:
    """A camera frame: stamps, poses, images and calibrations of each camera, and the rest."""
    for name, image in frame.images.items():
        yield f"{where}/images/{name}", image
    yield f"{where}/stamps_ns", dict(frame.stamps_ns)
    yield f"{where}/world_T_ego", dict(frame.world_T_ego)
    for camera in frame.rig.cameras:
        calibration = (camera.K, camera.ego_T_cam, camera.width, camera.height)
        distortion = (camera.frame_id, camera.distortion_model, *camera.distortion)
        yield f"{where}/rig/{camera.name}", [*calibration, *distortion]
    yield f"{where}/rig/lidar", frame.rig.ego_T_lidar
    yield f"{where}/facts", (frame.reference_camera, frame.reused, frame.sequence, frame.token)
    yield from flat(frame.lidar, f"{where}/lidar")


def _bag(storage: str, scratch: Path) -> Named:
    bag = town_bag(scratch / "bag", f"--bag {storage} --lidar 10 --odometry-noise 0.01")
    yield from messages_in(bag)
    for name, content in files_in(bag):
        yield f"file/{name}", content


def _folder(scratch: Path) -> Named:
    yield from files_in(town_folder(scratch / "folder", 0))


def _sheet(scratch: Path) -> Named:
    where = f"--town {TOWN} --drive {DRIVE} --time 3 --size 176x99 --jobs 1"
    command(f"town render {where} --out", scratch / "sheet.png")
    yield "png", (scratch / "sheet.png").read_bytes()


def _clips(scratch: Path) -> Named:
    clips(scratch)
    yield from files_in(scratch / "clips")
