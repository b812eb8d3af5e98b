"""A run ends with its minutes per room, and pytest's own line is the last."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAUSES = """
import time

import pytest


@pytest.fixture
def slow_to_begin_and_end():
    time.sleep(0.2)
    yield
    time.sleep(0.2)


def test_pauses(slow_to_begin_and_end):
    time.sleep(0.2)


@pytest.mark.parametrize("number", range(3))
def test_quick(number):
    assert number < 2
"""
SLOW = """
import pytest


@pytest.mark.slow
def test_slow():
    pass


@pytest.mark.slow(ci=True)
def test_slow_of_the_slice():
    pass
"""


def run(root: Path, selection: str) -> tuple[int, list[str]]:
    """Exit status and lines of a run of this suite's own configuration on a small tree."""
    for name in ("conftest.py", "room_minutes.py"):
        (root / "test").mkdir(exist_ok=True)
        shutil.copy(TESTS / name, root / "test")
    shutil.copy(TESTS.parent / "pyproject.toml", root)
    for room, source in (("bags", PAUSES), ("nets", SLOW)):
        (root / "test" / room).mkdir(exist_ok=True)
        (root / "test" / room / f"test_{room}.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", selection]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


def rows(lines: list[str]) -> dict[str, tuple[int, float, str]]:
    """Room -> number of tests, seconds of the slowest, its name."""
    row = re.compile(r"(\S.*?) +[\d.]+ +(\d+) +([\d.]+) s  (.+)")
    return {m[1]: (int(m[2]), float(m[3]), m[4]) for line in lines if (m := row.fullmatch(line))}


def test_rooms_and_slow_tests_have_rows_of_their_own(tmp_path: Path) -> None:
    status, lines = run(tmp_path, "slow or not slow")
    found = rows(lines)
    assert list(found) == ["bags", "nets, slow", "all"]
    assert [found[name][0] for name in found] == [4, 2, 6]
    _, seconds, slowest = found["bags"]
    assert slowest == "test_bags.py::test_pauses"
    assert 0.6 <= seconds < 5  # set-up and tear-down included
    assert found["all"] == (6, seconds, slowest)
    assert status == 1 and re.match(r"1 failed, 5 passed in [\d.]+s", lines[-1])


def test_the_slice_is_chosen_by_markers(tmp_path: Path) -> None:
    assert rows(run(tmp_path, "slow(ci=True)")[1])["all"][0] == 1
