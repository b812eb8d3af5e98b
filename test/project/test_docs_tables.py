"""Every line of a table in the documentation belongs to a table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in ROOT.glob("docs/*.md"))])
def test_every_table_begins_with_its_heading(page: str) -> None:
    """A blank line in the middle of one cuts off the rest, which then shows as text."""
    for table in re.findall(r"(?:^\|.*\n?)+", (ROOT / page).read_text(), re.M):
        rows = table.splitlines()
        assert len(rows) > 2, table
        assert re.fullmatch(r"\|[ :|-]+\|", rows[1]), table
