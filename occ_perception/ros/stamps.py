"""Integer nanoseconds as builtin_interfaces/Time; the way back is in sensing.message_fields."""

from __future__ import annotations

from builtin_interfaces.msg import Time


def time_message(stamp_ns: int) -> Time:
    """A stamp in nanoseconds as a message."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)
