"""Message definitions for reading and writing bags on machines without ROS."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from rosbags.interfaces import MessageDefinition, MessageDefinitionFormat
from rosbags.typesys import Stores, get_types_from_idl, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

if TYPE_CHECKING:
    from rosbags.interfaces.typing import Typesdict

_BETWEEN_TYPES = "=" * 80
# The line that names a type, and the preprocessor's, which the parser does not take.
_NOT_IDL = re.compile(r"^\s*(IDL:|#).*$", re.MULTILINE)
# Packages whose definitions are files beside this one, and their folders.
_PACKAGES = {"occ_msgs": "msg", "foxglove_msgs": "foxglove_msgs"}
_TF_MESSAGE = "geometry_msgs/TransformStamped[] transforms"


@lru_cache(maxsize=1)
def ros2_types() -> Typestore:
    """The types of a ROS 2 installation together with those of occ_msgs and foxglove_msgs."""
    store = get_typestore(Stores.ROS2_KILTED)
    types: Typesdict = {}
    for package, folder in _PACKAGES.items():
        for file in resources.files("occ_perception.bags").joinpath(folder).iterdir():
            if file.name.endswith(".msg"):
                name = f"{package}/msg/{Path(file.name).stem}"
                types |= get_types_from_msg(file.read_text(encoding="utf-8"), name)
    store.register(types)
    return store


def recorded_types(definition: MessageDefinition, kind: str) -> Typestore:
    """The type with its parts, from a definition in a recording.

    Raises:
        Exception: any error of the parser; or the definition is of another type.
    """
    types: Typesdict = {}
    if definition.format == MessageDefinitionFormat.IDL:
        for part in definition.data.split(_BETWEEN_TYPES):
            text = _NOT_IDL.sub("", part)
            types |= get_types_from_idl(text) if text.strip() else {}
    else:
        types = get_types_from_msg(definition.data, kind)
    if kind not in types:
        raise ValueError(f"it defines {', '.join(types) or 'nothing'}")
    store = get_typestore(Stores.EMPTY)
    store.register(types)
    return store


@lru_cache(maxsize=1)
def ros1_types() -> Typestore:
    """The types of ROS Noetic together with both names of the tf message."""
    store = get_typestore(Stores.ROS1_NOETIC)
    for name in ("tf/msg/tfMessage", "tf2_msgs/msg/TFMessage"):
        store.register(get_types_from_msg(_TF_MESSAGE, name))
    return store
