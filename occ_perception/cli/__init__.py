"""The console script ``occ``.

Command modules import heavy things (torch, rosbags, rclpy) inside their functions, so that
``occ --help`` answers at once and bag tools run on machines without torch or ROS.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from occ_perception.cli import convert, models, town, weights
from occ_perception.cli.bench import bench
from occ_perception.cli.export import export
from occ_perception.cli.info import info
from occ_perception.cli.play import play
from occ_perception.cli.run import run
from occ_perception.cli.view import view
from occ_perception.errors import OccError

_PACKAGE = str(Path(__file__).resolve().parents[1])


class PlainErrors(TyperGroup):
    """Turns errors that a user can mend into one line and exit code 2.

    Attributes:
        packages: folders of the packages whose messages are written for users.
    """

    packages: tuple[str, ...] = (_PACKAGE,)

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            if ctx.params.get("debug") or not _is_for_the_user(error, self.packages):
                raise
            typer.secho(f"error: {_message(error)}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2) from error


def _is_for_the_user(error: Exception, packages: tuple[str, ...]) -> bool:
    """Whether the message was written for a user: a raise statement of ours, or a missing file.

    A ValueError out of a library is a defect of ours, and its traceback is wanted.
    """
    if isinstance(error, OccError) or (isinstance(error, OSError) and error.filename is not None):
        return True
    if not isinstance(error, (ValueError, LookupError, OSError, ImportError)):
        return False
    *_, (frame, instruction) = (
        (step.tb_frame, step.tb_lasti) for step in _steps(error.__traceback__)
    )
    raised_here = dis.opname[frame.f_code.co_code[instruction]] == "RAISE_VARARGS"
    # A symlinked install imports the package by a path that leads elsewhere.
    file = Path(frame.f_code.co_filename).resolve()
    return raised_here and any(file.is_relative_to(Path(p).resolve()) for p in packages)


def _steps(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next


def _message(error: Exception) -> str:
    # str(KeyError) is the repr of its message.
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


app = typer.Typer(
    name="occ",
    help="Camera-only 3D semantic occupancy: bags, models, predictions.",
    cls=PlainErrors,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    del debug  # PlainErrors reads it from the context


app.command("bench")(bench)
app.add_typer(convert.app, name="convert")
app.command("export")(export)
app.command("info")(info)
app.command("play")(play)
app.command("run")(run)
app.command("view")(view)
app.add_typer(models.app, name="models")
app.add_typer(weights.app, name="weights")
app.add_typer(town.app, name="town")


def main() -> None:
    """Entry point of the console script."""
    app()
