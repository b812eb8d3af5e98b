"""Reads an mcap file with ROS messages."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import mcap.records
import numpy as np

from occ_perception.bags.mcap_index import ChunkPlace, content_of_chunk, index_of, message_at
from occ_perception.bags.stored_file import (
    Channel,
    Note,
    Stored,
    definition_of,
    in_order,
    qos_of,
    type_name,
)

_SHOWN_TOPICS = 3


class McapFile:
    """An mcap file, see :class:`~.stored_file.StoredFile`.

    Whether messages are ROS messages is judged by each channel, as ``ros2 bag`` does, and not by
    the profile in the file's header, which some writers leave empty. A damaged block of messages is
    left out and reported.

    Args:
        path: the file.
        note: takes problems, also while messages are read.

    Raises:
        ValueError: the file is none, or has no ROS message.
    """

    def __init__(self, path: Path, note: Note) -> None:
        self.path = path
        self._note = note
        with path.open("rb") as file:
            index = self._index = index_of(file)
        self._channels: dict[int, Channel] = {}
        foreign = []
        for number, channel in index.channels.items():
            schema = index.schemas.get(channel.schema_id)
            ours = _channel(channel, schema, index.counts[number])
            if ours is not None:
                self._channels[number] = ours
            elif index.counts[number]:
                foreign.append(f"{channel.topic} ({_described(channel, schema)})")
        self.channels = list(self._channels.values())
        self.span_ns = index.span_ns
        self.states_counts = index.states_counts
        self._check(foreign)

    def _check(self, foreign: list[str]) -> None:
        """Refuse a file without ROS messages; report damage and the topics that are none."""
        damage = "; ".join(self._index.damages)
        listed = ", ".join(foreign[:_SHOWN_TOPICS])
        if len(foreign) > _SHOWN_TOPICS:
            listed += f" and {len(foreign) - _SHOWN_TOPICS} more"
        count = sum(channel.count for channel in self.channels)
        if foreign and not count:
            raise ValueError(
                f"it holds no ROS messages but {listed}, which `ros2 bag play` cannot play either; "
                "convert or record it as ROS messages"
            )
        if damage and not count:
            raise ValueError(f"{damage}; it has no intact message")
        if damage:
            self._note(
                "damaged_file",
                f"{self.path.name} is damaged ({damage}); {count} intact messages are read",
            )
        if foreign:
            self._note("foreign_topic", f"{self.path.name}: these are no ROS messages: {listed}")

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """Messages of some topics in the order of log time."""
        wanted = {n: channel for n, channel in self._channels.items() if channel.topic in topics}
        with self.path.open("rb") as file:
            streams = [
                (chunk.start_ns, self._of_chunk(file, chunk, wanted))
                for chunk in self._index.chunks
                if chunk.channels is None or not chunk.channels.isdisjoint(wanted)
            ]
            if self._index.loose_ns:
                streams.append((min(self._index.loose_ns), self._loose(file, wanted)))
            yield from in_order(streams)

    def _of_chunk(
        self, file: BinaryIO, chunk: ChunkPlace, wanted: Mapping[int, Channel]
    ) -> Iterator[Stored]:
        content = content_of_chunk(file, chunk.offset)
        if content.damage and content.damage not in self._index.damages:
            self._note("damaged_file", f"{self.path.name}: {content.damage}; messages are left out")
        unknown = sum(m.channel not in self._index.channels for m in content.messages)
        if unknown:
            self._note(
                "damaged_file",
                f"{self.path.name}: {unknown} messages of the block at byte {chunk.offset} belong "
                "to no topic and are left out",
            )
        for message in sorted(content.messages, key=lambda m: m.log_ns):
            if message.channel in wanted:
                yield wanted[message.channel], message.log_ns, message.raw

    def _loose(self, file: BinaryIO, wanted: Mapping[int, Channel]) -> Iterator[Stored]:
        """Messages outside of chunks; recorders do not write them in the exact order of time."""
        index = self._index
        times = np.frombuffer(index.loose_ns, np.uint64)
        is_wanted = np.isin(np.frombuffer(index.loose_channels, np.uint16), list(wanted))
        for at in np.argsort(times, kind="stable"):
            if is_wanted[at]:
                message = message_at(file, index.loose_offsets[at])
                yield wanted[message.channel], message.log_ns, message.raw


def _channel(
    channel: mcap.records.Channel, schema: mcap.records.Schema | None, count: int
) -> Channel | None:
    """The channel of a ROS topic; None if its messages are no ROS messages."""
    encodings = (channel.message_encoding, "" if schema is None else schema.encoding)
    is_ros1 = encodings == ("ros1", "ros1msg")
    is_ros2 = encodings[0] == "cdr" and encodings[1] in ("ros2msg", "ros2idl", "omgidl", "")
    if schema is None or not (is_ros1 or is_ros2):
        return None
    return Channel(
        channel.topic,
        type_name(schema.name),
        definition_of(schema.encoding, schema.data.decode(errors="replace")),
        count,
        qos_of(channel.metadata.get("offered_qos_profiles", "")),
        is_ros1,
    )


def _described(channel: mcap.records.Channel, schema: mcap.records.Schema | None) -> str:
    kind = "without a type" if schema is None else schema.name
    return f"{channel.message_encoding or 'no encoding'}, {kind}"
