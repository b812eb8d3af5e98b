"""The console script `occ-train`."""

from __future__ import annotations

import typer

import occ_perception
import occ_training

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Trains and evaluates occ_perception networks. This version has no training commands yet.",
)


def _print_versions(wanted: bool) -> None:
    if wanted:
        typer.echo(f"occ_training {occ_training.__version__}")
        typer.echo(f"occ_perception {occ_perception.__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_versions, is_eager=True, help="Print versions and exit."
    ),
) -> None:
    """Trains and evaluates occ_perception networks. This version has no training commands yet."""


def main() -> None:
    """Run the command line."""
    app()
