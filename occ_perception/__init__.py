"""Camera-only 3D semantic occupancy for ROS 2, and the same networks offline.

::

    import occ_perception as occ

    model = occ.load("alocc_2d_mini")
    for prediction in model.predict("drive.mcap"):
        print(prediction)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from occ_perception.bags.camera_drives import open_drive
    from occ_perception.bags.drive import open_recording
    from occ_perception.bags.image_folder import open_images
    from occ_perception.inference.model import Model, list_models, load
    from occ_perception.inference.prediction import Prediction

__version__ = "0.1.0"
__all__ = [
    "Model",
    "Prediction",
    "list_models",
    "load",
    "open_drive",
    "open_images",
    "open_recording",
]

# Imported on first access, so that `import occ_perception` stays fast.
_HOMES = {
    "Model": "occ_perception.inference.model",
    "Prediction": "occ_perception.inference.prediction",
    "list_models": "occ_perception.inference.model",
    "load": "occ_perception.inference.model",
    "open_drive": "occ_perception.bags.camera_drives",
    "open_images": "occ_perception.bags.image_folder",
    "open_recording": "occ_perception.bags.drive",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
