"""Stamps: builtin_interfaces/Time and integer nanoseconds."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time


def time_message(stamp_ns: int) -> Time:
    """A stamp in nanoseconds as builtin_interfaces/Time."""
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def stamp_ns_of(time: Any) -> int:
    """Nanoseconds of a builtin_interfaces/Time."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)
