"""``occ run``: runs a model on a bag, without ROS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from occ_perception.atomic import atomic_path, write_whole
from occ_perception.cli.model_options import (
    Device,
    Layout,
    LidarTopic,
    Mode,
    Precision,
    RandomWeights,
    Rig,
    Weights,
    chosen_execution,
)

if TYPE_CHECKING:
    from occ_perception.bags.drive import RecordedDrive
    from occ_perception.bags.foxglove import PredictionWriter
    from occ_perception.bags.recording import BagProblem
    from occ_perception.frames import CameraFrame, OccupancyPrediction
    from occ_perception.runtime.stream import OccupancyStream

_SHOWN_LINES = 5
_INTERRUPTED = 130


def run(
    bag: Annotated[Path, typer.Argument(help="rosbag2 folder or file, or a ROS 1 bag.")],
    model: Annotated[str, typer.Option("--model", "-m", help="See `occ models list`.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    weights: Weights = None,
    random_weights: RandomWeights = None,
    layout: Layout = None,
    rig: Rig = None,
    lidar_topic: LidarTopic = None,
    device: Device = "auto",
    precision: Precision = "auto",
    execution: Mode = "auto",
    commit_spacing: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Spacing of the history; by default the model's."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Use every n-th frame of the bag.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Also write one .npz per frame.")] = False,
) -> None:
    """Run a model on a bag; write predictions as a bag, an image per frame, and a summary.

    OUT contains predictions/ (rosbag2 with occ_msgs, storage mcap, which Foxglove shows), images/,
    summary.json and, with --npz, npz/. An interrupted run keeps its results; its summary has
    finished: false.
    """
    from occ_perception.bags.drive import open_recording
    from occ_perception.bags.foxglove import PredictionWriter
    from occ_perception.bags.recording import BagError
    from occ_perception.mapping.visibility import ObservedSpace
    from occ_perception.models.postprocess import NotFiniteError
    from occ_perception.models.zoo import get_card
    from occ_perception.runtime.stream import OccupancyStream
    from occ_perception.runtime.weights import load_model

    writer = PredictionWriter(out / "predictions")
    card = get_card(model)
    with open_recording(bag, layout=layout, rig=rig, model=card, lidar_topic=lidar_topic) as frames:
        loaded = load_model(model, weights, random_weights, device, frames.rig.names)
        if random_weights is not None:
            _warn(f"weights are random (seed {random_weights}): the output is meaningless")
        if loaded.card.absent_cameras:
            absent = ", ".join(loaded.card.absent_cameras)
            _warn(
                f"the rig has no {absent}; voxels that only such a camera sees stay empty or are "
                "guessed"
            )
        for doubt in frames.doubts:
            _warn(doubt)
        ego_frame = frames.layout.pose.ego_frame
        how = chosen_execution(loaded, precision, execution)
        stream = OccupancyStream(loaded, ego_frame, commit_spacing, execution=how)
        space = ObservedSpace() if find_spec("numba") else None
        record = Record(
            *(str(bag), frames.layout.name, loaded.label, str(loaded.device), str(how)),
            absent_cameras=loaded.card.absent_cameras,
        )
        failure: BaseException | None = None
        not_finite: list[BagProblem] = []
        with writer:
            results = Results(out, writer, npz)
            try:
                for frame in _with_progress(frames, every, limit):
                    prediction = _prediction(stream, frame, not_finite)
                    if prediction is None:
                        continue
                    if space is not None:
                        prediction = space.add(frame, prediction)
                    results.add(prediction, frame)
                    record.add(prediction)
            except (Exception, KeyboardInterrupt) as caught:
                failure = caught  # raised below, after the bag is closed and the summary written
        record.problems = [*frames.problems, *not_finite]
    summary = record.summary(failure)
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _print_summary(summary, record, out)
    if isinstance(failure, KeyboardInterrupt):
        _warn("interrupted: the results so far are kept")
        raise typer.Exit(_INTERRUPTED)
    if failure is not None:
        raise failure
    if not record.timings_ms and not_finite:
        raise NotFiniteError(f"{not_finite[0]}; so it is for all {len(not_finite)} frames")
    if not record.timings_ms:
        raise BagError(f"{bag} has no complete frame; `occ info {bag}` shows what is missing")


def _prediction(
    stream: OccupancyStream, frame: CameraFrame, problems: list[BagProblem]
) -> OccupancyPrediction | None:
    """The prediction of a frame; None if the output is not a number, which becomes a problem."""
    from occ_perception.bags.recording import BagProblem
    from occ_perception.models.postprocess import NotFiniteError

    try:
        return stream.step(frame)
    except NotFiniteError as error:
        problems.append(BagProblem("not_finite", str(error), frame.stamp_ns))
        return None


def _warn(text: str) -> None:
    typer.secho(text, fg=typer.colors.YELLOW, err=True)


def _with_progress(frames: RecordedDrive, every: int, limit: int | None) -> Iterator[CameraFrame]:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    expected = -(-frames.expected_frames // every)
    total = expected if limit is None else min(limit, expected)
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("frames", total=total)
        for frame in islice(islice(frames, 0, None, every), limit):
            yield frame
            progress.advance(task)


class Results:
    """Writes the results of each frame.

    Args:
        out: folder of the run.
        writer: open bag for the predictions.
        npz: whether to write arrays too.
    """

    def __init__(self, out: Path, writer: PredictionWriter, npz: bool) -> None:
        self._writer = writer
        self._images = out / "images"
        self._arrays = out / "npz" if npz else None
        self._count = 0
        for folder in (self._images, self._arrays):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def add(self, prediction: OccupancyPrediction, frame: CameraFrame) -> None:
        """Write the prediction of one frame."""
        from occ_perception.viewer.images import prediction_image, write_png

        name = f"{self._count:06d}_{prediction.stamp_ns}"
        self._count += 1
        self._writer.write_prediction(prediction)
        write_png(self._images / f"{name}.png", prediction_image(prediction, frame))
        if self._arrays is not None:
            _save_arrays(self._arrays / f"{name}.npz", prediction)


def _save_arrays(path: Path, prediction: OccupancyPrediction) -> None:
    import numpy as np

    arrays: dict[str, Any] = {
        "labels_XYZ": prediction.labels,
        "stamp_ns": prediction.stamp_ns,
        "grid_lower": prediction.grid.lower,
        "voxel_size": prediction.grid.voxel_size,
        "ego_T_grid": prediction.ego_T_grid,
        "class_names": np.array(prediction.class_names),
        "empty_class": prediction.empty_class,
    }
    if prediction.flow is not None:
        arrays["flow_XYZ2"] = prediction.flow
    if prediction.observed is not None:
        arrays["observed_XYZ"] = prediction.observed
    with atomic_path(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)


@dataclass
class Record:
    """Record of a run.

    Attributes:
        bag, layout, model, device, execution: settings of the run.
        absent_cameras: cameras of the model that the rig lacks.
        problems: what the reader skipped.
        timings_ms: durations of every frame, by stage.
        breaks: stamps at which the history was cleared, with reasons.
        committed: frames that entered the history.
    """

    bag: str
    layout: str
    model: str
    device: str
    execution: str
    absent_cameras: tuple[str, ...] = ()
    problems: list[BagProblem] = field(default_factory=list)
    timings_ms: list[dict[str, float]] = field(default_factory=list)
    breaks: list[tuple[int, str]] = field(default_factory=list)
    committed: int = 0

    def add(self, prediction: OccupancyPrediction) -> None:
        """Count one prediction."""
        self.timings_ms.append(dict(prediction.timings_ms))
        self.committed += prediction.committed
        if prediction.history_break:
            self.breaks.append((prediction.stamp_ns, prediction.history_break))

    def summary(self, failure: BaseException | None) -> dict[str, Any]:
        """The content of summary.json; latency excludes the first frame, which warms up."""
        from occ_perception import __version__
        from occ_perception.runtime.benchmark import percentiles

        steady = self.timings_ms[1:] or self.timings_ms
        stages = steady[0] if steady else {}
        return {
            "occ_perception": __version__,
            "bag": self.bag,
            "layout": self.layout,
            "model": self.model,
            "device": self.device,
            "execution": self.execution,
            "absent_cameras": list(self.absent_cameras),
            "finished": failure is None,
            "error": "" if failure is None else str(failure) or type(failure).__name__,
            "frames": len(self.timings_ms),
            "committed": self.committed,
            "skipped": dict(Counter(problem.reason for problem in self.problems)),
            "problems": [str(problem) for problem in self.problems],
            "history_breaks": [{"stamp_ns": s, "reason": reason} for s, reason in self.breaks],
            "first_frame_ms": round(self.timings_ms[0]["total"], 1) if self.timings_ms else None,
            "latency_ms": {
                stage: percentiles([t[stage] for t in steady], digits=1) for stage in stages
            },
        }


def _print_summary(summary: dict[str, Any], record: Record, out: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{summary['frames']} frames of {record.bag} ({record.layout}) through {record.model} "
        f"on {record.device}, {record.committed} in the history",
        markup=False,
    )
    table = Table("latency, ms", box=None, pad_edge=False)
    for column in ("p50", "p90", "p99", "max"):
        table.add_column(column, justify="right")
    for stage, values in summary["latency_ms"].items():
        table.add_row(stage, *(f"{value:.1f}" for value in values.values()))
    if table.row_count:
        console.print(table)
    _print_some(console, "history cleared", [f"{s} ns: {reason}" for s, reason in record.breaks])
    _print_some(console, "problem", summary["problems"])
    console.print(f"results in {out}", markup=False)


def _print_some(console: Any, title: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN_LINES]:
        console.print(f"{title}: {line}", markup=False)
    if len(lines) > _SHOWN_LINES:
        console.print(f"... and {len(lines) - _SHOWN_LINES} more in summary.json")
