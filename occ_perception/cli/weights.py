"""``occ weights``: downloads, checks and converts checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from occ_perception.models.checkpoint import KeyReport

app = typer.Typer(help="Download, check and convert checkpoints.", no_args_is_help=True)

_FILE = typer.Argument(help="Checkpoint: .pth or .safetensors.")
_MODEL = typer.Option("--model", "-m", help="See `occ models list`.")
_DOES_NOT_FIT = 1


@app.command("fetch")
def fetch(
    name: Annotated[str, typer.Argument(help="As `occ models list` prints it.")],
) -> None:
    """Download a released checkpoint; commands then find it by the model's name.

    Files are stored in $OCC_WEIGHTS, or ~/.cache/occ_perception. Their sha256 is recorded there and
    checked at every use.
    """
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.weight_files import fetch_weights, find_weights, recorded_checksum

    card = get_card(name)
    here = find_weights(card) is not None
    path = fetch_weights(card)
    what = "already there" if here else "fetched"
    typer.echo(f"{path}: {what}, sha256 {recorded_checksum(path)}")


@app.command("check")
def check(
    file: Annotated[Path, _FILE],
    model: Annotated[str, _MODEL],
    every_key: Annotated[bool, typer.Option("--all", help="One line per key.")] = False,
) -> None:
    """Report which keys of a file match a model. The exit code is 1 if the file does not fit."""
    from occ_perception.models.checkpoint import checkpoint_report
    from occ_perception.models.zoo import get_card

    report = checkpoint_report(get_card(model), file)
    _print_report(report, every_key)
    if report.problems:
        typer.echo(f"{file} does not fit {model}")
        raise typer.Exit(_DOES_NOT_FIT)
    typer.echo(f"{file} fits {model}")


@app.command("convert")
def convert(
    file: Annotated[Path, _FILE],
    model: Annotated[str, _MODEL],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .safetensors.")],
) -> None:
    """Write a checkpoint as safetensors, with its original keys."""
    from occ_perception.models.checkpoint import convert_checkpoint
    from occ_perception.models.zoo import get_card

    report = convert_checkpoint(get_card(model), file, out)
    typer.echo(f"{out}: {len(report.loaded)} tensors of {model}")


def _print_report(report: KeyReport, every_key: bool) -> None:
    counts = {
        "loaded": len(report.loaded),
        "of these renamed": len(report.renamed),
        "ignored": len(report.ignored),
        "missing": len(report.missing),
        "unexpected": len(report.unexpected),
        "wrong shape": len(report.wrong_shape),
        "wrong grid": len(report.wrong_grid),
        "not finite": len(report.not_finite),
    }
    for what, count in counts.items():
        typer.echo(f"{what:<18}{count:>6}")
    if every_key:
        checkpoint_keys = {ours: theirs for theirs, ours in report.renamed.items()}
        for key in report.loaded:
            renamed = f"{checkpoint_keys[key]} -> {key}" if key in checkpoint_keys else key
            typer.echo(f"loaded: {renamed}")
    for key, reason in report.ignored.items():
        typer.echo(f"ignored: {key}: {reason}")
    for line in report.problems:
        typer.echo(line)
