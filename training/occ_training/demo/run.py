"""Render, train, score and pack the demonstration checkpoint, in one command that can be ended.

    python -m occ_training.demo.run [--folder demo_checkpoint_run] [--stop-after 9]
    make demo-checkpoint ARGS="--stop-after 9"

Called again it goes on. When the plan is complete the checkpoint is scored on held-out towns and
written, with its scores, to the folder and (``--install``) into the package.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from occ_perception.models.occupancy_net import OccupancyNet
from occ_perception.models.published_names import published_key
from occ_perception.models.zoo import ModelCard, get_card
from occ_training.demo.plan import Plan
from occ_training.demo.pool import FramePool, RenderError
from occ_training.demo.resuming import ResumeError
from occ_training.demo.scoring import TownScores, score
from occ_training.demo.training import DemoTraining, GateError

WEIGHTS_FILE = "alocc_town.safetensors"
SCORES_FILE, REPORT_FILE = "scores.json", "report.md"


def run(
    plan: Plan,
    folder: Path,
    device: torch.device,
    processes: int,
    stop_after_min: float = math.inf,
    save_every_s: float = 60.0,
    card: ModelCard | None = None,
) -> bool:
    """Do what is left of a plan; returns whether it is complete.

    Args:
        plan: what to do.
        folder: of the run; what lies there is gone on with.
        device: to train on.
        processes: that render; 0 renders in this one.
        stop_after_min: minutes after which to stop training, complete or not.
        save_every_s: seconds between states on disk.
        card: of the model, for sizes that are not the zoo's.

    Raises:
        GateError, RenderError, ResumeError: see there.
    """
    card = card or get_card(plan.model)
    folder.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + 60.0 * stop_after_min
    training = DemoTraining(plan, card, folder, device)
    if not training.complete:
        _train(training, processes, until, save_every_s)
    if not training.complete:
        return False
    net = training.averaged()
    pack(net, card, plan, folder / WEIGHTS_FILE)
    with FramePool(plan.test_clips(), card, processes) as test:
        scores = {
            "with history": score(net, card, test, device),
            "without history": score(net, card, test, device, with_history=False),
        }
    _write_report(plan, training, scores, folder)
    return True


def _train(training: DemoTraining, processes: int, until: float, save_every_s: float) -> None:
    plan, card = training.plan, training.card
    clips = plan.training_clips(training.step)
    # One process has the gate's frames ready long before it is reached.
    held_out = plan.validation_clips() if training.before_gate else []
    with (
        FramePool(clips, card, processes, together=plan.drives) as pool,
        FramePool(held_out, card, min(processes, 1)) as validation,
    ):
        training.train(
            pool,
            until,
            save_every_s,
            validate=lambda net: score(net, card, validation, training.device).mean_iou,
            report=partial(print, flush=True),
        )


def pack(net: OccupancyNet, card: ModelCard, plan: Plan, path: Path) -> None:
    """Write weights in half precision, statistics in single, under published names.

    Statistics of the camera code reach a million, which half precision cannot hold.
    """
    from safetensors.torch import save_file

    parameters = dict(net.named_parameters())
    tensors = {
        published_key(name, card.names): (
            tensor.detach().half() if name in parameters else tensor.detach()
        )
        .cpu()
        .contiguous()
        for name, tensor in net.state_dict().items()
    }
    metadata = {"format": "pt", "model": card.name, "plan": plan.to_json()}
    unfinished = path.with_name(f"{path.name}.part")
    save_file(tensors, unfinished, metadata=metadata)
    unfinished.replace(path)


def _write_report(
    plan: Plan, training: DemoTraining, scores: dict[str, TownScores], folder: Path
) -> None:
    facts: dict[str, Any] = {
        "device": _device_name(training.device),
        "torch": torch.__version__,
        "minutes": round(training.seconds / 60.0, 1),
        "steps": training.step,
        "plan": json.loads(plan.to_json()),
        "scores": {name: asdict(value) for name, value in scores.items()},
        "curve": training.curve,
    }
    (folder / SCORES_FILE).write_text(json.dumps(facts, indent=1))
    lines = [
        f"- {facts['steps']} steps in {facts['minutes']} minutes on {facts['device']}, "
        f"torch {facts['torch']}, seed {plan.seed}",
        f"- {scores['with history'].frames} frames of {plan.test_towns} towns that were not "
        "trained on, under the camera mask",
        "",
        "| | mIoU | geometric IoU | flow error, m/s | of zero flow |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, value in scores.items():
        lines.append(
            f"| {name} | {100 * value.mean_iou:.1f} % | {100 * value.geometry_iou:.1f} % | "
            f"{value.velocity_error:.2f} | {value.standing_error:.2f} |"
        )
    lines += ["", "| class | with history | without |", "| --- | ---: | ---: |"]
    both = scores["with history"].class_iou, scores["without history"].class_iou
    lines += [f"| {n} | {100 * v:.1f} % | {100 * both[1][n]:.1f} % |" for n, v in both[0].items()]
    (folder / REPORT_FILE).write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, {torch.get_num_threads()} threads"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 0 complete, 3 ended before the end."""
    parser = argparse.ArgumentParser(prog="make demo-checkpoint", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("demo_checkpoint_run"))
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="minutes; the same command goes on"
    )
    parser.add_argument(
        "--save-every", type=float, default=60.0, help="seconds, what a kill may cost"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    others = max(1, len(os.sched_getaffinity(0)) - 1)
    parser.add_argument("--processes", type=int, default=others, help="that render")
    parser.add_argument("--install", action="store_true", help="put the result into the package")
    for entry in fields(Plan):
        option = f"--{entry.name.replace('_', '-')}"
        parser.add_argument(option, type=type(entry.default), default=entry.default)
    given = parser.parse_args(arguments)
    plan = replace(Plan(), **{f.name: getattr(given, f.name) for f in fields(Plan)})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        device = torch.device(given.device)
        complete = run(
            plan, given.folder, device, given.processes, given.stop_after, given.save_every
        )
    except (GateError, RenderError, ResumeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except torch.cuda.OutOfMemoryError as error:
        print(
            f"error: a batch of {plan.batch} does not fit into the GPU's memory; the same command "
            f"with --batch {max(1, plan.batch // 2)} goes on ({error})",
            file=sys.stderr,
        )
        return 1
    if not complete:
        print(f"not complete yet; the same command goes on in {given.folder}")
        return 3
    if given.install:
        packaged = get_card(plan.model).packaged
        assert packaged is not None, "the demonstration model is a packaged one"
        packaged.parent.mkdir(exist_ok=True)
        packaged.write_bytes((given.folder / WEIGHTS_FILE).read_bytes())
        print(f"installed as {packaged}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
