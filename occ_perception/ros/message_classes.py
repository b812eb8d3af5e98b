"""Python classes of ROS messages by type name."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def message_class_of(type_name: str) -> type[Any] | None:
    """The installed class of ``package/msg/Name``; None where the package is missing."""
    package, _, name = type_name.partition("/msg/")
    try:
        found = getattr(import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        return None
    return found if isinstance(found, type) else None
