"""``occ demo``: a drive through the node over DDS, scored and filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from occ_perception.cli.town import image_size
from occ_perception.errors import needed_for


def demo(
    bag: Annotated[
        Path | None,
        typer.Argument(help="rosbag2 to play; a drive through the town if left out."),
    ] = None,
    model: Annotated[str, typer.Option(help="See `occ models list`.")] = "",
    weights: Annotated[str, typer.Option(help="Checkpoint of that model.")] = "",
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Random weights, even where there are others."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--lockstep",
            help="Play by time, or wait for every answer. By time where there is a GPU.",
        ),
    ] = None,
    answer_timeout: Annotated[
        float, typer.Option(help="Seconds a frame set may stay unanswered in lockstep.")
    ] = 300.0,
    layout: Annotated[str, typer.Option(help="Topic layout; recognised if left out.")] = "",
    frames: Annotated[int, typer.Option(help="Frame sets of the town drive.", min=1)] = 40,
    size: Annotated[str, typer.Option(help="Its image size.")] = "800x450",
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo_out"),
) -> None:
    """Play a drive into the node over DDS; score, film and report its occupancy.

    Ends with exit code 1 where a frame set of the bag was not answered. On a machine without a GPU
    the bag is played in lockstep: as fast as the network answers.
    """
    with needed_for("occ demo"):
        from occ_perception.demo.demonstration import choose_network, demonstrate, make_drive
        from occ_perception.demo.session import Setting
    import torch

    from occ_perception.runtime.weight_files import find_weights

    has_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    pixels = image_size(size)
    card = choose_network(model, on_town=bag is None)
    if not weights and random_weights is None:
        weights = str(find_weights(card) or "")
    out.mkdir(parents=True, exist_ok=True)
    setting = Setting(
        bag=make_drive(out, frames, pixels) if bag is None else bag,
        model=card.name,
        weights=weights,
        seed=random_weights or 0,
        device=device,
        lockstep=not has_gpu if realtime is None else not realtime,
        answer_timeout_s=answer_timeout,
        layout=layout,
        out=out,
    )
    if not demonstrate(setting):
        raise typer.Exit(1)
