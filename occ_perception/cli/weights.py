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
_TEST_TOWN, _TEST_TIME_S = 20_000, 5.0
_LEAST_OCCUPIED, _MOST_OCCUPIED = 0.001, 0.5
"""Shares of voxels: a street has 3 to 10 %; a network that says all or nothing has learnt nothing.
"""


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
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="By default the one whose keys it has.")
    ] = None,
    every_key: Annotated[bool, typer.Option("--all", help="One line per key.")] = False,
    run: Annotated[
        bool, typer.Option("--run", help="Run it on a frame of the town: is its output plausible?")
    ] = False,
) -> None:
    """Report which keys of a file match a model. The exit code is 1 if the file does not fit."""
    from occ_perception.models.checkpoint import checkpoint_report, models_of
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.weight_files import file_checksum

    if model is None:
        owners = models_of(file)
        if not owners:
            typer.echo(f"{file} has the keys of no model; --model NAME lists what differs")
            raise typer.Exit(_DOES_NOT_FIT)
        model = owners[0]
        typer.echo(f"{file} has the keys of {' and '.join(owners)}")
    report = checkpoint_report(get_card(model), file)
    _print_report(report, every_key)
    typer.echo(f"sha256 {file_checksum(file)}")
    if report.problems:
        typer.echo(f"{file} does not fit {model}")
        raise typer.Exit(_DOES_NOT_FIT)
    typer.echo(f"{file} fits {model}")
    if run and not _is_plausible(model, file):
        raise typer.Exit(_DOES_NOT_FIT)


def _is_plausible(model: str, file: Path) -> bool:
    """Print what the model says about a frame of the synthetic town."""
    import numpy as np

    from occ_perception.errors import needed_for
    from occ_perception.inference.model import Model

    with needed_for("--run"):
        from occ_perception.synthetic import Drive, DriveSensors, Town
    frame = DriveSensors(Drive(Town(_TEST_TOWN), 0)).frame(_TEST_TIME_S)
    (prediction,) = Model(model, file, precision="fp32", execution="eager").predict(frame)
    share = float(prediction.occupied.mean())
    counts = np.bincount(prediction.labels[prediction.occupied], minlength=1)
    order = np.argsort(counts)[::-1][:3]
    most = ", ".join(
        f"{prediction.class_names[k]} {100 * counts[k] / counts.sum():.0f} %"
        for k in order
        if counts[k]
    )
    typer.echo(f"on a frame of the town: {100 * share:.1f} % of voxels occupied: {most or 'none'}")
    if _LEAST_OCCUPIED < share < _MOST_OCCUPIED and (counts > 0).sum() > 1:
        return True
    typer.echo(
        f"{file}: these labels are degenerate; expected {100 * _LEAST_OCCUPIED:g} to "
        f"{100 * _MOST_OCCUPIED:g} % occupied, of several classes. Is it a checkpoint of {model} "
        "after training?"
    )
    return False


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
