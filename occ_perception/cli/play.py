"""``occ play``: a rosbag2 over DDS."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from occ_perception.errors import OptionError, needed_for


def play(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder, .mcap or .db3 file.")],
    rate: Annotated[float, typer.Option(help="Playing speed, 1 = as recorded.")] = 1.0,
    loop: Annotated[bool, typer.Option("--loop", help="Start again at the end.")] = False,
    start: Annotated[float, typer.Option(help="Skip this many seconds of the beginning.")] = 0.0,
    delay: Annotated[float, typer.Option(help="Seconds to wait before the first message.")] = 0.0,
    topics: Annotated[
        list[str] | None, typer.Option("--topic", help="Play only this topic (repeatable).")
    ] = None,
    remap: Annotated[
        list[str] | None, typer.Option(help="Publish FROM as TO: FROM:=TO (repeatable).")
    ] = None,
    clock: Annotated[float, typer.Option(help="Publish /clock at this rate, Hz; 0 = off.")] = 0.0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for subscribers.")] = 10.0,
    wait_for: Annotated[
        str,
        typer.Option(
            metavar="TOPIC",
            help="Start when the node that publishes TOPIC subscribes to the bag's images.",
        ),
    ] = "",
    lockstep: Annotated[
        str,
        typer.Option(
            metavar="TOPIC",
            help="Send the next frame set only after the output for the last one came on TOPIC.",
        ),
    ] = "",
    output_timeout: Annotated[
        float, typer.Option(help="Seconds to wait for the output of a frame set in lockstep.")
    ] = 60.0,
    layout: Annotated[
        str, typer.Option(help="Topic layout for --wait-for and --lockstep; recognised by default.")
    ] = "",
) -> None:
    """Replay a bag over DDS, without the ros2 command line tools."""
    with needed_for("occ play"):
        from occ_perception.ros.player import PlayOptions, play_bag

    options = PlayOptions(
        rate=rate,
        loop=loop,
        start_s=start,
        delay_s=delay,
        topics=tuple(topics or ()),
        remap=_remaps(remap or []),
        clock_hz=clock,
        wait_s=wait,
        wait_for=wait_for,
        lockstep=lockstep,
        output_timeout_s=output_timeout,
        layout=layout,
    )
    report = play_bag(bag, options)
    typer.echo(f"played {report.published.total()} messages", nl=False)
    typer.echo(
        f" on {len(report.published)} topics, at most {report.worst_lateness_s * 1e3:.1f} ms late"
    )
    for topic, reason in report.skipped.items():
        typer.echo(f"skipped {topic}: {reason}")
    for topic, count in report.refused.items():
        typer.echo(f"DDS refused {count} messages on {topic}")
    for problem in report.problems:
        typer.echo(f"bag: {problem}")
    if lockstep:
        with_output = report.frame_sets - len(report.without_output)
        typer.echo(f"{with_output} of {report.frame_sets} frame sets have an output on {lockstep}")
    if not report.is_complete:
        raise typer.Exit(1)


def _remaps(entries: list[str]) -> dict[str, str]:
    remaps = {}
    for entry in entries:
        recorded, separator, published = entry.partition(":=")
        if not (recorded and separator and published):
            raise OptionError(f"--remap expects FROM:=TO, got {entry!r}")
        remaps[recorded] = published
    return remaps
