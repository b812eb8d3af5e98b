"""``occ info``: reports the content of a bag and what the node would lack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from occ_perception.bags.inspection import BagReport, FrameSetReport

_SHOWN_PROBLEMS = 10


def info(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder or file, or a ROS 1 bag.")],
    layout: Annotated[
        str | None, typer.Option(help="Topic layout, name or YAML file; recognised by default.")
    ] = None,
    rig: Annotated[
        str | None,
        typer.Option(
            help="Rig: name, YAML file or folder of calibration files; from the bag by default."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Show topics, frame sets, gaps, the layout that fits, and what is missing for the node.

    Exit code 1: the node cannot run on this bag.
    """
    from occ_perception.bags.inspection import inspect_bag

    report = inspect_bag(bag, layout, rig)
    if as_json:
        typer.echo(json.dumps(report.as_json(), indent=2))
    else:
        _print(report)
    if not report.node_can_run:
        raise typer.Exit(1)


def _print(report: BagReport) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(str(report.path), style="bold", markup=False, end="")
    console.print(f": {report.duration_s:.1f} s")
    _print_topics(console, report)
    _print_layouts(console, report)
    if report.frame_sets is not None:
        _print_frame_sets(console, report.frame_sets)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    _print_problems(console, report)
    for doubt in report.doubts:
        console.print("[yellow]doubtful:[/yellow] ", end="")
        console.print(doubt, markup=False)
    if report.missing_for_node:
        for missing in report.missing_for_node:
            console.print("[red]missing for the node:[/red] ", end="")
            console.print(missing, markup=False)
    elif report.doubts:
        console.print("[yellow]the node can run on this bag, with doubtful results[/yellow]")
    else:
        console.print("[green]the node can run on this bag[/green]")


def _print_topics(console: Console, report: BagReport) -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    # Names are printed in full, even if wider than the terminal, so that they can be copied.
    table.add_column("topic", min_width=max((len(t.name) for t in report.topics), default=0))
    table.add_column("type", min_width=max((len(t.kind) for t in report.topics), default=0))
    for column in ("messages", "Hz", "longest gap"):
        table.add_column(column, justify="right")
    for topic in report.topics:
        rate = f"{topic.rate_hz:.1f}" if topic.rate_hz else ""
        gap = f"{topic.longest_gap_s:.2f} s" if topic.longest_gap_s else ""
        table.add_row(topic.name, topic.kind, str(topic.count), rate, gap)
    console.print(table, crop=False, overflow="ignore", no_wrap=True)


def _print_layouts(console: Console, report: BagReport) -> None:
    used = report.layout.name if report.layout else None
    for match in report.matches:
        name = match.layout.name
        if match.fits:
            console.print(f"layout {name}: fits{' (used)' if name == used else ''}")
            continue
        others = f" (and {len(match.problems) - 1} more)" if len(match.problems) > 1 else ""
        console.print(f"layout {name}: no, {match.problems[0]}{others}", markup=False)
    if used is not None and used not in {match.layout.name for match in report.matches}:
        console.print(f"layout {used}: fits (given)")


def _print_frame_sets(console: Console, frame_sets: FrameSetReport) -> None:
    counters = frame_sets.counters
    line = f"frame sets: {counters.complete} complete, {counters.incomplete} incomplete"
    if frame_sets.missing:
        missing = (f"{count} without {name}" for name, count in sorted(frame_sets.missing.items()))
        line += f" ({', '.join(missing)})"
    console.print(line)
    source = {
        "layout": "as the layout says",
        "observed": "observed from the cameras' periods and phases",
        "default": "by default: too few images of some camera to observe it",
    }[frame_sets.tolerance_from]
    console.print(f"  tolerance {frame_sets.tolerance_ms:.1f} ms, {source}")
    if frame_sets.spread_ms is not None:
        low, median, high = frame_sets.spread_ms
        console.print(f"  spread {low:.1f} / {median:.1f} / {high:.1f} ms (min / median / max)")
    if frame_sets.period_ms is not None:
        console.print(
            f"  every {frame_sets.period_ms:.0f} ms, longest gap {frame_sets.longest_gap_s:.2f} s"
        )
    odd = {
        "late": counters.late,
        "out of order": counters.out_of_order,
        "duplicate": counters.duplicate,
        "without frame set": counters.unmatched,
    }
    if any(odd.values()):
        console.print("  images " + ", ".join(f"{k}: {v}" for k, v in odd.items() if v))
    if frame_sets.without_pose:
        console.print(f"  {frame_sets.without_pose} without an ego pose at all their stamps")


def _print_problems(console: Console, report: BagReport) -> None:
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        console.print(f"problem: {problem}", markup=False)
    if len(report.problems) > _SHOWN_PROBLEMS:
        console.print(f"... and {len(report.problems) - _SHOWN_PROBLEMS} more problems")
