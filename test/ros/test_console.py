"""What the node says on its console: changes of state, once, and not changes of numbers."""

from __future__ import annotations

import re
import time

import pytest

pytest.importorskip("rclpy", exc_type=ImportError)

from rclpy.logging import get_logger

from occ_perception.ros.console import Console
from occ_perception.ros.diagnostics import ERROR, OK, WARN, Status

pytestmark = pytest.mark.ros


class Lines:
    """The lines of a real logger, as the terminal gets them."""

    def __init__(self, capfd: pytest.CaptureFixture[str]) -> None:
        self.logger = get_logger("console_test")
        self._capfd = capfd

    def new(self) -> list[tuple[str, str]]:
        text = "".join(self._capfd.readouterr())
        return re.findall(r"^\[(\w+) *\] \[[\d.]+\] \[console_test\]: (.*)$", text, re.M)


def camera(level: bytes, message: str, name: str = "CAM_BACK") -> Status:
    return Status(f"camera {name}", level, message)


def test_a_state_is_said_once_whatever_its_numbers(capfd) -> None:
    lines = Lines(capfd)
    console = Console(lines.logger, quiet_s=0.0)
    console.say([camera(OK, "receiving")])
    assert lines.new() == []  # begins well
    for silent in ("2.1", "3.1", "14"):
        console.say([camera(ERROR, f"no image for {silent} s on /back")])
    console.say([camera(OK, "receiving")])
    assert lines.new() == [
        ("ERROR", "camera CAM_BACK: no image for 2.1 s on /back"),
        ("INFO", "camera CAM_BACK: receiving"),
    ]


def test_one_report_is_one_line_per_level_the_worst_first(capfd) -> None:
    lines = Lines(capfd)
    Console(lines.logger).say(
        [
            camera(WARN, "no publisher on /a", "A"),
            camera(ERROR, "no image for 9 s on /b", "B"),
            camera(WARN, "no publisher on /c", "C"),
        ]
    )
    assert lines.new() == [
        ("ERROR", "camera B: no image for 9 s on /b"),
        ("WARN", "camera A: no publisher on /a; camera C: no publisher on /c"),
    ]


def test_a_task_that_flaps_is_said_with_the_state_that_it_has_when_its_turn_comes(capfd) -> None:
    lines = Lines(capfd)
    console = Console(lines.logger, quiet_s=3.0)
    for number in range(9):
        console.say([camera(ERROR if number % 2 else WARN, "late" if number % 2 else "missing")])
    assert lines.new() == [("WARN", "camera CAM_BACK: missing")]
    time.sleep(3.1)
    console.say([camera(ERROR, "late")])
    assert lines.new() == [("ERROR", "camera CAM_BACK: late")]
