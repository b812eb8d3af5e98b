"""The table of faults in docs/reliability.md."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fault_bench import Outcome

_HEAD = "| fault | sets in | right | wrong | resets | recovery |\n|---|---:|---:|---:|---:|---:|\n"
_SHOWN = 160


@dataclass
class FaultTable:
    """A row per fault, and an item of a list: counts, the reason of a reset, a sentence."""

    rows: list[str] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    latency: dict[str, list[float]] = field(default_factory=dict)

    def add(self, fault: str, outcome: Outcome) -> None:
        """Add what a fault did; the first reason and the first sentence stand for all."""
        recovery = "" if math.isnan(outcome.recovery_s) else f"{outcome.recovery_s:.1f} s"
        cells = [fault, outcome.sets, outcome.right, outcome.wrong, len(outcome.resets), recovery]
        self.rows.append("| " + " | ".join(map(str, cells)) + " |")
        parts = [", ".join(f"{name} {n}" for name, n in sorted(outcome.counters.items()))]
        parts += outcome.resets[:1] + [f'"{_cut(line)}"' for line in outcome.said[:1]]
        item = f"- **{fault}**: " + ("; ".join(filter(None, parts)) or "nothing")
        self.items.append(textwrap.fill(item, 100, subsequent_indent="  ", break_long_words=False))

    def write(self, path: Path) -> None:
        """Table, list, and the latency by stage if it is known, as Markdown."""
        text = _HEAD + "\n".join(self.rows) + "\n\n" + "\n".join(self.items) + "\n"
        if self.latency:
            count = len(next(iter(self.latency.values())))
            text += f"\n| stage, ms of {count} grids | p50 | p90 | max |\n|---|---:|---:|---:|\n"
            for name, values in self.latency.items():
                shown = " | ".join(f"{np.percentile(values, q):.1f}" for q in (50, 90, 100))
                text += f"| {name.removesuffix('_ms')} | {shown} |\n"
        path.write_text(text)


def _cut(line: str) -> str:
    return line if len(line) <= _SHOWN else line[:_SHOWN] + " ..."
