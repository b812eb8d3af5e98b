"""Provenance of a drive: the settings it was generated from, stored with it and compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from occ_perception.atomic import OutputError
from occ_perception.synthetic.seeds import GENERATOR_VERSION
from occ_perception.synthetic.sensors import SensorOptions

Provenance = dict[str, Any]
"""JSON values by name."""

BAG_KEY = "occ_perception_town"
"""Key of the provenance in a recording's metadata."""


def provenance_of(options: SensorOptions, frames: int, **further: Any) -> Provenance:
    """All settings that affect a drive's files; the number of threads does not."""
    return {
        "generator": GENERATOR_VERSION,
        "frames": frames,
        "size": list(options.size),
        "stagger": options.stagger,
        "jitter_rig": options.jitter_rig,
        "samples": options.samples,
        **further,
    }


def check_folder(records: Path, provenance: Provenance) -> None:
    """Raise OutputError if a drive's records in a folder have another provenance."""
    path = records / "provenance.json"
    if path.exists() and (earlier := json.loads(path.read_text())) != provenance:
        raise OutputError(
            f"{records} holds this drive with {earlier}, requested is {provenance}; choose another "
            "folder or delete that drive's records"
        )


def is_recorded(bag: Path, provenance: Provenance) -> bool:
    """Whether a bag exists and has this provenance.

    Raises:
        OutputError: the path is not a drive's bag, or the bag has another provenance.
    """
    if not bag.exists():
        return False
    earlier = _provenance_of_bag(bag)
    if earlier != provenance:
        held = (
            f"holds a drive with {earlier}"
            if earlier
            else "exists and has no provenance of a drive"
        )
        raise OutputError(
            f"{bag} {held}, requested is {provenance}; choose another name or delete it"
        )
    return True


def _provenance_of_bag(bag: Path) -> Provenance | None:
    import yaml

    metadata = bag / "metadata.yaml"
    if not metadata.is_file():
        return None
    held = yaml.safe_load(metadata.read_text())["rosbag2_bagfile_information"].get("custom_data")
    provenance: Provenance | None = json.loads((held or {}).get(BAG_KEY, "null"))
    return provenance
