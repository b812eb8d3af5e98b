"""The messages that docs/node.md explains are those that the code writes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What stands for names and numbers in a quoted message.
BLANKS = re.compile(r"\.\.\.|CAM_X|AxB|CxD|\bX\b|\bY\b|\d+\.\d+")


def quoted_messages() -> list[str]:
    """The texts in backticks that the entries of the section begin with."""
    section = (ROOT / "docs/node.md").read_text().split("\n## Troubleshooting\n")[1]
    entries = re.findall(r"^- (.+?):(?:\s|$)", section, re.M)
    return [text for entry in entries for text in re.findall(r"`([^`]+)`", entry)]


def source() -> str:
    """The code that looks at inputs, its split strings joined."""
    files = [*ROOT.glob("occ_perception/ros/*.py"), *ROOT.glob("occ_perception/sensing/*.py")]
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_there_are_messages() -> None:
    assert len(quoted_messages()) >= 20


@pytest.mark.parametrize("message", quoted_messages())
def test_a_quoted_message_is_in_the_code(message: str) -> None:
    parts = [part.strip() for part in BLANKS.split(message)]
    code = source()
    assert all(part in code for part in parts), [part for part in parts if part not in code]
