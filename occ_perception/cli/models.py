"""``occ models``: lists, describes and exports the models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.atomic import write_whole
from occ_perception.cli.model_options import RandomWeights, Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from occ_perception.models.card import ModelCard

_TABLE_WIDTH = 110

app = typer.Typer()


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List, describe or export models; lists them without a command."""
    if context.invoked_subcommand is None:
        list_models()


@app.command("list")
def list_models() -> None:
    """One line per model: sensors, input, history, classes, published figures."""
    from rich.console import Console
    from rich.table import Table

    from occ_perception.models.zoo import MODELS

    table = Table(box=None, pad_edge=False)
    for column in ("name", "cameras", "input", "history", "labels", "published"):
        table.add_column(column, no_wrap=True)
    for card in MODELS.values():
        table.add_row(
            card.name,
            f"{len(card.cameras)}" + (" + lidar" if card.measures_depth else ""),
            "{}x{}".format(*card.preprocessing.input_size),
            str(card.history_frames or "-"),
            card.label_set,
            _figures(card),
        )
    # Names must be complete to be copied, so lines may be wider than the terminal.
    Console(width=_TABLE_WIDTH).print(table)


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="As `occ models list` prints it.")],
) -> None:
    """Card, parameters and multiply-accumulates of every part, memory of the temporal state."""
    from occ_perception.models.state import state_bytes, state_tensors
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.flops import multiply_accumulates, network_without_data

    card = get_card(name)
    net = network_without_data(card)
    for label, value in _facts(card):
        typer.echo(f"{label:<16}{value}")
    _print_parts(net, multiply_accumulates(net))
    state = net.initial_state(1, device="meta")
    typer.echo(f"temporal state: {state_bytes(state) / 1e6:.1f} MB per stream, float32")
    for remembered, tensor in state_tensors(state).items():
        typer.echo(f"  {remembered}: {'x'.join(str(size) for size in tensor.shape[1:])}")


@app.command("export")
def export_model(
    name: Annotated[str, typer.Argument(help="As `occ models list` prints it.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, .onnx.")],
    weights: Weights = None,
    random_weights: RandomWeights = None,
    frames: Annotated[
        int, typer.Option(min=1, help="Frames that the file is compared with the model on.")
    ] = 4,
) -> None:
    """Write one step of a model as ONNX, state in and out, and compare it with the model.

    Beside FILE.onnx appear FILE.json, its card, and FILE.parity.json, the comparison. The exit code
    is 1 if a frame has fewer than 99.9 % equal labels.
    """
    from occ_perception.exporting.onnx_file import OnnxModel, write_onnx
    from occ_perception.exporting.parity import ENOUGH, compare_frames
    from occ_perception.runtime.random_frames import random_frames
    from occ_perception.runtime.weights import load_model

    model = load_model(name, weights, random_weights)
    write_onnx(model, out)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB, card {out.with_suffix('.json')}")
    exported = OnnxModel(out)
    rows = []
    for parity in compare_frames(model, exported, random_frames(model.card, frames)):
        rows.append(asdict(parity))
        flow = "" if parity.velocity is None else f", velocities within {parity.velocity:.1e} m/s"
        typer.echo(
            f"frame {len(rows)}: {100 * parity.labels:.4f} % of labels equal, "
            f"{100 * parity.occupied:.4f} % of occupied ones, state within {parity.state:.1e}{flow}"
        )
    passed = all(row["labels"] >= ENOUGH for row in rows)
    report = {"engine": str(exported), "passed": passed, "bound": ENOUGH, "frames": rows}
    write_whole(out.with_suffix(".parity.json"), json.dumps(report, indent=1) + "\n")
    if not passed:
        typer.echo(f"{out} does not say what {name} says; expected {100 * ENOUGH:g} % everywhere")
        raise typer.Exit(1)


def _print_parts(net: nn.Module, macs: Mapping[str, float]) -> None:
    """Print a row per part, and below it the modules that it consists of."""
    from rich.console import Console
    from rich.table import Table

    table = Table("part", "made of", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    table.add_column("GMAC", justify="right")
    for name, part in net.named_children():
        gmac = f"{macs[name] / 1e9:.1f}" if name in macs else ""
        table.add_row(name, type(part).__name__, f"{_parameters(part):,}", gmac)
        for inner_name, inner in part.named_children():
            if count := _parameters(inner):
                table.add_row(f"  {inner_name}", f"  {type(inner).__name__}", f"{count:,}")
    table.add_row("total", "", f"{_parameters(net):,}", f"{macs['total'] / 1e9:.1f}")
    Console(width=_TABLE_WIDTH).print(table)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _figures(card: ModelCard) -> str:
    """Accuracy as published, e.g. ``mIoU 41.4``."""
    published = card.published or {}
    shown = [f"{key} {published[key]}" for key in ("mIoU", "RayIoU") if published.get(key)]
    return ", ".join(shown) or "-"


def _facts(card: ModelCard) -> list[tuple[str, str]]:
    images, grid = card.preprocessing, card.grid
    bounds = ", ".join(
        f"{axis} {low:g}..{high:g}"
        for axis, low, high in zip("xyz", grid.lower, grid.upper, strict=True)
    )
    return [
        ("name", card.name),
        ("model", f"{card.title}, {card.backbone}, {card.modality}"),
        ("configuration", card.config_stem or "-"),
        ("input", "{}x{}".format(*images.input_size) + f" of {len(card.cameras)} cameras"),
        ("native image", "{}x{}".format(*images.native_size)),
        ("cameras", ", ".join(card.cameras) + f"; reference {card.reference_camera}"),
        ("grid", "x".join(str(voxels) for voxels in grid.dims) + f", {bounds} m"),
        ("grid frame", card.grid_frame),
        ("history", f"{card.history_frames} frames, {card.history_spacing_s:g} s apart"),
        ("labels", card.label_set),
        ("published", ", ".join(f"{k} {v}" for k, v in (card.published or {}).items()) or "-"),
        ("protocol", card.protocol or "-"),
        ("weights", card.url or "not released"),
        ("sha256", card.sha256 or "unknown"),
        ("licence", card.licence or "-"),
        ("note", card.note or "-"),
    ]
