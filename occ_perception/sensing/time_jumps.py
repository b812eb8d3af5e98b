"""Time that runs backwards: a bag that loops, a simulation that restarts."""

from __future__ import annotations

BACKWARD_JUMP_NS = 1_000_000_000
"""A stamp older than the newest one by more than this starts a new time line.

Late and re-ordered messages stay well below: recorders that log in bursts deliver up to 0.5 s late.
"""


class TimeJump(Exception):  # noqa: N818 - an event that the caller handles, not a failure
    """A source's stamps went back; what was buffered belongs to another time line.

    Whatever raised it is unchanged and has not taken the message. The caller resets everything
    that holds stamped data (rings, poses, the stream) and then adds the message again.

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
