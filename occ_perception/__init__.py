"""Camera-only 3D semantic occupancy for ROS 2, and the same networks offline."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from occ_perception.bags.drive import open_recording

__version__ = "0.1.0"
__all__ = ["open_recording"]

# Imported on first access, so that `import occ_perception` stays fast.
_HOMES = {"open_recording": "occ_perception.bags.drive"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
