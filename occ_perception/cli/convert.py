"""``occ convert``: converts data sets into recordings."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Convert data sets into bags.", no_args_is_help=True)


class Storage(str, Enum):
    """Container of a rosbag2."""

    MCAP = "mcap"
    SQLITE3 = "sqlite3"


@app.callback()
def _convert() -> None:
    """Convert data sets into bags."""


@app.command()
def nuscenes(
    root: Annotated[Path, typer.Argument(help="nuScenes folder in the devkit's format.")],
    version: Annotated[str, typer.Option(help="Tables, e.g. v1.0-mini or v1.0-trainval.")],
    scene: Annotated[str, typer.Option(help="Scene name, e.g. scene-0103.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="rosbag2 folder to write.")],
    storage: Annotated[Storage, typer.Option(help="Container format.")] = Storage.MCAP,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Only annotated frames (2 Hz) instead of all (12).")
    ] = False,
    lidar: Annotated[bool, typer.Option("--lidar", help="Write the lidar too.")] = False,
) -> None:
    """Write one nuScenes scene as a rosbag2 folder, for the node and for `ros2 bag play`."""
    from rich.progress import Progress

    from occ_perception.bags.nuscenes import convert_nuscenes

    with Progress(transient=True) as progress:
        task = progress.add_task(scene, total=None)
        report = convert_nuscenes(
            root,
            version,
            scene,
            out,
            storage=storage.value,
            sweeps=not keyframes,
            lidar=lidar,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for problem in report.problems:
        typer.secho(f"skipped {problem}", fg=typer.colors.YELLOW, err=True)
    images = sum(report.images.values())
    sweeps = f", {report.sweeps} lidar sweeps" if lidar else ""
    typer.echo(
        f"{report.path}: {images} images of {len(report.images)} cameras{sweeps}, "
        f"{report.poses} ego poses"
    )
