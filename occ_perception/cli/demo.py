"""``occ demo``: a drive through the network, scored and filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from occ_perception.cli.town import image_size
from occ_perception.errors import needed_for


def demo(
    bag: Annotated[
        Path | None,
        typer.Argument(help="rosbag2 to play; by default a drive through the synthetic town."),
    ] = None,
    model: Annotated[str, typer.Option(help="See `occ models list`.")] = "",
    weights: Annotated[str, typer.Option(help="Checkpoint of that model.")] = "",
    random_weights: Annotated[
        int | None,
        typer.Option(metavar="SEED", help="Use random weights, even if a checkpoint is found."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    realtime: Annotated[
        bool | None,
        typer.Option(
            "--realtime/--lockstep",
            help="Play by time, or wait for every output. By time if there is a GPU.",
        ),
    ] = None,
    output_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the output of a frame set in lockstep.")
    ] = 300.0,
    layout: Annotated[str, typer.Option(help="Topic layout; recognised by default.")] = "",
    frames: Annotated[int, typer.Option(help="Frame sets of the town drive.", min=1)] = 96,
    rate: Annotated[float, typer.Option(help="Frame sets per second; a multiple of 2.")] = 6.0,
    size: Annotated[str, typer.Option(help="Image size of the town drive.")] = "480x270",
    quick: Annotated[
        bool, typer.Option("--quick", help="6 frame sets at 2 Hz: shows whether everything runs.")
    ] = False,
    in_process: Annotated[
        bool,
        typer.Option("--in-process", help="Without ROS, even if it is installed."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("demo_out"),
) -> None:
    """Play a drive into the node over DDS, score the occupancy, write a film and a report.

    Without ROS 2 the network runs in this process. The exit code is 1 if a frame set of the bag has
    no output. On a machine without a GPU the bag is played in lockstep: as fast as the network
    runs.
    """
    with needed_for("occ demo", extra="demo"):
        import numba  # noqa: F401
    import torch

    from occ_perception.demo.demonstration import (
        check_drive,
        choose_network,
        demonstrate,
        has_ros,
        make_drive,
    )
    from occ_perception.demo.first_look import first_look
    from occ_perception.demo.setting import UNTRAINED, Setting
    from occ_perception.runtime.weight_files import find_weights

    has_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    pixels = image_size(size)
    if quick:
        frames, rate = 6, 2.0
    card = choose_network(model, on_town=bag is None)
    if not weights and random_weights is None:
        weights = str(find_weights(card) or "")
    seed = random_weights or 0
    if not weights:
        typer.echo(f"weights are random (seed {seed}). {UNTRAINED}")
    over_dds = has_ros() and not in_process
    if not over_dds and not in_process:
        typer.echo("ROS 2 is not installed: the network runs in this process, without DDS")
    out.mkdir(parents=True, exist_ok=True)
    if bag is None:
        check_drive(frames, rate)
        typer.echo("one moment first; kernels are compiled on first use")
        typer.echo(f"first image     {first_look(out, card.name, weights, seed, device, pixels)}")
        bag = make_drive(out, frames, rate, pixels)
    setting = Setting(
        bag=bag,
        model=card.name,
        weights=weights,
        seed=seed,
        device=device,
        lockstep=not has_gpu if realtime is None else not realtime,
        output_timeout_s=output_timeout,
        layout=layout,
        out=out,
    )
    if not demonstrate(setting, over_dds):
        raise typer.Exit(1)
