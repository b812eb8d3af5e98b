"""Reads a ROS 1 ``.bag`` file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader

from occ_perception.bags.stored_file import Channel, Stored


class Ros1File:
    """A ROS 1 bag, see :class:`~.stored_file.StoredFile`.

    Raises:
        Exception: any error of the parser; the file is damaged or none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with Reader(path) as reader:
            self.channels = [
                Channel(c.topic, c.msgtype, c.msgdef, c.msgcount, is_ros1=True)
                for c in reader.connections
            ]
            is_empty = not reader.message_count
            self.span_ns = None if is_empty else (reader.start_time, reader.end_time - 1)

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """Messages of some topics in the order of reception."""
        with Reader(self.path) as reader:
            channels = dict(zip((c.id for c in reader.connections), self.channels, strict=True))
            wanted = [c for c in reader.connections if c.topic in topics]
            # Without connections the reader would read all topics.
            for connection, received_ns, raw in reader.messages(wanted) if wanted else ():
                yield channels[connection.id], received_ns, raw
