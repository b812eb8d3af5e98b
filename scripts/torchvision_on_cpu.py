"""Allows the import of torchvision's CUDA wheel with a torch without CUDA.

The wheel's compiled operators need CUDA libraries. Without them torchvision skips its operators,
but still registers shape functions for two of them, which fails because the operators do not exist.
timm imports torchvision only for its data transforms, so declaring the two is enough.

Python imports this module at every start (through a .pth file), so it does not import torch. It
acts when torchvision is first imported, and only if its operators do not load.
"""

import sys

_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _DeclareMissingOperators:
    """A module finder that finds nothing; it acts when torchvision is first imported."""

    library: object

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        del path, target
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_missing_operators()


def _declare_missing_operators() -> None:
    import importlib.machinery
    import importlib.util

    spec = importlib.util.find_spec("torchvision")
    if (
        spec is None
        or not spec.submodule_search_locations
        or importlib.util.find_spec("torch") is None
    ):
        return
    import torch

    finder = importlib.machinery.FileFinder(
        spec.submodule_search_locations[0],
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    extension = finder.find_spec("_C")
    try:
        if extension is not None and extension.origin is not None:
            torch.ops.load_library(extension.origin)
            return
    except OSError:
        pass  # the CUDA libraries are missing
    library = torch.library.Library("torchvision", "DEF")
    for schema in _OPERATORS:
        library.define(schema)
    # The operators live as long as their library object.
    _DeclareMissingOperators.library = library


sys.meta_path.insert(0, _DeclareMissingOperators())
