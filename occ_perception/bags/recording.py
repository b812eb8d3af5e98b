"""Read access to a recording in any ROS container format, as one stream of messages.

Supported are rosbag2 folders (sqlite3 or mcap, plain or zstd-compressed), single ``.mcap`` and
``.db3`` files, and ROS 1 ``.bag`` files. Damage is listed as a problem as long as anything can be
read; otherwise it raises a :class:`BagError`. So is every difference between the numbers of
messages that were read and those that the recording states.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from rosbags.interfaces import MessageDefinitionFormat, Qos
from rosbags.typesys.store import Typestore

from occ_perception.bags.folder_metadata import METADATA_FILE
from occ_perception.bags.message_types import recorded_types, ros1_types, ros2_types
from occ_perception.bags.recording_files import open_files, reason_of
from occ_perception.bags.stored_file import Channel, Stored, StoredFile, in_order
from occ_perception.errors import OccError

_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# Larger than any message: a few bytes of a damaged or hostile file must not fill the memory.
_LARGEST_UNPACKED = 2**28
_SHOWN_COUNTS = 6


class BagError(OccError):
    """A recording that cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class BagProblem:
    """A part of a recording that was skipped.

    Attributes:
        reason: short kind, e.g. ``damaged_file`` or a :data:`~..sensing.assembly.FrameProblem`.
        text: description of the problem.
        stamp_ns: its time; None if it concerns the whole recording.
    """

    reason: str
    text: str
    stamp_ns: int | None = None

    @property
    def is_loss(self) -> bool:
        """Whether messages of the recording are lost or wrong in number."""
        return self.reason in ("damaged_file", "message_count")

    def __str__(self) -> str:
        return self.text if self.stamp_ns is None else f"{self.stamp_ns / 1e9:.3f} s: {self.text}"


@dataclass(frozen=True, eq=False)
class RecordedMessage:
    """One message as recorded; :meth:`Recording.decode` deserializes it."""

    topic: str
    kind: str
    received_ns: int
    raw: bytes
    channel: Channel


@dataclass(frozen=True)
class RecordedTopic:
    """Type and number of messages of a topic."""

    kind: str
    count: int


