"""``occ-train fit``, ``pack``, ``eval``, ``overfit`` and ``recipes``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from occ_perception.atomic import write_whole
from occ_perception.cli.model_options import Mode, Precision
from occ_perception.errors import OptionError

if TYPE_CHECKING:
    from occ_perception.metrics import Report
    from occ_training.data.dataset import OccupancyDataset
    from occ_training.data.index import DatasetIndex
    from occ_training.recipe import TrainingRecipe
    from occ_training.run_file import RunFile


FRAMES = "frames"
"""Folder of a run for frames that it renders."""


def fit(
    recipe: Annotated[str, typer.Argument(help="See `occ-train recipes`; or a YAML run file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    data: Annotated[
        Path | None,
        typer.Option(help="Index of the training data; default: the run file's or the recipe's."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Key of its labels; default: the model's label set.")
    ] = None,
    validation: Annotated[Path | None, typer.Option(help="Index to evaluate on.")] = None,
    frames: Annotated[
        Path | None,
        typer.Option(help="Folder for frames that the recipe renders; default: OUT/frames."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(min=1, help="Length of the run; every schedule is scaled with it."),
    ] = None,
    cpu_hours: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Length of a run on a CPU instead, summed over all cores; it becomes a number of "
            "samples once, when the run begins.",
        ),
    ] = None,
    devices: Annotated[
        str | None, typer.Option(help="Processes on this machine: a number or auto.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Machines.")] = None,
    accelerator: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a value of the recipe."),
    ] = None,
) -> None:
    """Train a model, or resume the run in OUT.

    Writes logs/ (CSV, TensorBoard), checkpoints/ and validation/ to OUT. Use the weights of a
    checkpoint with `occ run --weights`.
    """
    from occ_perception.models.zoo import get_card
    from occ_training.budget import samples_in
    from occ_training.data.dataset import OccupancyDataset
    from occ_training.evaluate import evaluation_options
    from occ_training.fit import fit as train

    run = _chosen_run(recipe, set_ or [])
    labels = labels or run.labels
    index, held_out_index = _data_of(
        run.recipe, data or run.data, validation or run.validation, frames or out / FRAMES
    )
    chosen = _without_missing_classes(run.recipe, index)
    card = get_card(chosen.model)
    dataset = OccupancyDataset(index, card, chosen.sample_options(card, labels))
    _print_left_out(dataset)
    if cpu_hours is not None:
        if samples is not None:
            raise OptionError("give either --samples or --cpu-hours, not both")
        samples = samples_in(cpu_hours, chosen, dataset, card, out)
        typer.echo(f"{cpu_hours:g} CPU hours: {samples} samples")
    if samples is not None:
        chosen = chosen.lasting(samples)
    held_out = None
    if held_out_index is not None:
        held_out = OccupancyDataset(held_out_index, card, evaluation_options(card, labels))
        _print_left_out(held_out)
    weights = train(
        chosen,
        dataset,
        out,
        accelerator=accelerator,
        devices=_device_count(devices or run.devices),
        nodes=nodes or run.nodes,
        validation=held_out,
    )
    typer.echo(f"weights: {weights}")


def pack(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run on the town.")],
    frames: Annotated[
        Path | None, typer.Option(help="Folder of its frames; default: RUN/frames.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    jobs: Annotated[int, typer.Option(min=1, help="Processes for scoring.")] = 1,
    install: Annotated[
        bool, typer.Option("--install", help="Also install the weights into the package.")
    ] = False,
) -> None:
    """Pack the final checkpoint of a run on the town, and score it on the test split.

    Writes MODEL.safetensors, scores.json and report.md to RUN.
    """
    from occ_training.packing import pack as pack_run

    typer.echo(pack_run(run, frames or run / FRAMES, device, jobs, install, typer.echo))


def evaluate(
    model: Annotated[str, typer.Argument(help="See `occ models list`.")],
    data: Annotated[Path, typer.Option(help="Index of the data set.")],
    weights: Annotated[
        Path | None,
        typer.Option(help="Checkpoint: .pth or .safetensors; default: the model's own."),
    ] = None,
    random_weights: Annotated[
        int | None, typer.Option(metavar="SEED", help="Random weights instead.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Key of the labels; default: the model's label set.")
    ] = None,
    sequence: Annotated[
        list[str] | None, typer.Option(help="Only this recording; can be repeated.")
    ] = None,
    part: Annotated[
        list[str] | None, typer.Option(help="Only this part of the protocol; can be repeated.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for one .npz per frame.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the scores as JSON.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the scores as CSV.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    precision: Precision = "fp32",
    execution: Mode = "eager",
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each takes whole sequences.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Ray cluster to use, or local.")
    ] = None,
) -> None:
    """Score a model on a data set, with the protocol of its published results.

    Every frame is evaluated once. The scores do not depend on the number of processes.
    """
    from tqdm import tqdm

    from occ_training.evaluate import EvaluationTask
    from occ_training.evaluate import evaluate as run

    task = EvaluationTask(
        model=model,
        weights=weights,
        random_seed=random_weights,
        device=device,
        precision=precision,
        execution=execution,
        data=data,
        labels=labels,
        sequences=tuple(sequence) if sequence else None,
        parts=tuple(part) if part else None,
        save=save,
    )
    _print_left_out(task.dataset())
    with tqdm(unit="frame") as bar:

        def on_progress(done: int, frames: int) -> None:
            bar.total = frames
            bar.update(done - bar.n)

        report = run(task, jobs, ray, on_progress)
    _write_report(report, json, csv)


def overfit(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 360,
    voxels: Annotated[int, typer.Option(help="Voxels along x and y: 50, 100 or 200.")] = 50,
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    accelerator: Annotated[str, typer.Option(help="auto, gpu or cpu.")] = "auto",
) -> None:
    """Overfit two frames of the town: a smoke test of the training code.

    Needs no data. Prints the first and last loss, and the scores on the two frames beside those of
    an oracle that knows the depth and class of every pixel.
    """
    from occ_training.overfitting import overfit_two_frames

    result = overfit_two_frames(out, steps, voxels, precision, accelerator)
    typer.echo(result.summary())


def recipes(
    name: Annotated[str | None, typer.Argument(help="Recipe to print as a run file.")] = None,
) -> None:
    """List the recipes, or print one with all its values as a run file."""
    from occ_training.recipes import RECIPES
    from occ_training.run_file import as_run_file, read_run

    if name is not None:
        typer.echo(as_run_file(read_run(name, RECIPES).recipe), nl=False)
        return
    for known in sorted(RECIPES):
        recipe = RECIPES[known]()
        terms = ", ".join(type(term).__name__ for term in recipe.terms)
        history = f"history from step {recipe.history_from}"
        typer.echo(f"{known}: {recipe.steps} steps of {recipe.batch}, {history}; {terms}")


def _chosen_run(name: str, settings: list[str]) -> RunFile:
    import yaml

    from occ_training.recipes import RECIPES
    from occ_training.run_file import changed, read_run

    run = read_run(name, RECIPES)
    for setting in settings:
        key, sign, value = setting.partition("=")
        if not sign:
            raise OptionError(f"--set {setting}: expected NAME=VALUE, as in --set steps=1000")
        try:
            change: object = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise OptionError(f"--set {setting}: the value is not YAML: {error}") from error
        for part in reversed(key.split(".")):
            change = {part: change}
        assert isinstance(change, dict)
        run = replace(run, recipe=changed(run.recipe, change, f"--set {setting}"))
    return run


def _data_of(
    recipe: TrainingRecipe, data: Path | None, validation: Path | None, frames: Path
) -> tuple[DatasetIndex, DatasetIndex | None]:
    """Training and validation data: as given, or the recipe's own."""
    from occ_training.data.index import DatasetIndex
    from occ_training.town import town_dataset

    held_out = None if validation is None else DatasetIndex.load(validation)
    if data is not None:
        return DatasetIndex.load(data), held_out
    town = recipe.town
    if town is None:
        raise OptionError(f"{recipe.name} names no data set: give --data, or `data:` in a run file")
    index = town_dataset(frames, "train", town.clips("train"), town, log=typer.echo)
    if held_out is None and town.validation_towns:
        clips = town.clips("validation")
        held_out = town_dataset(frames, "validation", clips, town, log=typer.echo)
    return index, held_out


