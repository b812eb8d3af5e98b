"""Message classes by type name, for messages of any package, and their stamps.

The reverse of :func:`time_message` is :func:`occ_perception.sensing.from_messages.stamp_ns`.
"""

from __future__ import annotations

import struct
from importlib import import_module
from typing import Any

from builtin_interfaces.msg import Time


def message_class_of(type_name: str) -> type[Any] | None:
    """The installed class of ``package/msg/Name``; None if the package is missing."""
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


def header_stamp_of_bytes(raw: bytes) -> int:
    """The stamp of a serialized message that begins with a std_msgs/Header.

    CDR: four bytes of encapsulation (the second holds the byte order), then int32 seconds and
    uint32 nanoseconds.
    """
    seconds, nanoseconds = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)
