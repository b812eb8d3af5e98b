"""Pages keep to 100 columns and to one word for one thing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.rst"]
PAGES += sorted(f"docs/{path.name}" for path in ROOT.glob("docs/*.md"))
LONGEST = 100
RETIRED = {
    r"(?<!`)\brings?\b(?!`)": "frame set; `ring` in backticks is the laser number of a point",
    r"\bpictures?\b": "image",
    r"\btold\b": "stated, reported or given",
    r"\bbelieved?\b": "trusted or used",
    r"\bat\s+a\s+start\b": "at the first frame of a sequence",
}
"""Words that mean something else in the field, or nothing; and what to write in their place."""


def long_lines(name: str, text: str) -> list[str]:
    """A sentence for each line that is too long."""
    return [
        f"{name}:{number}: {len(line)} characters, at most {LONGEST} are allowed"
        for number, line in enumerate(text.splitlines(), start=1)
        if len(line) > LONGEST
    ]


def retired_words(name: str, text: str) -> list[str]:
    """A sentence for each place of a retired word, which may run over the end of a line."""
    return [
        f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match[0]!r}: write {better}"
        for pattern, better in RETIRED.items()
        for match in re.finditer(pattern, text, re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_no_line_is_too_long(page: str) -> None:
    faults = long_lines(page, (ROOT / page).read_text())
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("page", PAGES)
def test_no_retired_word_is_used(page: str) -> None:
    faults = retired_words(page, (ROOT / page).read_text())
    assert not faults, "\n".join(faults)


def test_faults_name_page_and_line() -> None:
    assert long_lines("page.md", "x" * 100 + "\n" + "ä" * 101) == [
        "page.md:2: 101 characters, at most 100 are allowed"
    ]
    text = "A string.\nThe Rings are\ntold at a\nstart; `ring` is a field."
    assert [fault.split(": write")[0] for fault in retired_words("page.md", text)] == [
        "page.md:2: 'Rings'",
        "page.md:3: 'told'",
        "page.md:3: 'at a\\nstart'",
    ]
