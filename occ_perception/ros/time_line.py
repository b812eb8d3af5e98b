"""Time that runs backwards while messages of the old time line are still on their way."""

from __future__ import annotations

import time

# When a bag starts over, the last pictures before the jump may be delivered after the first ones
# behind it, on other topics. For a moment everything from the end of the old line is refused.
_LEFTOVER_NS = 500_000_000
_MOMENT_S = 0.5


class TimeLine:
    """Counts jumps and recognises leftovers of the time before the last one."""

    def __init__(self) -> None:
        self.jumps = 0
        self.leftovers = 0
        self.last_reason = ""
        self._old_end_ns = 0
        self._alert_until = 0.0

    def jumped(self, old_end_ns: int, reason: str) -> None:
        """Time went back; ``old_end_ns`` is the newest stamp before the jump."""
        self.jumps += 1
        self.last_reason = reason
        self._old_end_ns = old_end_ns
        self._alert_until = time.monotonic() + _MOMENT_S

    def is_leftover(self, stamp_ns: int) -> bool:
        """Whether a message belongs to the end of the line that was just left."""
        leftover = (
            time.monotonic() < self._alert_until and stamp_ns > self._old_end_ns - _LEFTOVER_NS
        )
        self.leftovers += int(leftover)
        return leftover
