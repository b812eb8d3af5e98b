"""``occ-train convert``: converts rosbags to a data set."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.atomic import write_whole
from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_training.convert_bag import BagJob, BagReport, ConvertOptions
    from occ_training.data.index import DatasetIndex

REPORT_FILE = "report.json"
_TEXTS_PER_REASON = 3


def convert(
    bags: Annotated[
        list[Path], typer.Argument(metavar="BAG...", help="rosbag2 folders, .mcap, .db3 or .bag.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the data set; can exist.")],
    labels: Annotated[
        str,
        typer.Option(
            help="ground-truth (topics), lidar, none, or a folder of label files; auto uses the "
            "topics if the bag has them, else the lidar."
        ),
    ] = "auto",
    label_kind: Annotated[
        str, typer.Option(help="Kind of the files in the folder: occ3d, openocc or waymo.")
    ] = "occ3d",
    samples: Annotated[
        Path | None,
        typer.Option(help="JSON list of tokens and timestamps, for label files named by token."),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="Topic layout, name or file; recognised by default.")
    ] = None,
    rig: Annotated[
        str | None, typer.Option(help="Rig, name or file, instead of the bag's calibration.")
    ] = None,
    spacing: Annotated[
        float, typer.Option(help="Seconds between frames without label stamps; 0 = all.", min=0.0)
    ] = 0.5,
    lidar_topic: Annotated[
        str | None, typer.Option(help="PointCloud2 topic; the only one by default.")
    ] = None,
    boxes: Annotated[
        str | None,
        typer.Option(help="Boxes of moving objects: topic, JSON-lines file, or none."),
    ] = None,
    point_classes: Annotated[
        Path | None,
        typer.Option(help="JSON object: value of the points' class field -> class name."),
    ] = None,
    sweep_period: Annotated[
        float, typer.Option(help="Least time between lidar sweeps that are used, s.", min=0.0)
    ] = 0.09,
    keep_incomplete: Annotated[
        bool, typer.Option("--keep-incomplete", help="Keep frame sets that lack cameras.")
    ] = False,
    jobs: Annotated[int, typer.Option(help="Bags at a time, each in its own process.", min=1)] = 1,
    ray: Annotated[
        str | None,
        typer.Option(help="Use a Ray cluster: auto, an address, or local to start one here."),
    ] = None,
) -> None:
    """Convert rosbags to a data set for fit and eval.

    Images keep their JPEG bytes. A finished bag is not converted again: repeat the command to
    resume, and add bags later. Skipped data is listed and written to report.json.
    """
    from occ_perception.bags.recording import BagError
    from occ_training.convert_bag import ConvertOptions
    from occ_training.data.index import DatasetIndex

    options = ConvertOptions(
        labels=labels,
        label_kind=label_kind,
        samples=_text(samples),
        layout=layout,
        rig=rig,
        spacing_s=spacing,
        lidar_topic=lidar_topic,
        boxes=boxes,
        point_classes=_text(point_classes),
        sweep_period_s=sweep_period,
        keep_incomplete=keep_incomplete,
    )
    reports, failures = convert_bags(bags, out, options, jobs, ray, log=typer.echo)
    if not reports:
        raise BagError(f"none of {len(bags)} bags could be converted: {failures}")
    index = DatasetIndex.load(out)
    for path, error in failures.items():
        typer.secho(f"{path} was not converted: {error}", fg=typer.colors.RED, err=True)
    typer.echo(
        f"{out}: {len(index)} frames of {len(index.sequences())} sequences, label sets "
        f"{', '.join(index.header.label_sets) or 'none'}"
    )
    if failures:
        raise typer.Exit(1)


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path.resolve())


def convert_bags(
    bags: list[Path],
    out: Path,
    options: ConvertOptions,
    jobs: int = 1,
    ray: str | None = None,
    log: Callable[[str], None] = print,
) -> tuple[list[BagReport], dict[str, str]]:
    """Convert bags in parallel; write the report, and the index of all finished bags.

    Args:
        bags: rosbag2 folders or files.
        out: folder of the data set.
        options: how they are converted.
        jobs: local processes.
        ray: address of a Ray cluster to use instead.
        log: called with each line of progress.

    Returns:
        Reports of the converted bags, and bag -> reason for those that failed.

    Raises:
        OptionError: two bags have the same name.
        DatasetError: bags differ in their cameras or label sets.
    """
    from rich.progress import Progress

    from occ_training.convert_bag import convert_bag
    from occ_training.parallel import run_all

    work = _jobs(bags, out, options)
    reports: list[BagReport] = []
    failures: dict[str, str] = {}
    with Progress(transient=True) as progress:
        task = progress.add_task("converting", total=len(work))
        for outcome in run_all(convert_bag, work, jobs, ray):
            progress.advance(task)
            if outcome.result is None:
                failures[outcome.item.bag] = outcome.error
            else:
                reports.append(outcome.result)
                log(describe(outcome.result))
    reports.sort(key=lambda report: report.name)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"bags": [asdict(report) for report in reports], "failures": failures}, indent=1
    )
    write_whole(out / REPORT_FILE, text + "\n")
    if reports:
        join_parts(out)
    return reports, failures


def _jobs(bags: list[Path], out: Path, options: ConvertOptions) -> list[BagJob]:
    from occ_training.convert_bag import BagJob, finished_bags

    bags = [bag.resolve() for bag in bags]
    names = [bag.name if bag.is_dir() else bag.stem for bag in bags]
    twice = [name for name, count in Counter(names).items() if count > 1]
    # Recordings of one day often have the same name in different folders.
    names = [
        f"{bag.parent.name}-{name}" if name in twice else name
        for name, bag in zip(names, bags, strict=True)
    ]
    # A bag keeps the name that it got in an earlier call.
    finished = finished_bags(out)
    names = [finished.get(str(bag), name) for name, bag in zip(names, bags, strict=True)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise OptionError(f"several bags have the name {', '.join(twice)}; rename their folders")
    return [
        BagJob(str(bag), name, str(out.resolve()), options)
        for name, bag in zip(names, bags, strict=True)
    ]


def join_parts(out: Path) -> DatasetIndex:
    """Write and return the index of all finished parts of a folder.

    Raises:
        DatasetError: parts differ in their cameras or label sets.
    """
    from occ_training.data.index import DatasetIndex
    from occ_training.data.records import DatasetError, DatasetHeader

    files = sorted((out / "parts").glob("*.jsonl"))
    parts = [DatasetIndex.load(file) for file in files]
    header = parts[0].header
    for file, part in zip(files, parts, strict=True):
        same = (part.header.cameras, part.header.label_sets, part.header.ego_frame)
        if same != (header.cameras, header.label_sets, header.ego_frame):
            raise DatasetError(
                f"{file.stem} has cameras {', '.join(part.header.cameras)} and label sets "
                f"{dict(part.header.label_sets)}, {files[0].stem} has "
                f"{', '.join(header.cameras)} and {dict(header.label_sets)}; make a data set of "
                f"each, and delete {file} here"
            )
    index = DatasetIndex(
        out,
        DatasetHeader(
            name=out.resolve().name,
            cameras=header.cameras,
            label_sets=header.label_sets,
            ego_frame=header.ego_frame,
            source={"parts": [file.stem for file in files]},
        ),
        tuple(frame for part in parts for frame in part.frames),
    )
    index.save(out)
    return index


def describe(report: BagReport) -> str:
    """The report of a bag as text: one line, and more for its problems."""
    frame_sets = report.frame_sets
    lines = [
        f"{report.name}: {report.frames} frames of {frame_sets.get('complete', 0)} complete and "
        f"{frame_sets.get('incomplete', 0)} incomplete frame sets; labels from {report.labels}; "
        f"images {report.images}{'; converted before' if report.resumed else ''}"
    ]
    lines += [f"  note: {note}" for note in report.notes]
    for reason, texts in sorted(report.problems.items()):
        lines.append(f"  problem, {reason}: {len(texts)}")
        lines += [f"    {text}" for text in texts[:_TEXTS_PER_REASON]]
        if len(texts) > _TEXTS_PER_REASON:
            lines.append(f"    ... all are in {REPORT_FILE}")
    return "\n".join(lines)
