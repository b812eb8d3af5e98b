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

from occ_perception.errors import OccError

_MOST_BYTES = 15_000_000
_FOLDER, _FACTS = "resume", "run.json"


class ResumeError(OccError):
    """What lies in the folder does not belong to this run."""


@dataclass(frozen=True, eq=False)
class Saved:
    """A run at some moment.

    Attributes:
        identity: of the run's plan.
        facts: plain values: step, seconds, curve.
        tensors: weights, averages, moments of the optimiser.
    """

    identity: Mapping[str, Any]
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(folder: Path, saved: Saved) -> None:
    """Write the state; the former one stays until the new one is complete."""
    unfinished, old = folder / f".{_FOLDER}.unfinished", folder / f".{_FOLDER}.old"
    final = _latest(folder)
    for leftover in (unfinished, old):
        shutil.rmtree(leftover, ignore_errors=True)
    unfinished.mkdir(parents=True)
    for number, part in enumerate(_parts(saved.tensors)):
        torch.save(part, unfinished / f"tensors_{number:02d}.pt")
    facts = {"plan": saved.identity, **saved.facts}
    (unfinished / _FACTS).write_text(json.dumps(facts))
    if final.exists():
        final.rename(old)
    unfinished.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, identity: Mapping[str, Any]) -> Saved | None:
    """The state of a run, None where there is none.

    Raises:
        ResumeError: it is that of another plan; the text names what differs.
    """
    final = _latest(folder)
    if not (final / _FACTS).is_file():
        return None
    facts = json.loads((final / _FACTS).read_text())
    there, wanted = facts.pop("plan"), dict(identity)
    differences = [
        f"{name} {there.get(name)} there, {wanted.get(name)} wanted"
        for name in sorted(there.keys() | wanted.keys())
        if there.get(name) != wanted.get(name)
    ]
    if differences:
        raise ResumeError(
            f"{final} holds a run with another plan: {'; '.join(differences)}; give another "
            "folder, or remove it"
        )
    tensors: dict[str, Tensor] = {}
    for part in sorted(final.glob("tensors_*.pt")):
        tensors |= torch.load(part, map_location="cpu", weights_only=True)
    return Saved(identity, facts, tensors)


def _latest(folder: Path) -> Path:
    """Where the last complete state lies."""
    final, old = folder / _FOLDER, folder / f".{_FOLDER}.old"
    if old.exists() and not final.exists():
        old.rename(final)  # killed between the two renames
    return final


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
