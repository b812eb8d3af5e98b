"""The state of a run on disk: files small enough to travel, whole or not there.

``resume/`` holds ``run.json`` and the tensors in numbered files of at most 15 MB.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_MOST_BYTES = 15_000_000
_FOLDER, _FACTS = "resume", "run.json"


class ResumeError(ValueError):
    """What lies in the folder does not belong to this run."""


@dataclass(frozen=True, eq=False)
class Saved:
    """A run at some moment.

    Attributes:
        plan: the run's plan as JSON.
        facts: plain values: step, seconds, curve.
        tensors: weights, averages, moments of the optimiser.
    """

    plan: str
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(folder: Path, saved: Saved) -> None:
    """Write the state; the former one stays until the new one is complete."""
    unfinished, old = folder / f".{_FOLDER}.unfinished", folder / f".{_FOLDER}.old"
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number, part in enumerate(_parts(saved.tensors)):
        torch.save(part, unfinished / f"tensors_{number:02d}.pt")
    facts = {"plan": saved.plan, **saved.facts}
    (unfinished / _FACTS).write_text(json.dumps(facts))
    final = folder / _FOLDER
    if final.exists():
        final.rename(old)
    unfinished.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, plan: str) -> Saved | None:
    """The state of a run, None where there is none.

    Raises:
        ResumeError: it is that of another plan.
    """
    final = folder / _FOLDER
    if not final.exists() and (folder / f".{_FOLDER}.old").exists():
        final = folder / f".{_FOLDER}.old"  # killed between the two renames
    if not (final / _FACTS).is_file():
        return None
    facts = json.loads((final / _FACTS).read_text())
    if facts.pop("plan") != plan:
        raise ResumeError(
            f"{final} holds a run with another plan; give another folder, or remove it"
        )
    tensors: dict[str, Tensor] = {}
    for part in sorted(final.glob("tensors_*.pt")):
        tensors |= torch.load(part, map_location="cpu", weights_only=True)
    return Saved(plan, facts, tensors)


def _parts(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    parts: list[dict[str, Tensor]] = [{}]
    room = _MOST_BYTES
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if size > room and parts[-1]:
            parts.append({})
            room = _MOST_BYTES
        parts[-1][name] = tensor.detach().cpu().clone()
        room -= size
    return parts
