"""The console of the node: what the diagnostics report, said once when it changes."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable

from rclpy.impl.rcutils_logger import RcutilsLogger

from occ_perception.ros.diagnostics import ERROR, OK, WARN, Status

_QUIET_S = 5.0
_NUMBER = re.compile(r"\d+(\.\d+)?")
_Kind = tuple[bytes, str]


class Console:
    """Logs one line per report for the tasks whose state has changed, the worst ones first.

    A change of numbers alone is none. A task that changes again is said at most every few seconds,
    with the state that it has then.

    Args:
        logger: of the node.
        quiet_s: least time between two lines about one task.
    """

    def __init__(self, logger: RcutilsLogger, quiet_s: float = _QUIET_S) -> None:
        self._logger = logger
        self._quiet_s = quiet_s
        self._said: dict[str, tuple[_Kind, float]] = {}

    def say(self, statuses: Iterable[Status]) -> None:
        """Compare with what was said before; tasks that begin well are not mentioned."""
        now = time.monotonic()
        changed: dict[bytes, list[str]] = {ERROR: [], WARN: [], OK: []}
        for status in statuses:
            kind = (status.level, _NUMBER.sub("#", status.message))
            if status.task not in self._said and status.level == OK:
                self._said[status.task] = (kind, now - self._quiet_s)
                continue
            known, at = self._said.get(status.task, (None, now - self._quiet_s))
            if kind == known or now - at < self._quiet_s:
                continue
            self._said[status.task] = (kind, now)
            changed.setdefault(status.level, []).append(f"{status.task}: {status.message}")
        # One call each: rclpy ties the severity to the line that logs.
        if changed[ERROR]:
            self._logger.error("; ".join(changed[ERROR]))
        if changed[WARN]:
            self._logger.warning("; ".join(changed[WARN]))
        if changed[OK]:
            self._logger.info("; ".join(changed[OK]))
