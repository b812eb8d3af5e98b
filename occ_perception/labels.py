"""Class tables of every annotation set, colours by class name, and the movable classes.

Ids are those of predictions and messages. The files of some sets number free space differently and
are mapped when read (docs/conventions.md). Colours are looked up by **name**, because OpenOcc
numbers the same classes differently from Occ3D.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN_CLASS = 255
"""Id of unlabelled or unobserved voxels, in every annotation set."""

_OCC3D_CLASSES = (
    "others",
    "barrier",
    "bicycle",
    "bus",
    "car",
    "construction_vehicle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "trailer",
    "truck",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)

_OPENOCC_CLASSES = (
    "car",
    "truck",
    "trailer",
    "bus",
    "construction_vehicle",
    "bicycle",
    "motorcycle",
    "pedestrian",
    "traffic_cone",
    "barrier",
    "driveable_surface",
    "other_flat",
    "sidewalk",
    "terrain",
    "manmade",
    "vegetation",
    "free",
)

_WAYMO_CLASSES = (
    "general_object",
    "vehicle",
    "pedestrian",
    "sign",
    "bicyclist",
    "traffic_light",
    "pole",
    "construction_cone",
    "bicycle",
    "motorcycle",
    "building",
    "vegetation",
    "tree_trunk",
    "road",
    "walkable",
    "free",
)

MOVING_CLASSES = frozenset(
    {
        "car",
        "truck",
        "trailer",
        "bus",
        "construction_vehicle",
        "bicycle",
        "motorcycle",
        "pedestrian",
        "vehicle",
        "bicyclist",
    }
)
"""Names of classes whose voxels carry flow."""

GROUND_CLASSES = frozenset(
    {"driveable_surface", "other_flat", "sidewalk", "terrain", "road", "walkable"}
)
"""Names of classes that a vehicle or a person stands on."""

# Colours of the nuScenes devkit for its classes. A class of Waymo alone gets a colour close to that
# of the nuScenes class with the nearest meaning.
PALETTE: dict[str, tuple[int, int, int]] = {
    "others": (0, 0, 0),
    "barrier": (112, 128, 144),
    "bicycle": (220, 20, 60),
    "bus": (255, 127, 80),
    "car": (255, 158, 0),
    "construction_vehicle": (233, 150, 70),
    "motorcycle": (255, 61, 99),
    "pedestrian": (0, 0, 230),
    "traffic_cone": (47, 79, 79),
    "trailer": (255, 140, 0),
    "truck": (255, 99, 71),
    "driveable_surface": (0, 207, 191),
    "other_flat": (175, 0, 75),
    "sidewalk": (75, 0, 75),
    "terrain": (112, 180, 60),
    "manmade": (222, 184, 135),
    "vegetation": (0, 175, 0),
    "general_object": (0, 0, 0),
    "vehicle": (255, 158, 0),
    "sign": (190, 153, 153),
    "bicyclist": (220, 20, 60),
    "traffic_light": (250, 170, 30),
    "pole": (153, 153, 153),
    "construction_cone": (47, 79, 79),
    "building": (222, 184, 135),
    "tree_trunk": (110, 70, 30),
    "road": (0, 207, 191),
    "walkable": (75, 0, 75),
    "free": (255, 255, 255),
}
"""RGB by class name."""


@dataclass(frozen=True)
class LabelSet:
    """The classes of an annotation set.

    Attributes:
        name: ``occ3d``, ``openocc``, ``surroundocc``, ``openoccupancy`` or ``waymo``.
        class_names: position = id.
        empty_class: id of free space.
    """

    name: str
    class_names: tuple[str, ...]
    empty_class: int

    @property
    def num_classes(self) -> int:
        """Number of ids, free space included."""
        return len(self.class_names)

    def palette(self) -> NDArray[np.uint8]:
        """(num_classes, 3) uint8 RGB, row = id."""
        return palette_of(self.class_names)

    def moving_ids(self) -> tuple[int, ...]:
        """Ids of classes that carry flow."""
        return tuple(i for i, name in enumerate(self.class_names) if name in MOVING_CLASSES)


def palette_of(class_names: tuple[str, ...] | list[str]) -> NDArray[np.uint8]:
    """(n, 3) uint8 RGB for names in id order; unknown names are magenta, to stand out."""
    return np.array([PALETTE.get(name, (255, 0, 255)) for name in class_names], dtype=np.uint8)


LABEL_SETS: dict[str, LabelSet] = {
    label_set.name: label_set
    for label_set in (
        LabelSet("occ3d", _OCC3D_CLASSES, 17),
        LabelSet("surroundocc", _OCC3D_CLASSES, 17),
        LabelSet("openoccupancy", _OCC3D_CLASSES, 17),
        LabelSet("openocc", _OPENOCC_CLASSES, 16),
        LabelSet("waymo", _WAYMO_CLASSES, 15),
    )
}
"""Every supported annotation set by name."""