class Recording:
    """Read access to a recording; a context manager.

    Args:
        path: rosbag2 folder, ``.mcap``, ``.db3`` or ``.bag`` file.

    Attributes:
        path: path of the recording.
        is_ros1: whether any messages are serialized in ROS 1 format.
        topics: name -> type and count.
        problems: problems found so far.

    Raises:
        BagError: the recording does not exist, or nothing of it can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problems: list[BagProblem] = []
        self._known_problems: set[BagProblem] = set()
        self._compared: set[tuple[str, str]] = set()
        self._stores: dict[str, Typestore] = {}
        with ExitStack() as stack:
            try:
                self._files, metadata = open_files(self.path, self.note, stack)
            except ValueError as error:
                raise BagError(str(error)) from error
            self._stack = stack.pop_all()
        self._recorded_qos = {} if metadata is None else metadata.qos
        self.topics: dict[str, RecordedTopic] = {}
        if metadata is not None:
            self.topics = {name: RecordedTopic(kind, 0) for name, kind in metadata.kinds.items()}
        found: Counter[str] = Counter()
        for channel in self._channels():
            found[channel.topic] += channel.count
            self.topics[channel.topic] = RecordedTopic(channel.kind, found[channel.topic])
        self.is_ros1 = any(channel.is_ros1 for channel in self._channels())
        if metadata is not None:
            self._compare(METADATA_FILE, metadata.counts, found, "are in its files")

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files."""
        self._stack.close()

    @property
    def topic_types(self) -> dict[str, str]:
        """Topic name -> message type."""
        return {name: topic.kind for name, topic in self.topics.items()}

    def offered_qos(self, topic: str) -> list[Qos]:
        """QoS that the topic's publishers offered; empty if it was not recorded."""
        stored = [qos for c in self._channels() if c.topic == topic for qos in c.qos]
        return stored or list(self._recorded_qos.get(topic, ()))

    @property
    def span_ns(self) -> tuple[int, int]:
        """Reception times of the first and the last message; (0, 0) for an empty recording."""
        spans = [file.span_ns for file in self._files if file.span_ns is not None]
        if not spans:
            return (0, 0)
        return (min(first for first, _ in spans), max(last for _, last in spans))

    def note(self, reason: str, text: str, stamp_ns: int | None = None) -> None:
        """Add a problem, if it is not listed yet."""
        problem = BagProblem(reason, text, stamp_ns)
        if problem not in self._known_problems:
            self._known_problems.add(problem)
            self.problems.append(problem)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RecordedMessage]:
        """Messages of some topics, or of all, in the order of reception.

        Reading of a damaged file goes on after the damage if the format allows it, and the other
        files are read in any case; damage is listed as a problem. If all messages have been taken,
        their numbers are compared with those that the files state.
        """
        wanted = self.topics.keys() if topics is None else topics
        streams = [
            (file.span_ns[0], self._until_damage(file, wanted))
            for file in self._files
            if file.span_ns is not None
        ]
        for channel, received_ns, raw in in_order(streams):
            yield RecordedMessage(channel.topic, channel.kind, received_ns, raw, channel)

    def _until_damage(self, file: StoredFile, topics: Collection[str]) -> Iterator[Stored]:
        stated: Counter[str] = Counter()
        read: Counter[str] = Counter()
        for channel in file.channels:
            if channel.topic in topics:
                stated[channel.topic] += channel.count
        if not stated:
            return
        try:
            for channel, received_ns, raw in file.messages(stated):
                yield channel, received_ns, _unpacked(channel, raw)
                read[channel.topic] += 1
        except Exception as error:  # damage can raise any error of the parsers
            self.note(
                "damaged_file", f"{file.path.name}: reading stopped early: {reason_of(error)}"
            )
        self._compare(file.path.name, stated, read, "were read")

    def _compare(
        self, source: str, stated: Mapping[str, int], counted: Mapping[str, int], how: str
    ) -> None:
        """List the topics whose numbers of messages differ from those that a source states."""
        differing = {
            topic: (number, counted.get(topic, 0))
            for topic, number in sorted(stated.items())
            if number != counted.get(topic, 0) and (source, topic) not in self._compared
        }
        if not differing:
            return
        self._compared.update((source, topic) for topic in differing)
        shown = [
            f"{topic} {count} instead of {number}"
            for topic, (number, count) in list(differing.items())[:_SHOWN_COUNTS]
        ]
        if len(differing) > _SHOWN_COUNTS:
            shown.append(f"{len(differing) - _SHOWN_COUNTS} more topics")
        numbers, counts = (sum(column) for column in zip(*differing.values(), strict=True))
        self.note(
            "message_count",
            f"{source} states {numbers} messages, but {counts} {how}: {', '.join(shown)}",
        )

    def _channels(self) -> Iterator[Channel]:
        return (channel for file in self._files for channel in file.channels)

    def decode(self, message: RecordedMessage) -> Any:
        """The message object, with the attribute names of its ROS type.

        Raises:
            BagError: the bytes are not a message of that type.
        """
        store = self._stores.get(message.kind)
        if store is None:
            store = self._stores[message.kind] = self._store(message.channel)
        try:
            if message.channel.is_ros1:
                return store.deserialize_ros1(message.raw, message.kind)
            return store.deserialize_cdr(message.raw, message.kind)
        except Exception as error:
            raise BagError(
                f"{message.topic}: message is not a valid {message.kind}: {reason_of(error)}"
            ) from error

    def header_stamp_ns(self, message: RecordedMessage) -> int:
        """Header stamp of a message whose type starts with a std_msgs/Header, without decoding."""
        try:
            if message.channel.is_ros1:
                _, seconds, nanoseconds = struct.unpack_from("<III", message.raw)
            else:
                order = "<" if message.raw[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", message.raw, 4)
        except (struct.error, IndexError) as error:
            raise BagError(f"{message.topic}: message is too short for a header") from error
        return int(seconds) * 1_000_000_000 + int(nanoseconds)

    def _store(self, channel: Channel) -> Typestore:
        """Message definitions from the recording, otherwise those of a standard installation.

        Only the type of this channel is registered, so that an invalid definition of another
        topic does not make the recording unreadable.
        """
        if channel.definition.format != MessageDefinitionFormat.NONE:
            try:
                return recorded_types(channel.definition, channel.kind)
            except Exception as error:
                self.note(
                    "definition",
                    f"{channel.topic}: the recorded definition of {channel.kind} is unreadable "
                    f"({reason_of(error)}); the standard one is used",
                )
        return ros1_types() if channel.is_ros1 else ros2_types()


def _unpacked(channel: Channel, raw: bytes) -> bytes:
    """The message of a message-compressed recording; others, and damaged ones, as they are.

    The messages themselves tell: serialized ROS 2 messages start with a zero byte. A message that
    stays packed is reported when it is decoded.
    """
    if channel.is_ros1 or not raw.startswith(_ZSTD_MAGIC):
        return raw
    message = bytearray()
    try:
        for part in zstandard.ZstdDecompressor().read_to_iter(raw):
            message += part
            if len(message) > _LARGEST_UNPACKED:
                return raw
    except zstandard.ZstdError:
        return raw
    return bytes(message)
