"""``occ-train prepare``: writes the index of frames of a public data set for training."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.atomic import write_whole
from occ_perception.errors import needed_for

if TYPE_CHECKING:
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.index import DatasetIndex

app = typer.Typer(help="Index a public data set for training.", no_args_is_help=True)

_SHOWN_PROBLEMS = 20


class CheckLevel(str, Enum):
    """How thoroughly files are checked."""

    PRESENT = "present"
    WHOLE = "whole"
    DECODE = "decode"


Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Index to write; default: ROOT/index.jsonl."),
]
Scenes = Annotated[
    str | None,
    typer.Option(help="Scene names separated by commas, or a text file with one per line."),
]
Checking = Annotated[
    CheckLevel,
    typer.Option(
        help="How thoroughly files are checked: present, complete, or decoded as in training."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Frames checked in parallel.")]


@app.callback()
def _prepare() -> None:
    """Index a public data set for training."""


@app.command()
def nuscenes(
    root: Annotated[Path, typer.Argument(help="Folder in the devkit's format.")],
    version: Annotated[str, typer.Option(help="Tables, e.g. v1.0-trainval or v1.0-town.")],
    scenes: Scenes = None,
    split: Annotated[
        str | None,
        typer.Option(help="Official split, e.g. train or val; needs the nuscenes-devkit."),
    ] = None,
    out: Out = None,
    check: Checking = CheckLevel.WHOLE,
    threads: Threads = 4,
) -> None:
    """Index the key frames of a nuScenes folder from its tables, with the labels in the folder."""
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.nuscenes import index_from_tables
    from occ_training.data.records import DatasetError

    if scenes is not None and split is not None:
        raise DatasetError("give --scenes or --split, not both")
    names = _names(scenes) if split is None else _official_split(split)
    report = CheckReport()
    _finish(index_from_tables(root, version, names, report), out or root, check, threads, report)


@app.command()
def infos(
    root: Annotated[Path, typer.Argument(help="Folder in the devkit's format.")],
    pickle: Annotated[Path, typer.Argument(help="Info file of a public code base.")],
    out: Out = None,
    check: Checking = CheckLevel.WHOLE,
    threads: Threads = 4,
) -> None:
    """Index the key frames of a nuScenes info pickle. No code in the pickle is executed."""
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.info_pickles import load_info_pickle
    from occ_training.data.nuscenes_infos import index_from_infos

    report = CheckReport()
    index = index_from_infos(root, load_info_pickle(pickle), report)
    _finish(index, out or root, check, threads, report)


@app.command()
def waymo(
    root: Annotated[Path, typer.Argument(help="Folder with image_0 to image_4 (and velodyne).")],
    poses: Annotated[Path, typer.Option(help="Pickle with the poses of all cameras.")],
    labels: Annotated[Path | None, typer.Option(help="Folder of the Occ3D-Waymo labels.")] = None,
    frames: Annotated[
        Path | None, typer.Option(help="Info pickle that lists the frames to use.")
    ] = None,
    scenes: Scenes = None,
    out: Out = None,
    check: Checking = CheckLevel.WHOLE,
    threads: Threads = 4,
) -> None:
    """Index a Waymo folder with Occ3D labels. No code in the pickles is executed."""
    from occ_training.data.file_checks import CheckReport
    from occ_training.data.info_pickles import load_info_pickle
    from occ_training.data.waymo import image_numbers, index_from_waymo

    report = CheckReport()
    index = index_from_waymo(
        root,
        load_info_pickle(poses),
        labels=labels,
        scenes=_names(scenes),
        numbers=None if frames is None else image_numbers(load_info_pickle(frames)),
        report=report,
    )
    _finish(index, out or root, check, threads, report)


@app.command()
def verify(
    index: Annotated[Path, typer.Argument(help="Index of any data set, or its folder.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Index to write; default: INDEX.")
    ] = None,
    check: Checking = CheckLevel.DECODE,
    threads: Threads = 4,
) -> None:
    """Check the files of any data set again, and leave out what cannot be read."""
    from occ_training.data.index import DatasetIndex

    _finish(DatasetIndex.load(index), out or index, check, threads)


def _names(scenes: str | None) -> list[str] | None:
    """Scene names from the option: a file with one per line, or the names themselves."""
    if scenes is None:
        return None
    path = Path(scenes)
    words = path.read_text().split() if path.is_file() else scenes.split(",")
    return [word.strip() for word in words if word.strip()]


def _official_split(split: str) -> list[str]:
    """Scene names of a nuScenes split, from the devkit."""
    from occ_training.data.records import DatasetError

    with needed_for("--split (--scenes FILE does without)"):
        from nuscenes.utils.splits import create_splits_scenes
    splits = create_splits_scenes()
    if split not in splits:
        raise DatasetError(f"no split {split!r}; there are {', '.join(splits)}")
    return list(splits[split])


def _finish(
    index: DatasetIndex,
    out: Path,
    level: CheckLevel,
    threads: int,
    report: CheckReport | None = None,
) -> None:
    """Check the files, report problems, write the index of what is usable."""
    from rich.progress import Progress

    from occ_training.data.file_checks import check_files
    from occ_training.data.records import DatasetError

    with Progress(transient=True) as progress:
        task = progress.add_task("files", total=len(index))
        usable, report = check_files(
            index,
            level.value,
            threads,
            lambda done, total: progress.update(task, completed=done, total=total),
            report,
        )
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        typer.secho(problem, fg=typer.colors.YELLOW, err=True)
    if not len(usable):
        raise DatasetError(
            f"none of the {report.frames} frames has an image of its reference camera; "
            f"is the sensor data unpacked in {index.root}?"
        )
    file = usable.save(out)
    _list_problems(file.with_suffix(".problems.txt"), report.problems)
    labels = ", ".join(usable.header.label_sets) or "none"
    typer.echo(f"{file}: {len(usable.sequences())} sequences, labels {labels}; {report.summary()}")


def _list_problems(path: Path, problems: list[str]) -> None:
    """Write all problems to a file beside the index; remove the file if there are none."""
    if not problems:
        path.unlink(missing_ok=True)
        return
    write_whole(path, "\n".join(problems) + "\n")
    if len(problems) > _SHOWN_PROBLEMS:
        rest = len(problems) - _SHOWN_PROBLEMS
        typer.secho(f"... and {rest} more, all in {path}", fg=typer.colors.YELLOW, err=True)
