"""The packaged checkpoint of a run on the town: half-precision weights, scored on test towns."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from occ_perception.atomic import atomic_path, write_whole
from occ_perception.errors import OccError
from occ_perception.metrics import Evaluation, Report
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.zoo import get_card
from occ_perception.runtime.weights import load_model
from occ_training.checkpoints import WEIGHTS_FILE, finished_checkpoints, step_of
from occ_training.class_bias import draw_logits, fit_class_bias
from occ_training.data.dataset import OccupancyDataset
from occ_training.data.sample import collate
from occ_training.evaluate import EvaluationTask, evaluate, evaluation_options, frame_truth
from occ_training.recipes import RECIPES
from occ_training.run_folder import CHECKPOINTS, RECIPE_FILE, VALIDATION, stored_recipe
from occ_training.town import TownData, town_dataset
from occ_training.town_scores import as_table, score_by_distance

SCORES_FILE, REPORT_FILE, _PREDICTIONS = "scores.json", "report.md", "predictions"
# The bias of a softmax head, which is fitted; and voxels per frame that it is fitted to.
_BIAS, _FITTED_POINTS = "head.bias", 40_000
_PARTS = ("camera_mask", "rays_and_flow")
_MEANS = (
    ("camera_mask", "mIoU"),
    ("camera_mask", "IoU"),
    ("rays_and_flow", "RayIoU"),
    ("rays_and_flow", "mAVE_VOXEL"),
)


class PackError(OccError):
    """A run cannot be packed."""


def pack(
    run: Path, frames: Path, device: str, jobs: int, install: bool, log: Callable[[str], None]
) -> str:
    """Pack and score the last checkpoint of a finished run; returns the report.

    Args:
        run: its folder; the weights, the scores and the report are written there.
        frames: folder of the frames of the town.
        device: for scoring.
        jobs: processes for scoring.
        install: copy the weights into the package after scoring.
        log: called with each line of progress.

    Raises:
        PackError: the run is not complete, or was not trained on the town.
    """
    recipe = stored_recipe(run, RECIPES)
    card = get_card(recipe.model)
    checkpoints = finished_checkpoints(run / CHECKPOINTS)
    step = step_of(checkpoints[-1]) if checkpoints else 0
    if step < recipe.steps:
        raise PackError(
            f"{run} is at step {step} of {recipe.steps}: `occ-train fit {recipe.name} --out {run}` "
            "resumes it"
        )
    if recipe.town is None or (install and card.packaged is None):
        raise PackError(
            f"{recipe.name} was not trained on the town, or its weights are not part of the "
            f"package; use {checkpoints[-1] / WEIGHTS_FILE} with `occ run --weights`"
        )
    weights = run / f"{card.name}.safetensors"
    trained = checkpoints[-1] / WEIGHTS_FILE
    tensors = load_file(trained)
    if _BIAS in tensors:
        change = _fitted_bias(card, trained, recipe.town, frames, device, log)
        tensors[_BIAS] = tensors[_BIAS] + change
    write_half(tensors, card, weights)
    index = town_dataset(frames, "test", recipe.town.clips("test"), recipe.town, log=log)
    tasks = {
        title: EvaluationTask(
            model=card.name,
            weights=weights,
            device=device,
            data=frames / "test.jsonl",
            parts=_PARTS,
            history=history,
            save=run / _PREDICTIONS / title,
        )
        for title, history in (("with history", True), ("without history", False))
    }
    reports = {title: evaluate(task, jobs) for title, task in tasks.items()}
    by_distance = score_by_distance(
        index,
        town_dataset(frames, "train", recipe.town.clips("train"), recipe.town, log=log),
        {title: folder for title, task in tasks.items() if (folder := task.save) is not None},
    )
    shutil.rmtree(run / _PREDICTIONS)
    reports["nothing moves"] = _zero_flow_report(tasks["with history"], card)
    facts = {
        "command": f"occ-train fit {recipe.name} --samples {recipe.steps * recipe.batch}",
        "recipe": json.loads((run / RECIPE_FILE).read_text()),
        "torch": torch.__version__,
        "curve": learning_curve(run),
        "scores": {title: json.loads(report.to_json()) for title, report in reports.items()},
        "by_distance": {title: asdict(scores) for title, scores in by_distance.items()},
    }
    write_whole(run / SCORES_FILE, json.dumps(facts, indent=1) + "\n")
    lead = f"{recipe.steps} steps of {recipe.batch} samples, seed {recipe.seed}, torch "
    text = _as_text(f"{lead}{torch.__version__}; {len(index)} frames of the test split", reports)
    text += "\n" + "\n".join(as_table(by_distance)) + "\n"
    write_whole(run / REPORT_FILE, text)
    if install:
        assert card.packaged is not None
        write_whole(card.packaged, weights.read_bytes())
        write_whole(card.packaged.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
        log(f"installed as {card.packaged}")
    return text


def learning_curve(run: Path) -> list[dict[str, float]]:
    """Step, CPU hours (of a run on a CPU, to the last line of its log) and means of the scores
    under the camera mask at every evaluation in a run.
    """
    hours = _cpu_hours(run)
    rows = []
    for file in sorted((run / VALIDATION).glob("step_*.json")):
        step = int(file.stem.removeprefix("step_"))
        means = json.loads(file.read_text())["parts"]["camera_mask"]["scores"]
        before = [h for logged, h in hours if logged <= step]
        rows.append({"step": step, **({"cpu_hours": before[-1]} if before else {}), **means})
    return rows


def _cpu_hours(run: Path) -> list[tuple[int, float]]:
    """(steps done, CPU hours) of the lines of the log that have them."""
    log = run / "logs" / "csv" / "metrics.csv"
    if not log.is_file():  # a run shorter than the first line
        return []
    with log.open(newline="") as stream:
        return [
            (int(row["step"]) + 1, round(float(row["cpu_hours"]), 4))
            for row in csv.DictReader(stream)
            if row.get("cpu_hours")
        ]


def _fitted_bias(
    card: ModelCard,
    weights: Path,
    town: TownData,
    frames: Path,
    device: str,
    log: Callable[[str], None],
) -> Tensor:
    """What to add to the class bias of a head, fitted to the validation split."""
    index = town_dataset(frames, "validation", town.clips("validation"), town, log=log)
    options = replace(evaluation_options(card, parts=("camera_mask",)), ignore_unseen="camera")
    loaded = load_model(card.name, weights, device=device)
    dataset = OccupancyDataset(index, card, options)
    drawn = draw_logits(loaded.net, card, dataset, _FITTED_POINTS)
    change_C = fit_class_bias(drawn, card.labels)
    log("class biases: " + ", ".join(f"{value:+.1f}" for value in change_C.tolist()))
    return torch.cat([torch.zeros(1), change_C])


def write_half(tensors: Mapping[str, Tensor], card: ModelCard, path: Path) -> None:
    """Write parameters in half and statistics in single precision.

    The statistics of the camera code reach a million, beyond the range of half precision.
    """
    with torch.device("meta"):
        net = card.build()
    parameters = {checkpoint_key(name, card.names) for name, _ in net.named_parameters()}
    halved = {
        name: tensor.half() if name in parameters else tensor for name, tensor in tensors.items()
    }
    with atomic_path(path) as unfinished:
        save_file(halved, unfinished, metadata={"format": "pt", "model": card.name})


def _zero_flow_report(task: EvaluationTask, card: ModelCard) -> Report:
    """Scores of the true classes with zero flow everywhere."""
    evaluation = Evaluation(card.label_set, ("rays_and_flow",), card.grid)
    dataset = task.dataset()
    for position in range(len(dataset)):
        truth = frame_truth(collate([dataset[position]]))
        evaluation.update(truth.labels, truth, torch.zeros_like(truth.flow))
    return evaluation.report("nothing moves")


def _as_text(lead: str, reports: dict[str, Report]) -> str:
    """Markdown: means, then classes."""

    def cell(report: Report, part: str, name: str) -> str:
        value = report.scores.get(part, {}).get(name)
        if value is None:
            return ""
        return f"{value:.2f} m/s" if "AVE" in name else f"{100 * value:.1f} %"

    ours = [report for title, report in reports.items() if title != "nothing moves"]
    classes = [name for name in ours[0].scores["camera_mask"] if name.startswith("IoU[")]
    lines = [lead, "", f"| | {' | '.join(reports)} |", "| --- |" + " ---: |" * len(reports)]
    for part, name in _MEANS:
        zero_flow = reports["nothing moves"] if "AVE" in name else Report("", "", 0, {})
        row = [cell(report, part, name) for report in (*ours, zero_flow)]
        lines.append(f"| {part} {name} | {' | '.join(row)} |")
    for name in classes:
        row = [cell(report, "camera_mask", name) for report in ours]
        lines.append(f"| {name[4:-1]} | {' | '.join(row)} | |")
    return "\n".join(lines) + "\n"
