"""``occ view``: shows occupancy as a film, as images, or in a viewer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.errors import OptionError, needed_for

if TYPE_CHECKING:
    from occ_perception.bags.playback import Playback, PlaybackFrame
    from occ_perception.frames import CameraFrame, OccupancyPrediction
    from occ_perception.viewer.comparison import Comparison

_SHOWN_PROBLEMS = 5
_NODE = "/occupancy_node"


def view(
    source: Annotated[
        Path | None,
        typer.Argument(
            help="Bag with occupancy, results of `occ run`, or folder of .npz files; with --live "
            "the node's name, by default /occupancy_node."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="film.mp4, sheet.png, recording.rrd, or a folder for images."
        ),
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="Open the rerun viewer.")] = False,
    live: Annotated[
        bool, typer.Option("--live", help="Follow a running node in the rerun viewer, or to .rrd.")
    ] = False,
    open3d: Annotated[bool, typer.Option("--open3d", help="Open an Open3D window.")] = False,
    cameras: Annotated[
        Path | None, typer.Option(metavar="BAG", help="Bag with the images; SOURCE by default.")
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option(metavar="BAG|DIR", help="Ground truth; by default SOURCE's /ground_truth."),
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="Occupancy topic, if the bag has several.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Show every n-th frame.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(metavar="HZ", help="Images per second; as recorded by default."),
    ] = None,
) -> None:
    """Show the occupancy of a bag in perspective, its images, and errors against ground truth."""
    from occ_perception.bags.playback import Playback
    from occ_perception.bags.recording import BagError

    if live:
        if open3d or cameras or ground_truth or topic or rate:
            raise OptionError("--live goes with SOURCE, --out, --rerun, --every and --limit only")
        _follow(str(source or _NODE), out, every, limit)
        return
    if source is None:
        raise OptionError("nothing to show: give a bag, a folder, or --live")
    write = _chosen_output(out, rerun, open3d, rate)
    with Playback(source, cameras, ground_truth, topic) as playback:
        for note in playback.notes:
            typer.secho(note, fg=typer.colors.YELLOW, err=True)
        count = write(_with_progress(playback, every, limit))
        _print_problems(playback)
    if not count:
        raise BagError(f"{source} holds no readable occupancy")
    typer.echo(f"{count} frames" + (f" in {out}" if out is not None else ""))


def _follow(node: str, out: Path | None, every: int, limit: int | None) -> None:
    """Log a running node until Ctrl-C."""
    from occ_perception.viewer.rerun_log import RerunLog

    with needed_for("occ view --live"):
        from occ_perception.ros.live_view import watch
    if out is not None and out.suffix != ".rrd":
        raise OptionError(f"{out}: --live writes recordings, expected a name ending in .rrd")

    def note(text: str) -> None:
        typer.secho(text, fg=typer.colors.YELLOW, err=True)

    shown = 0

    def show(prediction: OccupancyPrediction, frame: CameraFrame | None) -> None:
        nonlocal shown
        log.add(prediction, frame)
        shown += 1
        typer.echo(f"\r{shown} frames", nl=False, err=True)

    with RerunLog(out) as log:
        typer.echo(f"following {node}; Ctrl-C ends", err=True)
        watch(node, show, note, limit, every)
    typer.echo(f"\n{shown} frames" + (f" in {out}" if out is not None else ""))


def _chosen_output(
    out: Path | None, rerun: bool, open3d: bool, rate: float | None
) -> Callable[[Iterator[PlaybackFrame]], int]:
    """The function that consumes the frames; chosen before the source is read."""
    if (out is not None) + rerun + open3d != 1:
        raise OptionError("give exactly one of --out, --rerun and --open3d")
    if open3d:
        return _open_window
    if out is None or out.suffix == ".rrd":
        return partial(_log_to_rerun, out)
    if out.suffix not in ("", ".mp4", ".png"):
        raise OptionError(f"{out}: expected a name ending in .mp4, .png or .rrd, or a folder")
    if out.suffix == ".png":
        return partial(_write_sheet, out)
    return partial(_write_images, out, rate)


def _log_to_rerun(out: Path | None, frames: Iterator[PlaybackFrame]) -> int:
    from occ_perception.viewer.rerun_log import RerunLog

    count = 0
    with RerunLog(out) as log:
        for frame in frames:
            log.add(frame.prediction, frame.camera_frame, frame.truth)
            count += 1
    return count


def _open_window(frames: Iterator[PlaybackFrame]) -> int:
    from occ_perception.viewer.open3d_window import Open3DWindow

    predictions = [frame.prediction for frame in frames]
    if predictions:
        typer.echo("N next, P previous, Q close")
        Open3DWindow(predictions).run()
    return len(predictions)


def _write_sheet(out: Path, frames: Iterator[PlaybackFrame]) -> int:
    from occ_perception.viewer.images import sheet_image, write_png

    predictions = [frame.prediction for frame in frames]
    if predictions:
        columns = max(3, math.ceil(math.sqrt(len(predictions))))
        write_png(out, sheet_image(predictions, columns))
    return len(predictions)


def _write_images(out: Path, rate: float | None, frames: Iterator[PlaybackFrame]) -> int:
    """A film, or a folder of its images."""
    from occ_perception.viewer.films import Film, ImageFolder, ImageSink, recorded_rate
    from occ_perception.viewer.images import film_image

    sink: ImageSink
    if out.suffix == ".mp4":
        # The rate follows from the stamps of the first two frames.
        first = list(islice(frames, 2))
        frames = chain(first, frames)
        stamps = [frame.prediction.stamp_ns for frame in first]
        sink = Film(out, rate or recorded_rate(stamps))
    else:
        sink = ImageFolder(out)
    count = 0
    with sink:
        for frame in frames:
            caption = "ground truth" if frame.is_truth else "prediction"
            sink.write(film_image(frame.prediction, frame.camera_frame, _compared(frame), caption))
            count += 1
    return count


def _compared(frame: PlaybackFrame) -> Comparison | None:
    from occ_perception.viewer.comparison import compare

    if frame.truth is None:
        return None
    return compare(frame.prediction, frame.truth, frame.in_view_XYZ)


def _print_problems(playback: Playback) -> None:
    problems = [str(problem) for problem in playback.problems]
    for problem in problems[:_SHOWN_PROBLEMS]:
        typer.secho(f"skipped: {problem}", fg=typer.colors.YELLOW, err=True)
    if len(problems) > _SHOWN_PROBLEMS:
        typer.secho(f"... and {len(problems) - _SHOWN_PROBLEMS} more", err=True)


def _with_progress(playback: Playback, every: int, limit: int | None) -> Iterator[PlaybackFrame]:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    expected = -(-playback.expected // every)
    total = expected if limit is None else min(limit, expected)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("frames", total=total)
        for frame in islice(islice(playback, 0, None, every), limit):
            yield frame
            progress.advance(task)