def _without_missing_classes(recipe: TrainingRecipe, index: DatasetIndex) -> TrainingRecipe:
    """The recipe without terms that need classes of lidar points, if no frame has them.

    Prints which terms are dropped.
    """
    if any(frame.lidar is not None and frame.lidar.semantics for frame in index.frames):
        return recipe
    reduced = recipe.without("point_classes")
    left_out = [type(term).__name__ for term in recipe.terms if term not in reduced.terms]
    if left_out:
        typer.echo(
            f"no frame of {index.header.name} has classes of lidar points: trained without "
            f"{', '.join(left_out)}",
            err=True,
        )
    return reduced


def _device_count(devices: int | str) -> int | str:
    try:
        return devices if devices == "auto" else int(devices)
    except ValueError as error:
        raise OptionError(f"--devices must be a number or auto, got {devices!r}") from error


def _print_left_out(dataset: OccupancyDataset) -> None:
    left_out = dataset.left_out
    summary = left_out.summary(len(dataset) + len(left_out.tokens))
    if summary:
        typer.echo(summary, err=True)


def _write_report(report: Report, json: Path | None, csv: Path | None) -> None:
    for path, text in ((json, report.to_json()), (csv, report.to_csv())):
        if path is not None:
            write_whole(path, text)
    report.print()
