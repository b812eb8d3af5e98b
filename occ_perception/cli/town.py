"""``occ town``: generates drives through synthetic towns, with exact labels."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.cli.convert import Storage
from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_perception.synthetic.production import Production

app = typer.Typer(help="Generate drives through synthetic towns, with exact labels.")

# The same values as in synthetic.seeds, which `occ --help` must not import.
DEMO_TOWN, DEMO_DRIVE = 30_000, 4

_TOWN = typer.Option(help="Seed: 0-9999 train, 10000-10499 validation, 20000-20499 test, 30000.")
_DRIVE = typer.Option(help="Number of the drive through the town, 0-999.")
_TOWNS = typer.Option(
    metavar="N[-M]",
    help="Seeds: 0-9999 train, 10000-10499 validation, 20000-20499 test, 30000 demo.",
)
_DRIVES = typer.Option(metavar="N[-M]", help="Numbers of the drives through each town, 0-999.")
_SIZE = typer.Option(help="Image size WxH; flatter than 16:9 is cropped at the top.")
_JOBS = typer.Option(help="Threads; all CPUs by default.", min=1)


class Rate(str, Enum):
    """Frame sets per second."""

    KEYFRAMES = "2"
    FAST = "10"


@app.callback()
def _town() -> None:
    """Generate drives through synthetic towns, with exact labels."""


@app.command()
def drive(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to create or to add to.")],
    town: Annotated[str, _TOWNS] = str(DEMO_TOWN),
    drive: Annotated[str, _DRIVES] = str(DEMO_DRIVE),
    frames: Annotated[int, typer.Option(help="Frame sets; a drive lasts 20 s.", min=1)] = 40,
    bag: Annotated[
        Storage | None,
        typer.Option(help="Write a rosbag2 of this kind instead of a nuScenes-format folder."),
    ] = None,
    size: Annotated[str | None, _SIZE] = None,
    rate: Annotated[
        Rate, typer.Option(help="Frame sets per second; 10 for bags.")
    ] = Rate.KEYFRAMES,
    odometry_noise: Annotated[
        float, typer.Option(help="Relative error of a bag's odometry, e.g. 0.01.", min=0.0)
    ] = 0.0,
    lidar: Annotated[
        float, typer.Option(help="Lidar sweeps per second of a bag; 0 = none.", min=0.0)
    ] = 0.0,
    jitter_rig: Annotated[
        bool, typer.Option("--jitter-rig", help="Vary the camera mounts slightly between drives.")
    ] = False,
    jobs: Annotated[int | None, typer.Option(help="CPUs to use; all by default.", min=1)] = None,
) -> None:
    """Record drives as a nuScenes-format folder with label files, or as rosbag2.

    A folder can hold any number of drives. The same command continues an interrupted run. A bag has
    the ground truth on /ground_truth topics. Several drives are written in parallel, bags into
    OUT/<name of the drive>.
    """
    from occ_perception.synthetic.production import Production
    from occ_perception.synthetic.sensors import SensorOptions

    pixels = image_size(size or ("1600x900" if bag is None else "800x450"))
    places = [(t, d) for t in _numbers("--town", town) for d in _numbers("--drive", drive)]
    several = len(places) > 1
    production = Production(
        frames=frames,
        sensors=SensorOptions(size=pixels, jitter_rig=jitter_rig, threads=1 if several else jobs),
        bag=None if bag is None else "mcap" if bag is Storage.MCAP else "sqlite3",
        rate=float(rate.value),
        odometry_noise=odometry_noise,
        lidar_rate=lidar,
    )
    _write(production, places, out, jobs)
    what = f"{bag.value} bag" if bag is not None else "nuScenes-format tables and files"
    drives = f"{len(places)} drives, " if several else ""
    typer.echo(f"{out}: {what}, {drives}{frames} frames of {pixels[0]}x{pixels[1]}")


def _write(
    production: Production, places: list[tuple[int, int]], out: Path, jobs: int | None
) -> None:
    import os

    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

    from occ_perception.synthetic.production import write_drive, write_drives

    several = len(places) > 1
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        what = "drives" if several else "frames"
        task = progress.add_task(f"{what}; the first frame compiles", total=None)

        def advance(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, description=what)

        if several:
            write_drives(production, places, out, jobs or os.cpu_count() or 1, advance)
        else:
            write_drive(production, places[0], out, advance)


def _numbers(option: str, text: str) -> range:
    """The numbers of ``7`` or ``0-19``, both ends included."""
    first, _, last = text.partition("-")
    try:
        numbers = range(int(first), int(last or first) + 1)
    except ValueError:
        numbers = range(0)
    if not numbers:
        raise OptionError(f"{option} takes a number or a range like 0-19, got {text!r}")
    return numbers


@app.command()
def render(
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    town: Annotated[int, _TOWN] = DEMO_TOWN,
    drive: Annotated[int, _DRIVE] = DEMO_DRIVE,
    time: Annotated[float, typer.Option(help="Seconds since the drive's start, 0-20.")] = 0.0,
    size: Annotated[str | None, _SIZE] = None,
    samples: Annotated[int, typer.Option(help="Rays per pixel, 1, 2 or 4.")] = 2,
    jobs: Annotated[int | None, _JOBS] = None,
) -> None:
    """Write a contact sheet of one frame: images, classes, labels and masks from above."""
    from occ_perception.synthetic.drive import Drive
    from occ_perception.synthetic.route import DURATION_S
    from occ_perception.synthetic.sensors import DriveSensors, SensorOptions
    from occ_perception.synthetic.sheet import contact_sheet
    from occ_perception.synthetic.town import Town
    from occ_perception.viewer.images import write_png

    if not 0.0 <= time <= DURATION_S:
        raise OptionError(f"--time must be 0 to {DURATION_S:g} s, the drive's length; got {time:g}")
    if samples not in (1, 2, 4):
        raise OptionError(f"rays per pixel must be 1, 2 or 4, got {samples}")
    options = SensorOptions(size=image_size(size or "704x396"), samples=samples, threads=jobs)
    sensors = DriveSensors(Drive(Town(town), drive), options)
    write_png(out, contact_sheet(sensors, time))
    typer.echo(str(out))


def image_size(text: str) -> tuple[int, int]:
    """``800x450`` as (width, height).

    Raises:
        OptionError: the text has another form.
    """
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise OptionError(f"image size must look like 800x450, got {text!r}") from error
    return width, height
