"""``occ run``: runs a model on a drive, without ROS."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from occ_perception.atomic import write_whole
from occ_perception.cli.model_options import (
    Device,
    EngineFile,
    Layout,
    LidarTopic,
    Mode,
    Poses,
    Precision,
    RandomWeights,
    Rate,
    Rig,
    Weights,
    tell_about,
    warn,
)
from occ_perception.errors import OptionError, needed_for

if TYPE_CHECKING:
    from occ_perception.bags.foxglove import PredictionWriter
    from occ_perception.bags.recording import BagProblem
    from occ_perception.frames import OccupancyPrediction
    from occ_perception.inference.model import Predictions
    from occ_perception.inference.prediction import Prediction
    from occ_perception.viewer.films import Film

_SHOWN_LINES = 5
_INTERRUPTED = 130


def run(
    source: Annotated[
        Path,
        typer.Argument(
            help="rosbag2 folder or file, ROS 1 bag, or folder of images with --rig and --poses."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="See `occ models list`; not needed with --engine."),
    ] = None,
    weights: Weights = None,
    random_weights: RandomWeights = None,
    layout: Layout = None,
    rig: Rig = None,
    poses: Poses = None,
    rate: Rate = None,
    lidar_topic: LidarTopic = None,
    device: Device = "auto",
    precision: Precision = "auto",
    execution: Mode = "auto",
    engine: EngineFile = None,
    commit_spacing: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Spacing of the history; by default the model's."),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Use every n-th frame of the bag.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")] = None,
    npz: Annotated[bool, typer.Option("--npz", help="Also write one .npz per frame.")] = False,
    film: Annotated[bool, typer.Option("--film", help="Also write film.mp4.")] = False,
) -> None:
    """Run a model on a bag or a folder of images; write predictions, images and a summary.

    OUT contains predictions/ (rosbag2 with occ_msgs, storage mcap, which Foxglove shows), images/,
    summary.json and, on request, npz/ and film.mp4. An interrupted run keeps its results; its
    summary has finished: false.
    """
    from occ_perception.bags.camera_drives import open_drive
    from occ_perception.bags.foxglove import PredictionWriter
    from occ_perception.bags.recording import BagError
    from occ_perception.inference.model import Model, Predictions, exported_model
    from occ_perception.models.postprocess import NotFiniteError

    writer = PredictionWriter(out / "predictions")
    if engine is not None:
        if weights is not None or random_weights is not None:
            raise OptionError("--engine has its own weights; leave out --weights, --random-weights")
        network: Model = exported_model(engine, model)
    elif model is None:
        raise OptionError("no model: give --model NAME or --engine FILE.onnx")
    else:
        network = Model(model, weights, random_weights, device, precision, execution)
    with open_drive(
        source,
        layout=layout,
        rig=rig,
        poses=poses,
        rate_hz=rate,
        model=network.card,
        lidar_topic=lidar_topic,
    ) as drive:
        predictions = Predictions(network, drive, every, limit, commit_spacing)
        tell_about(predictions, random_weights, "output")
        running = predictions.engine
        assert running is not None
        loaded = running.loaded
        record = Record(
            *(str(source), drive.source, loaded.label),
            *(str(loaded.device), running.words),
            absent_cameras=loaded.card.absent_cameras,
        )
        failure: BaseException | None = None
        with writer:
            results = Results(out, writer, npz, film)
            try:
                with results:
                    for prediction in _with_progress(predictions):
                        results.add(prediction)
                        record.add(prediction)
            except (Exception, KeyboardInterrupt) as caught:
                failure = caught  # raised below, after the bag is closed and the summary written
        record.problems = predictions.problems
    summary = record.summary(failure)
    write_whole(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    _print_summary(summary, record, out)
    if isinstance(failure, KeyboardInterrupt):
        warn("interrupted: the results so far are kept")
        raise typer.Exit(_INTERRUPTED)
    if failure is not None:
        raise failure
    not_finite = [problem for problem in record.problems if problem.reason == "not_finite"]
    if not record.timings_ms and not_finite:
        raise NotFiniteError(f"{not_finite[0]}; so it is for all {len(not_finite)} frames")
    if not record.timings_ms:
        raise BagError(f"{source} has no complete frame; `occ info {source}` shows what is missing")


def _with_progress(predictions: Predictions) -> Iterator[Prediction]:
    from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("frames", total=predictions.expected_frames)
        for prediction in predictions:
            yield prediction
            progress.advance(task)


class Results:
    """Writes the results of each frame; a context manager.

    Args:
        out: folder of the run.
        writer: open bag for the predictions.
        npz: whether to write arrays too.
        film: whether to write a film too.
    """

    def __init__(self, out: Path, writer: PredictionWriter, npz: bool, film: bool) -> None:
        self._writer = writer
        self._images = out / "images"
        self._arrays = out / "npz" if npz else None
        self._film = RunFilm(out / "film.mp4") if film else None
        self._count = 0
        for folder in (self._images, self._arrays):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the film, also that of a run that was interrupted."""
        if self._film is not None:
            self._film.finish()

    def add(self, prediction: Prediction) -> None:
        """Write the prediction of one frame."""
        name = f"{self._count:06d}_{prediction.stamp_ns}"
        self._count += 1
        self._writer.write_prediction(prediction)
        prediction.save(self._images / f"{name}.png")
        if self._arrays is not None:
            prediction.save(self._arrays / f"{name}.npz")
        if self._film is not None:
            self._film.add(prediction)


class RunFilm:
    """A film at the rate of the first two predictions.

    Args:
        path: the file.

    Raises:
        MissingPackageError: numba is not installed.
    """

    def __init__(self, path: Path) -> None:
        with needed_for("--film"):
            import numba  # noqa: F401
        self._path = path
        self._film: Film | None = None
        self._first: Prediction | None = None

    def add(self, prediction: Prediction) -> None:
        """Add one image."""
        if self._film is not None:
            self._write(prediction)
        elif self._first is None:
            self._first = prediction
        else:
            self._begin(self._first, prediction)

    def finish(self) -> None:
        """Write the file; without any image there is none."""
        if self._film is None and self._first is not None:
            self._begin(self._first)
        if self._film is not None:
            self._film.__exit__(None)

    def _begin(self, *predictions: Prediction) -> None:
        from occ_perception.viewer.films import Film, recorded_rate

        self._film = Film(self._path, recorded_rate([p.stamp_ns for p in predictions]))
        for prediction in predictions:
            self._write(prediction)

    def _write(self, prediction: Prediction) -> None:
        from occ_perception.viewer.images import film_image

        assert self._film is not None
        self._film.write(film_image(prediction, prediction.frame))


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
