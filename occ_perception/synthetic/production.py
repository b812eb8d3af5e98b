"""Writes one drive, or many drives in parallel processes."""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from occ_perception.errors import OccError, OptionError
from occ_perception.synthetic.devkit import (
    merge_devkit_drives,
    write_devkit_drive,
    write_devkit_frames,
)
from occ_perception.synthetic.drive import Drive, drive_name
from occ_perception.synthetic.provenance import is_recorded
from occ_perception.synthetic.recording import (
    KEYFRAME_RATE,
    BagOptions,
    bag_provenance,
    record_drive,
)
from occ_perception.synthetic.seeds import check_drive_index, split_of
from occ_perception.synthetic.sensors import DriveSensors, SensorOptions, frame_times
from occ_perception.synthetic.town import Town

Place = tuple[int, int]
"""Town and index of a drive."""


class DriveError(OccError):
    """One of many drives could not be written; the message names it."""


@dataclass(frozen=True)
class Production:
    """Settings of the output of a drive.

    Attributes:
        frames: number of frame sets.
        sensors: sensor options; ``threads`` is the number per process.
        bag: container format of a recording; None for a nuScenes-format folder.
        rate: frame sets per second.
        truth_rate, odometry_noise, lidar_rate: options of a recording, see :class:`BagOptions`.

    Raises:
        OptionError: a drive has fewer frames, a noise or rate is negative or not finite, or an
            option applies to recordings only.
    """

    frames: int
    sensors: SensorOptions
    bag: Literal["mcap", "sqlite3"] | None = None
    rate: float = KEYFRAME_RATE
    truth_rate: float = KEYFRAME_RATE
    odometry_noise: float = 0.0
    lidar_rate: float = 0.0

    def __post_init__(self) -> None:
        frame_times(self.frames, self.rate)
        for option, value in (
            ("--odometry-noise", self.odometry_noise),
            ("--lidar", self.lidar_rate),
        ):
            if not (math.isfinite(value) and value >= 0.0):
                raise OptionError(f"{option} must be a finite number from 0 up, got {value:g}")
        if self.bag is None and self.rate != KEYFRAME_RATE:
            raise OptionError("a nuScenes-format folder holds keyframes: --rate 10 needs --bag")
        if self.bag is None and self.lidar_rate:
            raise OptionError(
                "a nuScenes-format folder has a sweep per keyframe: --lidar needs --bag"
            )
        if self.bag is None and self.odometry_noise:
            raise OptionError(
                "a nuScenes-format folder has exact poses: --odometry-noise needs --bag"
            )


def write_drive(
    production: Production,
    place: Place,
    out: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write one drive as the bag ``out``, or add it to the nuScenes-format folder ``out``.

    A drive that an earlier run has completed is left unchanged.

    Raises:
        OptionError: the town or drive does not exist.
        OutputError: folder or bag hold the drive with other options or of another version, or
            cannot be written.
    """
    if production.bag is None:
        write_devkit_drive(_sensors(production, place), out, production.frames, progress)
    else:
        _record(production, place, out, progress)


def write_drives(
    production: Production,
    places: Iterable[Place],
    out: Path,
    processes: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write many drives: bags ``out/<name of the drive>``, or the nuScenes-format folder ``out``.

    Drives that an earlier run has completed are left unchanged.

    Args:
        production: settings of each drive.
        places: the drives.
        out: output folder.
        processes: number of parallel processes.
        progress: called with (drives done, number of drives).

    Raises:
        OptionError: a town or drive does not exist.
        DriveError: a drive could not be written, see :func:`write_drive`; completed drives stay.
    """
    places = list(places)
    for town, index in places:
        split_of(town)
        check_drive_index(index)
    out.mkdir(parents=True, exist_ok=True)
    # Numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(places)), context) as pool:
        work = {pool.submit(_write_one_of_many, production, place, out): place for place in places}
        try:
            _await(work, progress)
        finally:
            pool.shutdown(cancel_futures=True)
            if production.bag is None and any((out / "town").glob("*/drive.json")):
                merge_devkit_drives(out)


def _await(work: Mapping[Future[None], Place], progress: Callable[[int, int], None] | None) -> None:
    for done, future in enumerate(as_completed(work)):
        town, index = work[future]
        try:
            future.result()
        except OccError as error:
            raise DriveError(f"town {town}, drive {index}: {error}") from error
        except BrokenProcessPool as error:
            raise DriveError(
                f"a process that wrote town {town}, drive {index} or another one was killed, "
                "perhaps for lack of memory; run the same command with fewer --jobs to continue"
            ) from error
        if progress is not None:
            progress(done + 1, len(work))


def _write_one_of_many(production: Production, place: Place, out: Path) -> None:
    if production.bag is None:
        write_devkit_frames(_sensors(production, place), out, production.frames)
    else:
        _record(production, place, out / drive_name(*place))


def _sensors(production: Production, place: Place) -> DriveSensors:
    town, index = place
    return DriveSensors(Drive(Town(town), index), production.sensors)


def _record(
    production: Production,
    place: Place,
    path: Path,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a drive as the bag ``path``, unless that bag exists."""
    assert production.bag is not None
    options = BagOptions(
        rate=production.rate,
        truth_rate=production.truth_rate,
        storage=production.bag,
        odometry_noise=production.odometry_noise,
        lidar_rate=production.lidar_rate,
    )
    if not is_recorded(path, bag_provenance(place, production.sensors, production.frames, options)):
        record_drive(_sensors(production, place), path, production.frames, options, progress)
