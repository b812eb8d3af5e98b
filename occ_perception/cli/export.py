"""``occ export``: writes occupancy and lidar points as files for other programs."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from occ_perception.bags.lidar import FrameSetSweeps, LidarSweeps

_FARTHEST_SWEEP_NS = 60_000_000


def export(
    source: Annotated[
        Path,
        typer.Argument(help="Bag with occupancy, results of `occ run`, or folder of .npz files."),
    ],
    ply: Annotated[Path, typer.Option("--ply", help="Folder for PLY files.")],
    lidar: Annotated[
        Path | None, typer.Option(metavar="BAG", help="Bag with lidar points to write too.")
    ] = None,
    lidar_topic: Annotated[
        str | None, typer.Option(help="Lidar topic, if that bag has several.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Occupancy topic, if the bag has several.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Write every n-th frame.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
) -> None:
    """Write the occupied voxels of every frame as a coloured PLY point cloud in the ego frame.

    Points have red, green, blue and label, and vx, vy in m/s if the model predicts flow.
    """
    from occ_perception.bags.playback import open_occupancy
    from occ_perception.bags.recording import BagError
    from occ_perception.bags.stamp_join import StampJoin
    from occ_perception.viewer.point_files import lidar_columns, voxel_columns, write_ply

    count = sweeps_written = 0
    sweeps = _open_lidar(lidar, lidar_topic) if lidar is not None else None
    nearest = StampJoin(sweeps or (), _FARTHEST_SWEEP_NS)
    predictions = open_occupancy(source, topic)
    for prediction in islice(islice(predictions, 0, None, every), limit):
        name = f"{count:06d}_{prediction.stamp_ns}"
        count += 1
        classes = "labels from 0: " + " ".join(prediction.class_names)
        write_ply(ply / f"{name}_occupancy.ply", voxel_columns(prediction), classes)
        sweep = nearest.at(prediction.stamp_ns)
        if sweep is not None:
            sweeps_written += 1
            write_ply(ply / f"{name}_lidar.ply", lidar_columns(sweep.points, sweep.intensity))
    predictions.close()
    if sweeps is not None:
        sweeps.close()
    problems = predictions.problems + (sweeps.problems if sweeps is not None else [])
    for problem in problems:
        typer.secho(f"skipped: {problem}", fg=typer.colors.YELLOW, err=True)
    if not count:
        raise BagError(f"{source} holds no readable occupancy")
    points = f", {sweeps_written} of lidar points" if sweeps is not None else ""
    typer.echo(f"{ply}: {count} files of occupancy{points}")


def _open_lidar(bag: Path, topic: str | None) -> FrameSetSweeps | LidarSweeps:
    """Sweeps moved to the stamps of the frame sets; unmoved if the bag has no frame sets."""
    from occ_perception.bags.lidar import FrameSetSweeps, LidarSweeps
    from occ_perception.bags.recording import BagError

    try:
        return FrameSetSweeps(bag, topic)
    except BagError as error:
        sweeps = LidarSweeps(bag, topic=topic)
        note = f"sweeps are not compensated for the motion since the occupancy's stamp: {error}"
        typer.secho(note, fg=typer.colors.YELLOW, err=True)
        return sweeps
