"""``occ map``: accumulates occupancy over a drive to a map in world coordinates."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from occ_perception.cli.model_options import (
    Device,
    Layout,
    LidarTopic,
    Mode,
    Precision,
    RandomWeights,
    Rate,
    Rig,
    Weights,
    tell_about,
    warn,
)
from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_perception.bags.recording import BagProblem
    from occ_perception.frames import OccupancyPrediction
    from occ_perception.geometry import Float64
    from occ_perception.mapping.drive_map import DriveMap, MapVoxels

    Item = TypeVar("Item")
    Posed = tuple[OccupancyPrediction, Float64]

_FORMATS = (".ot", ".ply", ".npz")
_SHOWN_PROBLEMS = 5


def map_drive(
    recording: Annotated[
        Path,
        typer.Argument(
            help="Bag with occupancy, results of `occ run`, or folder of .npz files; with --model "
            "a bag of cameras or a folder of images."
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option("--out", "-o", help="Map to write: .ot, .ply or .npz; may be repeated."),
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Run this model on the bag's cameras.")
    ] = None,
    weights: Weights = None,
    random_weights: RandomWeights = None,
    layout: Layout = None,
    rig: Rig = None,
    rate: Rate = None,
    lidar_topic: LidarTopic = None,
    device: Device = "auto",
    precision: Precision = "auto",
    execution: Mode = "auto",
    topic: Annotated[
        str | None, typer.Option(help="Occupancy topic, if the bag has several.")
    ] = None,
    poses: Annotated[
        Path | None,
        typer.Option(
            metavar="BAG|FILE",
            help="Bag with the ego pose; by default the one `occ run` read, or RECORDING. Of a "
            "folder of images: TUM, KITTI or CSV.",
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Use every n-th frame.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    voxel_size: Annotated[
        float | None,
        typer.Option(metavar="M", help="Edge of the map's voxels; by default that of the grid."),
    ] = None,
    moving_speed: Annotated[
        float,
        typer.Option(metavar="M/S", min=0.0, help="Vehicles and people that are faster move."),
    ] = 0.5,
    keep_movable: Annotated[
        bool,
        typer.Option(
            "--keep-movable", help="Without flow: keep vehicles and people. They leave traces."
        ),
    ] = False,
    local: Annotated[
        bool,
        typer.Option("--local", help="Coordinates relative to the start of the drive."),
    ] = False,
) -> None:
    """Accumulate occupancy over a drive to a map in world coordinates.

    Voxels become more or less likely to be occupied with every frame that sees them. What moves is
    left out. An .ot file is an OctoMap with colours, a .ply file the occupied voxels as points, an
    .npz file all known voxels as arrays.
    """
    from occ_perception.bags.recording import BagError
    from occ_perception.mapping.drive_map import DriveMap, MapOptions

    for path in out:
        if path.suffix not in _FORMATS:
            raise OptionError(f"{path}: expected a name ending in {', '.join(_FORMATS)}")
    if voxel_size is not None and voxel_size <= 0:
        raise OptionError(f"--voxel-size must be positive, got {voxel_size:g} m")
    problems: list[BagProblem] = []
    if model is None:
        if weights or random_weights is not None or rig or rate or lidar_topic:
            raise OptionError(
                "--weights, --random-weights, --rig, --rate and --lidar-topic need --model"
            )
        frames: Generator[Posed, None, None] = _recorded(recording, topic, poses, layout, problems)
    else:
        if topic:
            raise OptionError("--topic is for recorded occupancy, without --model")
        network = _Network(
            *(model, weights, random_weights, layout, rig, poses, rate, lidar_topic),
            *(device, precision, execution),
        )
        frames = _predicted(recording, network, problems)
    drive_map = None
    with closing(frames):
        chosen = islice(islice(frames, 0, None, every), limit)
        for prediction, world_T_ego in _with_progress(chosen):
            if drive_map is None:
                x, y, z = world_T_ego[:3, 3].tolist() if local else (0.0, 0.0, 0.0)
                drive_map = DriveMap(MapOptions(voxel_size, (x, y, z), moving_speed, keep_movable))
            drive_map.add(prediction, world_T_ego)
    _print_problems(problems)
    if drive_map is None:
        raise BagError(f"{recording} has no frame with an ego pose; `occ info` shows what it has")
    voxels = drive_map.voxels()
    for path in out:
        _write(path, voxels)
    _print_summary(drive_map, voxels, out)


@dataclass(frozen=True)
class _Network:
    """The options that concern a model, see :func:`map_drive`."""

    model: str
    weights: Path | None
    random_weights: int | None
    layout: str | None
    rig: str | None
    poses: Path | None
    rate: float | None
    lidar_topic: str | None
    device: str
    precision: str
    execution: str


def _recorded(
    source: Path,
    topic: str | None,
    poses: Path | None,
    layout: str | None,
    problems: list[BagProblem],
) -> Generator[Posed, None, None]:
    """Recorded occupancy with its ego pose; frames without one become problems."""
    from occ_perception.bags.ego_poses import RecordedPoses
    from occ_perception.bags.playback import open_occupancy, recording_of
    from occ_perception.bags.recording import BagError, BagProblem
    from occ_perception.sensing.ego_pose import PoseUnavailable

    with (
        closing(open_occupancy(source, topic)) as occupancy,
        closing(RecordedPoses(poses or recording_of(source), layout)) as ego,
    ):
        try:
            for prediction in occupancy:
                if prediction.frame_id.lstrip("/") != ego.source.ego_frame:
                    raise BagError(
                        f"the grids are in {prediction.frame_id!r}, {ego.source.topic} has poses "
                        f"of {ego.source.ego_frame!r}; name their common frame in a layout file"
                    )
                try:
                    pose = ego.at(prediction.stamp_ns)
                except PoseUnavailable as error:
                    problems.append(BagProblem("pose", str(error), prediction.stamp_ns))
                    continue
                yield prediction, pose
        finally:
            problems += [*occupancy.problems, *ego.problems]


def _predicted(
    source: Path, network: _Network, problems: list[BagProblem]
) -> Generator[Posed, None, None]:
    """Predictions of a model on a drive of cameras, with the ego pose at their stamps."""
    from occ_perception.bags.camera_drives import open_drive
    from occ_perception.inference.model import Model, Predictions

    model = Model(
        network.model,
        network.weights,
        network.random_weights,
        network.device,
        network.precision,
        network.execution,
    )
    with open_drive(
        source,
        layout=network.layout,
        rig=network.rig,
        poses=network.poses,
        rate_hz=network.rate,
        model=model.card,
        lidar_topic=network.lidar_topic,
    ) as drive:
        predictions = Predictions(model, drive)
        tell_about(predictions, network.random_weights, "map")
        try:
            for prediction in predictions:
                assert prediction.frame is not None
                yield prediction, prediction.frame.world_T_reference_ego
        finally:
            problems += predictions.problems


def _write(path: Path, voxels: MapVoxels) -> None:
    from occ_perception.mapping.map_files import point_columns, write_arrays
    from occ_perception.mapping.octomap_file import write_octomap
    from occ_perception.viewer.point_files import write_ply

    if path.suffix == ".ot":
        write_octomap(path, voxels)
    elif path.suffix == ".npz":
        write_arrays(path, voxels)
    else:
        write_ply(path, point_columns(voxels), "labels from 0: " + " ".join(voxels.class_names))


def _print_problems(problems: list[BagProblem]) -> None:
    for problem in problems[:_SHOWN_PROBLEMS]:
        warn(f"skipped: {problem}")
    if len(problems) > _SHOWN_PROBLEMS:
        warn(f"... and {len(problems) - _SHOWN_PROBLEMS} more")


def _print_summary(drive_map: DriveMap, voxels: MapVoxels, out: list[Path]) -> None:
    occupied = int(voxels.occupied.sum())
    typer.echo(
        f"{drive_map.frames} frames, {drive_map.area:.0f} m2, {occupied} voxels of "
        f"{voxels.voxel_size:g} m occupied, {len(voxels.indices) - occupied} free, "
        f"{drive_map.nbytes / 1e6:.1f} MB ({drive_map.nbytes / drive_map.area:.0f} bytes per m2)"
    )
    if any(voxels.origin):
        typer.echo("origin, metres: " + " ".join(f"{value:.3f}" for value in voxels.origin))
    typer.echo(", ".join(map(str, out)))


def _with_progress(frames: Iterator[Item]) -> Iterator[Item]:
    from rich.progress import Progress, TimeElapsedColumn

    columns = ("{task.description}", "{task.completed}", TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("frames", total=None)
        for frame in frames:
            yield frame
            progress.advance(task)
