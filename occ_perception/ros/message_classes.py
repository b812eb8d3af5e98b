"""ROS messages without knowing their package beforehand, and stamps as messages.

Stamps come back with :func:`occ_perception.sensing.from_messages.stamp_ns`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from builtin_interfaces.msg import Time


def message_class_of(type_name: str) -> type[Any] | None:
    """The installed class of ``package/msg/Name``; None where the package is missing."""
    package, _, name = type_name.partition("/msg/")
    try:
        found = getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) else None


def time_message(stamp_ns: int) -> Time:
    """A stamp in nanoseconds as a builtin_interfaces/Time."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    return Time(sec=seconds, nanosec=nanoseconds)
