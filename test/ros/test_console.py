"""What the node says on its console: changes of state, once, and not changes of numbers."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("rclpy", exc_type=ImportError)

from occ_perception.ros.console import Console
from occ_perception.ros.diagnostics import ERROR, OK, WARN, Status

pytestmark = pytest.mark.ros


class Lines:
    """Takes the place of a node's logger, which rclpy writes to standard error."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __getattr__(self, level: str):
        return lambda text: self.said.append((level, text))


def camera(level: bytes, message: str, name: str = "CAM_BACK") -> Status:
    return Status(f"camera {name}", level, message)


def test_a_state_is_said_once_whatever_its_numbers() -> None:
    lines = Lines()
    console = Console(lines, quiet_s=0.0)
    console.say([camera(OK, "receiving")])
    assert lines.said == []  # begins well
    for silent in ("2.1", "3.1", "14"):
        console.say([camera(ERROR, f"no image for {silent} s on /back")])
    console.say([camera(OK, "receiving")])
    assert lines.said == [
        ("error", "camera CAM_BACK: no image for 2.1 s on /back"),
        ("info", "camera CAM_BACK: receiving"),
    ]


def test_one_report_is_one_line_per_level_the_worst_first() -> None:
    lines = Lines()
    Console(lines).say(
        [
            camera(WARN, "no publisher on /a", "A"),
            camera(ERROR, "no image for 9 s on /b", "B"),
            camera(WARN, "no publisher on /c", "C"),
        ]
    )
    assert lines.said == [
        ("error", "camera B: no image for 9 s on /b"),
        ("warning", "camera A: no publisher on /a; camera C: no publisher on /c"),
    ]


def test_a_task_that_flaps_is_said_with_the_state_that_it_has_when_its_turn_comes() -> None:
    lines = Lines()
    console = Console(lines, quiet_s=0.3)
    for number in range(9):
        console.say([camera(ERROR if number % 2 else WARN, "late" if number % 2 else "missing")])
    assert lines.said == [("warning", "camera CAM_BACK: missing")]
    time.sleep(0.35)
    console.say([camera(ERROR, "late")])
    assert lines.said[1:] == [("error", "camera CAM_BACK: late")]
