"""Many drives, written by processes side by side."""

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
    """One of many drives could not be made; the message names it."""


@dataclass(frozen=True)
class Production:
    """What is written of a drive.

    Attributes:
        frames: frame sets.
        sensors: how they are recorded; ``threads`` are those of each process.
        bag: container format of a recording, None for a nuScenes-format folder.
        rate: frame sets per second.
        odometry_noise, lidar_rate: of a recording, see :class:`BagOptions`.

    Raises:
        OptionError: more frames than a drive has, a noise or rate that is negative or not finite,
            or what only a recording can hold.
    """

    frames: int
    sensors: SensorOptions
    bag: Literal["mcap", "sqlite3"] | None = None
    rate: float = KEYFRAME_RATE
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
    """One drive: the bag ``out``, or the nuScenes-format folder ``out``, to which it is added.

    What an earlier run completed is left as it is.

    Raises:
        OptionError: there is no such town or drive.
        OutputError: folder or bag hold it with other options or of another version, or could not
            be written.
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
    """Many drives: bags ``out/<name of the drive>``, or all in the nuScenes-format folder ``out``.

    What an earlier run completed is left as it is.

    Args:
        production: what is written of each.
        places: which.
        out: folder.
        processes: how many work at a time.
        progress: called with (drives done, drives in all).

    Raises:
        OptionError: there is no such town or drive.
        DriveError: one could not be made or written, see :func:`write_drive`; drives that are
            complete by then stay.
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
                f"a process that wrote town {town}, drive {index} or another one was killed; is "
                "there memory for fewer --jobs only? The same command goes on where it stopped"
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
    """A drive as the bag ``path``, unless it is that already."""
    assert production.bag is not None
    options = BagOptions(
        rate=production.rate,
        storage=production.bag,
        odometry_noise=production.odometry_noise,
        lidar_rate=production.lidar_rate,
    )
    if not is_recorded(path, bag_provenance(place, production.sensors, production.frames, options)):
        record_drive(_sensors(production, place), path, production.frames, options, progress)
