"""What ``metadata.yaml`` says about a rosbag2 folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import yaml
from rosbags.interfaces import Qos

from occ_perception.bags.stored_file import qos_of, type_name

METADATA_FILE = "metadata.yaml"


@dataclass(frozen=True, eq=False)
class FolderMetadata:
    """The parts of ``metadata.yaml`` that reading needs; the storage files know the rest.

    Attributes:
        files: names of the storage files.
        counts: topic -> number of messages.
        kinds: topic -> message type.
        qos: topic -> what its publishers offered.
    """

    files: tuple[str, ...]
    counts: Mapping[str, int]
    kinds: Mapping[str, str]
    qos: Mapping[str, tuple[Qos, ...]]


def read_metadata(path: Path) -> FolderMetadata:
    """Read a metadata file of any version.

    Raises:
        ValueError: it is damaged.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))["rosbag2_bagfile_information"]
        counts: Counter[str] = Counter()
        kinds, qos = {}, {}
        for entry in content["topics_with_message_count"]:
            topic = entry["topic_metadata"]
            name = str(topic["name"])
            counts[name] += int(entry["message_count"])
            kinds[name] = type_name(str(topic["type"]))
            qos[name] = qos_of(topic.get("offered_qos_profiles"))
        # Old versions state paths from outside the folder.
        files = tuple(PurePath(file).name for file in content["relative_file_paths"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path.name} is not a rosbag2's: {type(error).__name__}: {error}"
        ) from error
    return FolderMetadata(files, counts, kinds, qos)
