"""What other installed packages add to this one, by entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from occ_perception.errors import OccError


class ExtensionError(OccError):
    """An installed package adds something that cannot be used; the text names the package."""


def installed_extensions(group: str, attribute: str) -> list[tuple[str, Any]]:
    """What the modules of an entry-point group hold, with the package that each one belongs to.

    Args:
        group: of entry points, each of which names a module.
        attribute: of these modules.

    Raises:
        ExtensionError: a module cannot be imported, or has no such attribute.
    """
    found = []
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        package = point.dist.name if point.dist else "without a name"
        entry = f"package {package} adds {point.value} to the entry points {group}"
        try:
            module = point.load()
        except Exception as error:  # whatever another package raises while it is imported
            raise ExtensionError(
                f"{entry}, and it cannot be imported ({type(error).__name__}: {error}). Repair or "
                f"uninstall {package}"
            ) from error
        if not hasattr(module, attribute):
            raise ExtensionError(
                f"{entry}, which has no {attribute}. Name a module with {attribute} in the entry "
                f"point, or uninstall {package}"
            )
        found.append((package, getattr(module, attribute)))
    return found
