"""docs/first_look.ipynb runs from its first cell to its last, and shows what it says."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import occ_perception as occ

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/first_look.ipynb"


def cells() -> list[str]:
    content = json.loads(NOTEBOOK.read_text())
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as a notebook does; the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop()
    exec(compile(tree, str(NOTEBOOK), "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
    exec(compile(ast.Module([last], []), str(NOTEBOOK), "exec"), names)
    return None


@pytest.fixture(scope="module")
def shown() -> list[Any]:
    names: dict[str, Any] = {}
    return [run(source, names) for source in cells()]


def test_the_notebook_runs_and_shows_a_prediction(shown: list[Any]) -> None:
    predictions = [value for value in shown if isinstance(value, occ.Prediction)]
    assert len(predictions) == 1
    assert predictions[0].history_length == 3
    assert predictions[0]._repr_png_().startswith(b"\x89PNG")


def test_it_scores_its_predictions(shown: list[Any]) -> None:
    (words,) = (value for value in shown if isinstance(value, str) and "mIoU" in value)
    assert 0.0 < float(words.split()[1]) < 100.0, words


def test_what_it_saves_reads_back(shown: list[Any]) -> None:
    (saved,) = (value for value in shown if isinstance(value, tuple))
    assert saved == (["first.json", "first.npz", "first.ply", "first.png"], True)
    columns = shown[-1]
    assert set(columns) >= {"x", "y", "z", "label", "vx", "vy"}
    assert np.isfinite(columns["x"]).all()
