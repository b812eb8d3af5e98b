"""``occ models``: what can be run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from torch import nn

    from occ_perception.models.zoo import ModelCard

app = typer.Typer(help="Models that can be run.", no_args_is_help=True)


@app.command("list")
def list_models() -> None:
    """One line per model: input, grid, history, published figures."""
    from rich.console import Console
    from rich.table import Table

    from occ_perception.models.zoo import MODELS

    table = Table(box=None, pad_edge=False)
    for column in ("name", "input", "history", "labels"):
        table.add_column(column, no_wrap=True)
    table.add_column("published", overflow="fold")
    for card in MODELS.values():
        table.add_row(
            card.name,
            "{}x{}".format(*card.preprocessing.input_size),
            f"{card.history_frames} frames" if card.history_frames else "none",
            card.label_set,
            _figures(card),
        )
    Console().print(table)


@app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(help="As `occ models list` prints it.")],
) -> None:
    """Card, size of every part, memory of the temporal state."""
    from rich.console import Console
    from rich.table import Table

    from occ_perception.models.state import state_bytes
    from occ_perception.models.zoo import get_card

    card = get_card(name)
    net = card.build()
    for label, value in _facts(card):
        typer.echo(f"{label:<16}{value}")
    parts = Table("part", box=None, pad_edge=False)
    parts.add_column("parameters", justify="right")
    for part, child in net.named_children():
        parts.add_row(part, f"{_parameters(child):,}")
    parts.add_row("total", f"{_parameters(net):,}")
    Console().print(parts)
    typer.echo(f"temporal state: {state_bytes(net.initial_state(1)) / 1e6:.1f} MB per stream")


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _figures(card: ModelCard) -> str:
    """Accuracy as published, e.g. ``mIoU 41.4``."""
    published = card.published or {}
    shown = [f"{key} {published[key]}" for key in ("mIoU", "RayIoU") if published.get(key)]
    return ", ".join(shown) or "-"


def _facts(card: ModelCard) -> list[tuple[str, str]]:
    pictures, grid = card.preprocessing, card.grid
    bounds = ", ".join(
        f"{axis} {low:g}..{high:g}"
        for axis, low, high in zip("xyz", grid.lower, grid.upper, strict=True)
    )
    return [
        ("name", card.name),
        ("model", f"{card.title}, {card.backbone}, {card.modality}"),
        ("configuration", card.config_stem or "-"),
        ("input", "{}x{}".format(*pictures.input_size) + f" of {len(card.cameras)} cameras"),
        ("native picture", "{}x{}".format(*pictures.native_size)),
        ("cameras", ", ".join(card.cameras) + f"; reference {card.reference_camera}"),
        ("grid", "x".join(str(cells) for cells in grid.dims) + f", {bounds} m"),
        ("grid frame", card.grid_frame),
        ("history", f"{card.history_frames} frames, {card.history_spacing_s:g} s apart"),
        ("labels", card.label_set),
        ("published", ", ".join(f"{k} {v}" for k, v in (card.published or {}).items()) or "-"),
        ("protocol", card.protocol or "-"),
        ("weights", card.url or "not published"),
        ("sha256", card.sha256 or "unknown"),
        ("licence", card.licence),
    ]
