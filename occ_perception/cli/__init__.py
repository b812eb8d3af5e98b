"""The console script ``occ``.

Command modules import heavy packages (torch, rosbags, rclpy) inside their functions, so that
``occ --help`` is fast and bag tools run on machines without torch or ROS.
"""

from __future__ import annotations

from typing import Annotated

import typer

import occ_perception
from occ_perception.cli import convert, models, town, weights
from occ_perception.cli.bench import bench
from occ_perception.cli.demo import demo
from occ_perception.cli.export import export
from occ_perception.cli.info import info
from occ_perception.cli.map import map_drive
from occ_perception.cli.plain_errors import PlainErrors
from occ_perception.cli.play import play
from occ_perception.cli.run import run
from occ_perception.cli.score import score
from occ_perception.cli.view import view

app = typer.Typer(
    name="occ",
    help="Camera-only 3D semantic occupancy: bags, models, predictions.",
    cls=PlainErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"occ_perception {occ_perception.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    del version, debug  # read by _print_version, and by PlainErrors from the context


app.command("bench")(bench)
app.add_typer(convert.app, name="convert")
app.command("demo")(demo)
app.command("export")(export)
app.command("info")(info)
app.command("map")(map_drive)
app.command("play")(play)
app.command("run")(run)
app.command("score")(score)
app.command("view")(view)
app.add_typer(models.app, name="models")
app.add_typer(weights.app, name="weights")
app.add_typer(town.app, name="town")


def main() -> None:
    """Entry point of the console script."""
    app()
