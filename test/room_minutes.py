"""A pytest plugin: prints the time of a run by room."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

Group = tuple[str, bool]
"""Folder below ``test/``, and whether the tests are marked slow."""


@dataclass
class Times:
    """Seconds of each test of a group: setup, call and teardown together."""

    of_test: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def row(self, name: str) -> str:
        slowest = max(self.of_test, key=self.of_test.__getitem__)
        minutes = sum(self.of_test.values()) / 60
        longest = f"{self.of_test[slowest]:7.1f} s  {PurePosixPath(slowest).name}"
        return f"{name:<18} {minutes:7.2f} {len(self.of_test):7d} {longest}"


class RoomMinutes:
    """Prints minutes, number of tests and the slowest test per room at the end of a run.

    A fixture that several tests share counts for the first test that uses it. Slow tests have
    separate rows. The time of collecting the tests is in no row.
    """

    def __init__(self) -> None:
        self._groups: dict[Group, Times] = defaultdict(Times)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        folders = PurePosixPath(report.nodeid.partition("::")[0]).parts
        room = folders[-2] if len(folders) > 1 else "."
        times = self._groups[room, "slow" in report.keywords].of_test
        times[report.nodeid] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self._groups:
            return
        terminalreporter.section("minutes per room")
        terminalreporter.line(f"{'room':<18} {'minutes':>7} {'tests':>7} {'slowest':>9}")
        everything = Times()
        for (room, slow), times in sorted(self._groups.items()):
            terminalreporter.line(times.row(f"{room}, slow" if slow else room))
            everything.of_test.update(times.of_test)
        terminalreporter.line(everything.row("all"))
