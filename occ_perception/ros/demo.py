"""The demonstration: a drive through the node over DDS, scored and filmed.

    make demo                        a drive through the synthetic town, made on first use
    make demo BAG=... ARGS="--weights alocc_2d_mini.pth"
    python -m occ_perception.ros.demo [BAG] --help

Ends with exit code 1 where a ring of the bag was not answered. On a machine without a GPU the bag
is played in lockstep: as fast as the network answers.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Annotated

import torch
import typer

from occ_perception.errors import sentence_for
from occ_perception.models.zoo import ModelCard, get_card
from occ_perception.ros.demo_film import film_and_score
from occ_perception.ros.demo_playing import (
    OCC_COMMAND,
    DemoError,
    Played,
    Setting,
    play_through_node,
)
from occ_perception.ros.demo_report import UNTRAINED, print_report, write_page
from occ_perception.runtime.weight_files import find_weights

TOWN_MODEL = "alocc_town"
ANY_MODEL = "alocc_2d_mini"


def choose_network(model: str, on_town: bool) -> ModelCard:
    """Which network is shown: the one that the user names, or the one that knows the most.

    The town's own where its weights are here, since it has learnt nothing but the town.

    Raises:
        ModelError: there is no such model.
    """
    if not model:
        has_weights = find_weights(get_card(TOWN_MODEL)) is not None
        model = TOWN_MODEL if on_town and has_weights else ANY_MODEL
    return get_card(model)


def make_drive(out: Path, frames: int, size: str) -> Path:
    """The demonstration drive as a bag; made where ``out`` does not hold it already.

    Raises:
        DemoError: it could not be made, or ``out`` holds one of other options or another version.
    """
    bag = out / f"town_{frames}x{size}"
    if bag.is_dir():  # whether it is the one asked for is found out by the command below
        print(f"the drive is that of an earlier run: {bag}")
    else:
        print("making the drive; kernels are compiled on first use")
    arguments = ["town", "drive", "--bag", "mcap", "--out", str(bag)]
    arguments += ["--frames", str(frames), "--size", size]
    if subprocess.run([*OCC_COMMAND, *arguments]).returncode:
        raise DemoError("the drive could not be made; see above")
    return bag


def demonstrate(setting: Setting) -> bool:
    """Play, score, film and report; returns whether every ring was answered.

    Raises:
        DemoError, BagError, YamlError: the bag cannot be used, or a process did not start.
    """
    if not setting.weights:
        print(f"weights are random (seed {setting.seed}). {UNTRAINED}")
    played = play_through_node(setting)
    filmed = None
    if played.recorded is not None:
        filmed = film_and_score(setting, played.recorded, played.grids, _rate_hz(played))
    print_report(played, filmed)
    page = write_page(setting, played, filmed)
    if filmed is not None:
        print(f"film         {filmed.film}")
    print(f"report       {page.resolve()}")
    return bool(played.rings) and not played.unanswered


def _rate_hz(played: Played) -> float:
    stamps = [ring.stamp_ns for ring in played.rings]
    if len(stamps) < 2 or stamps[-1] <= stamps[0]:
        return 0.0
    return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0])


def main(
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
        float, typer.Option(help="Seconds a ring may stay unanswered in lockstep.")
    ] = 300.0,
    layout: Annotated[str, typer.Option(help="Topic layout; recognised if left out.")] = "",
    frames: Annotated[int, typer.Option(help="Rings of the town drive.", min=1)] = 40,
    size: Annotated[str, typer.Option(help="Its picture size.")] = "800x450",
    out: Annotated[Path, typer.Option(help="Folder for everything.")] = Path("demo_out"),
) -> None:
    """Play a drive into the node over DDS; score, film and report what comes out."""
    has_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    try:
        out.mkdir(parents=True, exist_ok=True)
        card = choose_network(model, on_town=bag is None)
        if not weights and random_weights is None:
            weights = str(find_weights(card) or "")
        setting = Setting(
            bag=make_drive(out, frames, size) if bag is None else bag,
            model=card.name,
            weights=weights,
            seed=random_weights or 0,
            device=device,
            lockstep=not has_gpu if realtime is None else not realtime,
            answer_timeout_s=answer_timeout,
            layout=layout,
            out=out,
        )
        everything_answered = demonstrate(setting)
    except Exception as error:
        if (sentence := sentence_for(error)) is None:
            raise
        typer.echo(f"error: {sentence}", err=True)
        raise typer.Exit(2) from error
    raise typer.Exit(0 if everything_answered else 1)


if __name__ == "__main__":
    typer.run(main)
