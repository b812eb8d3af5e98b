"""docs/commands.md lists every command of both programs, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer import Typer
from typer.main import get_command

from occ_perception.cli import app as occ

PAGE = (Path(__file__).resolve().parents[2] / "docs/commands.md").read_text()


def commands(app: Typer, program: str) -> set[str]:
    """Names of all commands; a group stands for its sub-commands."""
    found: set[str] = set()

    def visit(command: object, path: str) -> None:
        children = getattr(command, "commands", {})
        if not children:
            found.add(path)
        for name, child in children.items():
            visit(child, f"{path} {name}")

    visit(get_command(app), program)
    return found


def listed(program: str) -> set[str]:
    """Commands in the first column of the table, without their arguments."""
    first = re.findall(r"^\| (`occ[^|]*) \|", PAGE, re.M)
    spans = re.findall(rf"`({program} [^`]*)`", " ".join(first))
    return {re.sub(r" [A-Z]+$", "", span) for span in spans}


def test_every_command_of_occ_is_listed() -> None:
    assert listed("occ") == commands(occ, "occ")


def test_every_command_of_occ_train_is_listed() -> None:
    pytest.importorskip("lightning")
    from occ_training.cli import app as occ_train

    ours = commands(occ_train, "occ-train")
    assert listed("occ-train") == {re.sub(r"(prepare) .*", r"\1", name) for name in ours}
