"""CONTRIBUTING.md agrees with what CI runs."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
# They speak of the mark and have no test with it.
OTHERS = ("test_contributing.py", "test_room_minutes.py")


def test_the_slice_of_slow_tests_is_the_one_that_is_listed() -> None:
    listed = re.findall(r"^- `(test/\S+\.py)`:", PAGE, re.M)
    marked = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / "test").rglob("test_*.py"))
        if "mark.slow(ci=" in path.read_text() and path.name not in OTHERS
    ]
    assert sorted(listed) == marked


def test_ci_runs_every_check_of_the_page() -> None:
    ci = (ROOT / ".ci/run").read_text().splitlines()
    steps = ["make setup", "make lint", "make docs", "make test-slow-slice", "make test"]
    assert [line for line in ci if line.startswith("make ")] == steps
    assert ci[-1] == "make test"  # the last line of a run is pytest's
    makefile = (ROOT / "Makefile").read_text()
    assert 'pytest -m "slow(ci=True)"' in makefile
    assert "pre-commit run --all-files" in makefile
