"""What a drive was made from: written with it, and compared before it is taken for made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from occ_perception.atomic import OutputError
from occ_perception.synthetic.seeds import GENERATOR_VERSION
from occ_perception.synthetic.sensors import SensorOptions

Provenance = dict[str, Any]
"""Plain values by name, as JSON holds them."""

BAG_KEY = "occ_perception_town"
"""Where a recording's metadata holds its provenance."""


def provenance_of(options: SensorOptions, frames: int, **further: Any) -> Provenance:
    """Everything that decides about a drive's files, but for the number of threads."""
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
    """Raise OutputError where a drive's records in a folder were made from another provenance."""
    path = records / "provenance.json"
    if path.exists() and (earlier := json.loads(path.read_text())) != provenance:
        raise OutputError(
            f"{records} holds this drive as {earlier}, asked for is {provenance}; "
            "choose another folder or delete that drive's records"
        )


def is_recorded(bag: Path, provenance: Provenance) -> bool:
    """Whether a bag is there and was made from a provenance.

    Raises:
        OutputError: there is something else, or a bag made from another provenance.
    """
    if not bag.exists():
        return False
    earlier = _provenance_of_bag(bag)
    if earlier != provenance:
        held = (
            f"holds a drive as {earlier}"
            if earlier
            else "exists and names no provenance of a drive"
        )
        raise OutputError(
            f"{bag} {held}, asked for is {provenance}; choose another name or delete it"
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
