"""The console script ``occ-train``.

Command modules import heavy things (torch, lightning, rosbags) inside their functions, so that
``occ-train --help`` starts fast.
"""

from __future__ import annotations

from typing import Annotated

import typer

import occ_perception
import occ_training
from occ_perception.cli.plain_errors import PlainErrors
from occ_training.commands import evaluate, fit, overfit, pack, recipes
from occ_training.convert import convert
from occ_training.prepare import app as prepare_app

app = typer.Typer(
    name="occ-train",
    help="Trains and evaluates occ_perception networks.",
    cls=PlainErrors,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo(f"occ_training {occ_training.__version__}")
        typer.echo(f"occ_perception {occ_perception.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_versions, is_eager=True, help="Print versions and exit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of errors.")] = False,
) -> None:
    del version, debug  # read by _print_versions, and by PlainErrors from the context


app.command()(convert)
app.command()(fit)
app.command()(pack)
app.command("eval")(evaluate)
app.command()(overfit)
app.command()(recipes)
app.add_typer(prepare_app, name="prepare")


def main() -> None:
    """Run the command line."""
    app()
