"""``occ convert``: converts data sets into recordings."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_perception.bags.nuscenes import SceneReader

app = typer.Typer(help="Convert data sets into bags.", no_args_is_help=True)

_SCENE_FAILED = 1


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
    version: Annotated[
        str | None,
        typer.Option(help="Tables, e.g. v1.0-mini; by default the ones that have the scene."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="rosbag2 folder to write, or without --scene the folder of all; "
            "by default the scene is kept in the user's cache.",
        ),
    ] = None,
    scene: Annotated[
        str | None, typer.Option(help="Scene name, e.g. scene-0103; all scenes by default.")
    ] = None,
    storage: Annotated[Storage, typer.Option(help="Container format.")] = Storage.MCAP,
    keyframes: Annotated[
        bool, typer.Option("--keyframes", help="Only annotated frames (2 Hz) instead of all (12).")
    ] = False,
    lidar: Annotated[bool, typer.Option("--lidar", help="Write the lidar too.")] = False,
) -> None:
    """Write nuScenes scenes as rosbag2 folders, for the node and for `ros2 bag play`.

    With --scene, OUT is the bag; without OUT, the bag goes to the user's cache folder, and is kept
    there if it is there already. Without --scene, OUT gets one bag per scene, named after it; bags
    that are there already are kept.
    """
    from occ_perception.atomic import OutputError
    from occ_perception.bags.nuscenes import SceneReader
    from occ_perception.bags.nuscenes_tables import NuScenesError
    from occ_perception.bags.scene_cache import cached_scene, version_of_scene

    if scene is not None:
        version = version or version_of_scene(root, scene)
        kept = cached_scene(root, version, scene, storage.value, not keyframes, lidar)
        if out is None and kept.exists():
            typer.echo(f"{kept}: is there already, kept")
            return
        reader = SceneReader(root, version, [scene], sweeps=not keyframes, lidar=lidar)
        _show_problems(reader.problems)
        _write_scene(reader, scene, out or kept, storage, lidar)
        return
    if version is None or out is None:
        raise OptionError("without --scene, all scenes are converted: give --version and --out")
    reader = SceneReader(root, version, None, sweeps=not keyframes, lidar=lidar)
    _show_problems(reader.problems)
    failed = []
    for name in reader.scenes:
        if (out / name).exists():
            typer.echo(f"{out / name}: is there already, kept")
            continue
        try:
            _write_scene(reader, name, out / name, storage, lidar)
        except (NuScenesError, OutputError) as error:
            typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
            failed.append(name)
    if failed:
        typer.echo(f"{len(failed)} of {len(reader.scenes)} scenes failed: {', '.join(failed)}")
        raise typer.Exit(_SCENE_FAILED)


def _write_scene(reader: SceneReader, scene: str, out: Path, storage: Storage, lidar: bool) -> None:
    """Write one scene, and report what it has and lacks."""
    from rich.progress import Progress

    from occ_perception.bags.nuscenes import convert_scene

    with Progress(transient=True) as progress:
        task = progress.add_task(scene, total=None)
        report = convert_scene(
            reader,
            scene,
            out,
            storage=storage.value,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    _show_problems(report.problems)
    images = sum(report.images.values())
    sweeps = f", {report.sweeps} lidar sweeps" if lidar else ""
    truths = f", ground truth of {report.truths} frames" if report.truths else ""
    typer.echo(
        f"{report.path}: {images} images of {len(report.images)} cameras{sweeps}, "
        f"{report.poses} ego poses{truths}"
        + ("; images are distorted (layout occ_raw)" if report.distorted else "")
    )


def _show_problems(problems: list[str]) -> None:
    for problem in problems:
        typer.secho(f"skipped {problem}", fg=typer.colors.YELLOW, err=True)
