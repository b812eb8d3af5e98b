"""``occ bench``: measures the latency of a model on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from occ_perception.atomic import write_whole
from occ_perception.cli.model_options import Device, Mode, Precision, chosen_execution
from occ_perception.errors import OptionError


def bench(
    model: Annotated[str | None, typer.Argument(help="As `occ models list` prints it.")] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    execution: Mode = "eager",
    stages: Annotated[bool, typer.Option("--stages", help="Time the network's parts.")] = False,
    frames: Annotated[int, typer.Option(min=1, help="Frames to measure.")] = 50,
    warm_up: Annotated[int, typer.Option(min=1, help="Frames to run before measuring.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the results.")
    ] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="A.json B.json", help="Compare two files instead of measuring."),
    ] = None,
) -> None:
    """Measure steady-state streaming: decoded images in, labels out.

    Images are random at the model's native size, and weights are random; neither affects latency.
    """
    if (model is None) == (compare is None):
        raise OptionError("give either a model to measure, or --compare A.json B.json")
    if compare is not None:
        _compare(*compare)
        return
    from occ_perception.runtime.benchmark import measure_stream
    from occ_perception.runtime.weights import load_model

    loaded = load_model(str(model), random_seed=0, device=device)
    how = chosen_execution(loaded, precision, execution)
    measured = measure_stream(loaded, how, frames, warm_up, stages)
    _print(measured)
    if out is not None:
        write_whole(out, json.dumps(measured, indent=1) + "\n")


def _print(measured: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from occ_perception.runtime.benchmark import conditions

    console = Console(highlight=False, soft_wrap=True)
    console.print(conditions(measured), markup=False)
    console.print(
        f"{measured['frames']} frames of {measured['images']} after "
        f"{measured['warm_up_frames']} of warm-up; timed: {measured['timed']}",
        markup=False,
    )
    table = Table("ms", box=None, pad_edge=False)
    for column in ("p50", "p90", "p99", "max", "GMAC"):
        table.add_column(column, justify="right")
    gmac = measured["gmac"]
    for stage, values in measured["milliseconds"].items():
        count = f"{gmac['total']:.1f}" if stage == "network" else ""
        table.add_row(stage, *(f"{value:.2f}" for value in values.values()), count)
        if stage == "network":
            for part, times in measured["stages_ms"].items():
                shown = (f"{value:.2f}" for value in times.values())
                table.add_row(f"  {part}", *shown, f"{gmac.get(part, 0):.1f}")
    console.print(table)
    memory = ", ".join(f"{k.replace('_', ' ')} {v:.0f}" for k, v in measured["memory_mb"].items())
    console.print(f"memory, MB: {memory}")
    console.print(f"network: {measured['network_tflops']:.3f} TFLOP/s")


def _compare(first: Path, second: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    from occ_perception.runtime.benchmark import compared, conditions

    a, b = (_measurement(path) for path in (first, second))
    console = Console(highlight=False, soft_wrap=True)
    for name, measured in (("A", a), ("B", b)):
        console.print(f"{name}: {conditions(measured)}", markup=False)
    table = Table("", box=None, pad_edge=False)
    for column in ("A", "B", "B / A"):
        table.add_column(column, justify="right")
    for what, before, after in compared(a, b):
        ratio = f"{after / before:.2f}" if before else "-"
        table.add_row(what, f"{before:.2f}", f"{after:.2f}", ratio)
    console.print(table)


def _measurement(path: Path) -> dict[str, Any]:
    try:
        measured = json.loads(path.read_text())
        measured["milliseconds"], measured["network_tflops"]
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} was not written by `occ bench --json`") from error
    return dict(measured)
