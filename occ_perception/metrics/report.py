"""The report of an evaluation: scores as tables, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table


@dataclass(frozen=True)
class Report:
    """Scores of one evaluation.

    Attributes:
        title: name of the model or run.
        protocol: name of the protocol.
        frames: number of frames counted.
        scores: part of the protocol -> score -> value: fractions of 1, velocity errors in m/s, NaN
            if there is no value; scores of one class are called ``score[class]``.
    """

    title: str
    protocol: str
    frames: int
    scores: Mapping[str, Mapping[str, float]]

    def tables(self) -> Group:
        """Rich tables: the scores, then one table per part with the scores of each class."""
        parts = [self._classes(part) for part in self.scores]
        from rich.console import Group  # imported here: computing scores does not need rich

        return Group(self._summary(), *(table for table in parts if table.row_count))

    def print(self, console: Console | None = None) -> None:
        """Print :meth:`tables`."""
        from rich.console import Console

        (console or Console()).print(self.tables())

    def to_json(self) -> str:
        """Everything at full precision; a score without a value is null."""
        document: dict[str, Any] = {
            "title": self.title,
            "protocol": self.protocol,
            "frames": self.frames,
            "parts": {},
        }
        for part, scores in self.scores.items():
            entry: dict[str, Any] = {"scores": {}, "per_class": {}}
            for name, value in scores.items():
                score, class_name = split_score(name)
                number = None if math.isnan(value) else value
                if class_name is None:
                    entry["scores"][score] = number
                else:
                    entry["per_class"].setdefault(score, {})[class_name] = number
            document["parts"][part] = entry
        return json.dumps(document, indent=2) + "\n"

    def to_csv(self) -> str:
        """One line per value: part, score, class (empty for a mean), value (empty for none)."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["part", "score", "class", "value"])
        for part, scores in self.scores.items():
            for name, value in scores.items():
                score, class_name = split_score(name)
                number = "" if math.isnan(value) else repr(value)
                writer.writerow([part, score, class_name or "", number])
        return text.getvalue()

    def _summary(self) -> Table:
        frames = "1 frame" if self.frames == 1 else f"{self.frames} frames"
        table = _table(" · ".join(filter(None, [self.title, self.protocol, frames])), "score")
        for part in self.scores:
            table.add_column(part, justify="right")
        names = dict.fromkeys(name for scores in self.scores.values() for name in scores)
        for name in names:
            if split_score(name)[1] is None:
                cells = [_cell(name, scores.get(name)) for scores in self.scores.values()]
                table.add_row(f"{name} ({unit_of(name)})", *cells)
        return table

    def _classes(self, part: str) -> Table:
        scores = self.scores[part]
        split = [pair for pair in map(split_score, scores) if pair[1]]
        columns = dict.fromkeys(score for score, _ in split)
        table = _table(f"{part}, per class", "class")
        for score in columns:
            table.add_column(f"{score}\n({unit_of(score)})", justify="right")
        for class_name in dict.fromkeys(name for _, name in split if name):
            names = [f"{score}[{class_name}]" for score in columns]
            table.add_row(class_name, *(_cell(name, scores.get(name)) for name in names))
        return table


def _table(title: str, first_column: str) -> Table:
    # Without padding the widest table, with three ray and three velocity columns, fits 80 columns.
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=0)
    table.add_column(first_column, no_wrap=True)
    return table


def split_score(name: str) -> tuple[str, str | None]:
    """``IoU[car]`` -> (``IoU``, ``car``); ``mIoU`` -> (``mIoU``, None)."""
    score, bracket, rest = name.partition("[")
    return score, rest.removesuffix("]") if bracket else None


def unit_of(score: str) -> str:
    """Unit of a score in the tables: ``m/s`` for velocity errors, otherwise ``%``."""
    return "m/s" if score.removeprefix("m").startswith("AVE") else "%"


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if unit_of(name) == "m/s" else f"{100 * value:.2f}"
