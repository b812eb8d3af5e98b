"""Jumps back in time: a bag that loops, a simulation that restarts."""

from __future__ import annotations

import time

BACKWARD_JUMP_NS = 1_000_000_000
"""A stamp older than the newest one by more than this starts a new time line.

Late and re-ordered messages stay well below: recorders that log in bursts deliver up to 0.5 s late.
"""

# When a bag starts over, the last images before the jump may arrive after the first ones behind
# it, on other topics. For a while, messages from the end of the old time line are refused.
_LEFTOVER_NS = 500_000_000
_MOMENT_S = 0.5


class TimeJump(Exception):  # noqa: N818 - an event that the caller handles, not a failure
    """The stamps of a source went back; buffered data belongs to the old time line.

    The object that raised it is unchanged and has not taken the message. The caller resets
    everything that holds stamped data (frame sets, poses, the stream), then adds the message again.

    Attributes:
        source: camera, frame or topic whose stamps jumped.
        from_ns: the newest stamp before the jump.
        to_ns: the stamp that arrived.
    """

    def __init__(self, source: str, from_ns: int, to_ns: int) -> None:
        self.source = source
        self.from_ns = from_ns
        self.to_ns = to_ns
        super().__init__(
            f"{source}: time went back by {(from_ns - to_ns) / 1e9:.3f} s "
            f"(from {from_ns / 1e9:.3f} s to {to_ns / 1e9:.3f} s)"
        )


class TimeLine:
    """Counts jumps of live messages, and detects messages from before the last jump."""

    def __init__(self) -> None:
        self.jumps = 0
        self.leftovers = 0
        self.last_reason = ""
        self._old_end_ns = 0
        self._alert_until = 0.0

    def jumped(self, old_end_ns: int, reason: str) -> None:
        """Record a jump; ``old_end_ns`` is the newest stamp before it."""
        self.jumps += 1
        self.last_reason = reason
        self._old_end_ns = old_end_ns
        self._alert_until = time.monotonic() + _MOMENT_S

    def is_leftover(self, stamp_ns: int) -> bool:
        """Whether a message belongs to the end of the time line before the last jump."""
        leftover = (
            time.monotonic() < self._alert_until and stamp_ns > self._old_end_ns - _LEFTOVER_NS
        )
        self.leftovers += int(leftover)
        return leftover
