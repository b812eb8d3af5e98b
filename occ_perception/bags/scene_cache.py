"""Where converted scenes are kept, so that a scene is converted once.

A conversion appears complete under its name or not at all (:mod:`occ_perception.atomic`). The name
holds a hash of what the conversion was made from. A folder that is there is therefore complete,
and the right one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from occ_perception import __version__
from occ_perception.bags.nuscenes_tables import NuScenesError, NuScenesTables
from occ_perception.user_cache import cache_folder


def version_of_scene(root: str | Path, scene: str) -> str:
    """The tables folder of ``root`` that has a scene; of several, the one with the fewest scenes.

    The tables of all scenes take minutes to read, those of ``v1.0-mini`` a second.

    Raises:
        NuScenesError: there is no such folder; the message lists the scenes that there are.
    """
    found = sorted(file.parent.name for file in Path(root).glob("*/scene.json"))
    if not found:
        raise NuScenesError(
            f"{root} has no folder with a scene.json; expected a nuScenes folder in the devkit's "
            "format, with v1.0-mini or the like unpacked in it"
        )
    scenes = {version: NuScenesTables(Path(root), version).scenes() for version in found}
    having = [version for version in found if scene in scenes[version]]
    if not having:
        known = sorted(set().union(*scenes.values()))
        raise NuScenesError(
            f"no scene {scene!r} in {root} ({', '.join(found)}); it has {', '.join(known)}"
        )
    return min(having, key=lambda version: len(scenes[version]))


def cached_scene(
    root: str | Path,
    version: str,
    scene: str,
    storage: str = "mcap",
    sweeps: bool = True,
    lidar: bool = False,
) -> Path:
    """Where the conversion of a scene is kept, whether it is there or not.

    Other options, tables of another size or date, labels of the scene that came or went, and
    another version of this package give another place. Images that were replaced do not.

    Args:
        root, version, scene, sweeps, lidar: see
            :class:`~occ_perception.bags.nuscenes.SceneReader`.
        storage: see :func:`~occ_perception.bags.nuscenes.convert_scene`.
    """
    folder = Path(root).resolve()
    sources = [*sorted((folder / version).glob("*.json")), folder / "gts" / scene]
    states = [(path.name, path.stat()) for path in sources if path.exists()]
    origin = repr(
        (
            __version__,
            (str(folder), version, scene),
            (storage, sweeps, lidar),
            [(name, state.st_size, state.st_mtime_ns) for name, state in states],
        )
    )
    digest = hashlib.sha256(origin.encode()).hexdigest()[:12]
    return cache_folder() / "nuscenes" / f"{scene}-{digest}"
