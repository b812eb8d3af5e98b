"""The shipped checkpoint of a run on the town: small weights, scored on towns it has not seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from occ_perception.atomic import atomic_path, write_whole
from occ_perception.errors import OccError
from occ_perception.metrics import Evaluation, Report
from occ_perception.models.card import ModelCard
from occ_perception.models.checkpoint_keys import checkpoint_key
from occ_perception.models.zoo import get_card
from occ_training.checkpoints import WEIGHTS_FILE, finished_checkpoints, step_of
from occ_training.data.sample import collate
from occ_training.evaluate import EvaluationTask, evaluate, frame_truth
from occ_training.recipes import RECIPES
from occ_training.run_folder import CHECKPOINTS, RECIPE_FILE, held_recipe
from occ_training.town import town_dataset

SCORES_FILE, REPORT_FILE = "scores.json", "report.md"
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
    run: Path, frames: Path, device: str, jobs: int, install: bool, say: Callable[[str], None]
) -> str:
    """Pack and score the last checkpoint of a finished run; returns the report.

    Args:
        run: its folder; gets the weights, the scores and the report.
        frames: where frames of the town are kept.
        device: to score on.
        jobs: processes that score.
        install: put the weights into the package when they are scored.
        say: told how it goes.

    Raises:
        PackError: the run is not complete, or knows nothing of the town.
    """
    recipe = held_recipe(run, RECIPES)
    card = get_card(recipe.model)
    checkpoints = finished_checkpoints(run / CHECKPOINTS)
    step = step_of(checkpoints[-1]) if checkpoints else 0
    if step < recipe.steps:
        raise PackError(
            f"{run} is at step {step} of {recipe.steps}: `occ-train fit {recipe.name} --out {run}` "
            "goes on"
        )
    if recipe.town is None or (install and card.packaged is None):
        raise PackError(
            f"{recipe.name} was not trained on the town, or is no model of the package; "
            f"{checkpoints[-1] / WEIGHTS_FILE} is what `occ run --weights` takes"
        )
    weights = run / f"{card.name}.safetensors"
    write_half(checkpoints[-1] / WEIGHTS_FILE, card, weights)
    index = town_dataset(frames, "test", recipe.town.clips("test"), recipe.town, say=say)
    tasks = {
        title: EvaluationTask(
            model=card.name,
            weights=weights,
            device=device,
            data=frames / "test.jsonl",
            parts=_PARTS,
            history=history,
        )
        for title, history in (("with history", True), ("without history", False))
    }
    reports = {title: evaluate(task, jobs) for title, task in tasks.items()}
    reports["nothing moves"] = _standing(tasks["with history"], card)
    facts = {
        "recipe": json.loads((run / RECIPE_FILE).read_text()),
        "torch": torch.__version__,
        "scores": {title: json.loads(report.to_json()) for title, report in reports.items()},
    }
    write_whole(run / SCORES_FILE, json.dumps(facts, indent=1) + "\n")
    lead = f"{recipe.steps} steps of {recipe.batch} samples, seed {recipe.seed}, torch "
    text = _as_text(f"{lead}{torch.__version__}; {len(index)} frames of the test split", reports)
    write_whole(run / REPORT_FILE, text)
    if install:
        assert card.packaged is not None
        write_whole(card.packaged, weights.read_bytes())
        say(f"installed as {card.packaged}")
    return text


def write_half(source: Path, card: ModelCard, path: Path) -> None:
    """Weights in half precision, statistics in single: those of the camera code reach a million."""
    with torch.device("meta"):
        net = card.build()
    parameters = {checkpoint_key(name, card.names) for name, _ in net.named_parameters()}
    tensors = {
        name: tensor.half() if name in parameters else tensor
        for name, tensor in load_file(source).items()
    }
    with atomic_path(path) as unfinished:
        save_file(tensors, unfinished, metadata={"format": "pt", "model": card.name})


def _standing(task: EvaluationTask, card: ModelCard) -> Report:
    """Scores of an answer that knows every class, and says that nothing moves."""
    evaluation = Evaluation(card.label_set, ("rays_and_flow",), card.grid)
    dataset = task.dataset()
    for position in range(len(dataset)):
        truth = frame_truth(collate([dataset[position]]))
        evaluation.update(truth.labels, truth, torch.zeros_like(truth.flow))
    return evaluation.report("nothing moves")


def _as_text(lead: str, reports: dict[str, Report]) -> str:
    """Markdown: means, then classes."""

    def voxel(report: Report, part: str, name: str) -> str:
        value = report.scores.get(part, {}).get(name)
        if value is None:
            return ""
        return f"{value:.2f} m/s" if "AVE" in name else f"{100 * value:.1f} %"

    ours = [report for title, report in reports.items() if title != "nothing moves"]
    classes = [name for name in ours[0].scores["camera_mask"] if name.startswith("IoU[")]
    lines = [lead, "", f"| | {' | '.join(reports)} |", "| --- |" + " ---: |" * len(reports)]
    for part, name in _MEANS:
        standing = reports["nothing moves"] if "AVE" in name else Report("", "", 0, {})
        row = [voxel(report, part, name) for report in (*ours, standing)]
        lines.append(f"| {part} {name} | {' | '.join(row)} |")
    for name in classes:
        row = [voxel(report, "camera_mask", name) for report in ours]
        lines.append(f"| {name[4:-1]} | {' | '.join(row)} | |")
    return "\n".join(lines) + "\n"
