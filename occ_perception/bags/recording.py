"""Read access to a recording in any ROS container format, as one stream of messages.

Supported are rosbag2 folders (sqlite3 or mcap, plain or zstd-compressed), single ``.mcap`` and
``.db3`` files, and ROS 1 ``.bag`` files. Damage is listed as a problem as long as anything can be
read; otherwise it raises a :class:`BagError`.
"""

from __future__ import annotations

import heapq
import struct
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rosbags import rosbag1, rosbag2
from rosbags.interfaces import Connection, MessageDefinitionFormat, Qos
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from occ_perception.bags.mcap_recovery import intact_part_of_mcap
from occ_perception.bags.message_types import ros1_types, ros2_types
from occ_perception.errors import OccError

_STORAGE_SUFFIXES = (".mcap", ".db3")

Reader = rosbag1.Reader | rosbag2.Reader


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

    def __str__(self) -> str:
        return self.text if self.stamp_ns is None else f"{self.stamp_ns / 1e9:.3f} s: {self.text}"


@dataclass(frozen=True, eq=False)
class RecordedMessage:
    """One message as recorded; :meth:`Recording.decode` deserializes it."""

    topic: str
    kind: str
    received_ns: int
    raw: bytes
    connection: Connection


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
        is_ros1: whether its messages are serialized in ROS 1 format.
        topics: name -> type and count.
        problems: problems found so far.

    Raises:
        BagError: the recording does not exist, or nothing of it can be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problems: list[BagProblem] = []
        self._known_problems: set[BagProblem] = set()
        self._stack = ExitStack()
        self._stores: dict[str, Typestore] = {}
        try:
            self._readers = self._open()
        except BaseException:
            self._stack.close()
            raise
        self.is_ros1 = isinstance(self._readers[0], rosbag1.Reader)
        self.topics: dict[str, RecordedTopic] = {}
        for reader in self._readers:
            for connection in reader.connections:
                known = self.topics.get(connection.topic)
                count = connection.msgcount + (known.count if known else 0)
                self.topics[connection.topic] = RecordedTopic(connection.msgtype, count)

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
        return [
            qos
            for reader in self._readers
            for connection in reader.connections
            if connection.topic == topic
            for qos in getattr(connection.ext, "offered_qos_profiles", [])
        ]

    @property
    def span_ns(self) -> tuple[int, int]:
        """Reception times of the first and the last message; (0, 0) for an empty recording."""
        full = [reader for reader in self._readers if reader.message_count]
        if not full:
            return (0, 0)
        return (
            min(int(reader.start_time) for reader in full),
            max(int(reader.end_time) for reader in full),
        )

    def note(self, reason: str, text: str, stamp_ns: int | None = None) -> None:
        """Add a problem, if it is not listed yet."""
        problem = BagProblem(reason, text, stamp_ns)
        if problem not in self._known_problems:
            self._known_problems.add(problem)
            self.problems.append(problem)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RecordedMessage]:
        """Messages of some topics, or of all, in the order of reception.

        Reading of a damaged file ends early, with a problem listed; the other files are read on.
        """
        wanted = self.topics if topics is None else topics
        streams = [
            chain.from_iterable(self._until_damage(part, wanted) for part in _by_file(reader))
            for reader in self._readers
        ]
        for connection, received_ns, raw in heapq.merge(*streams, key=lambda item: item[1]):
            yield RecordedMessage(
                connection.topic, connection.msgtype, received_ns, raw, connection
            )

    def _until_damage(
        self, reader: Any, topics: Collection[str]
    ) -> Iterator[tuple[Connection, int, bytes]]:
        connections = [c for c in reader.connections if c.topic in topics]
        if not connections:  # the reader would read all topics
            return
        try:
            yield from reader.messages(connections=connections)
        except Exception as error:  # damage can raise any error of the parsers
            name = Path(str(reader.path)).name
            self.note("damaged_file", f"{name}: reading stopped early: {_reason(error)}")

    def decode(self, message: RecordedMessage) -> Any:
        """The message object, with the attribute names of its ROS type.

        Raises:
            BagError: the bytes are not a message of that type.
        """
        store = self._stores.get(message.kind)
        if store is None:
            store = self._stores[message.kind] = self._store(message.connection)
        try:
            if self.is_ros1:
                return store.deserialize_ros1(message.raw, message.kind)
            return store.deserialize_cdr(message.raw, message.kind)
        except Exception as error:
            raise BagError(
                f"{message.topic}: message is not a valid {message.kind}: {_reason(error)}"
            ) from error

    def header_stamp_ns(self, message: RecordedMessage) -> int:
        """Header stamp of a message whose type starts with a std_msgs/Header, without decoding."""
        try:
            if self.is_ros1:
                _, seconds, nanoseconds = struct.unpack_from("<III", message.raw)
            else:
                order = "<" if message.raw[1] & 1 else ">"
                seconds, nanoseconds = struct.unpack_from(f"{order}iI", message.raw, 4)
        except (struct.error, IndexError) as error:
            raise BagError(f"{message.topic}: message is too short for a header") from error
        return int(seconds) * 1_000_000_000 + int(nanoseconds)

    def _store(self, connection: Connection) -> Typestore:
        """Message definitions from the recording, otherwise those of a standard installation.

        Only the type of this connection is registered, so that an invalid definition of another
        topic does not make the recording unreadable.
        """
        if connection.msgdef.format == MessageDefinitionFormat.MSG:
            try:
                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
            except Exception as error:
                self.note(
                    "definition",
                    f"{connection.topic}: the recorded definition of {connection.msgtype} is "
                    f"unreadable ({_reason(error)}); the standard one is used",
                )
            else:
                return store
        return ros1_types() if self.is_ros1 else ros2_types()

    def _open(self) -> list[Reader]:
        """One reader if the recording is intact, otherwise one for each readable file."""
        if not self.path.exists():
            raise BagError(f"no recording at {self.path}")
        if self.path.is_file():
            if self.path.suffix not in (*_STORAGE_SUFFIXES, ".bag"):
                raise BagError(
                    f"{self.path} is not a recording: expected a rosbag2 folder or a file ending "
                    f"in .mcap, .db3 or .bag"
                )
            return [self._open_file(self.path)]
        files = sorted(f for f in self.path.iterdir() if f.suffix in _STORAGE_SUFFIXES)
        if (self.path / "metadata.yaml").is_file():
            return self._open_folder(files)
        if not files:
            raise BagError(
                f"{self.path} is not a rosbag2 folder: it has neither metadata.yaml nor "
                ".mcap or .db3 files"
            )
        self.note("no_metadata", "metadata.yaml is missing, the recording was not closed properly")
        return self._open_each(files)

    def _open_folder(self, files: list[Path]) -> list[Reader]:
        reader = rosbag2.Reader(self.path)
        try:
            self._stack.enter_context(reader)
        except Exception as error:
            if not files:
                raise BagError(f"{self.path} cannot be read: {_reason(error)}") from error
            readers = self._open_each(files)
            if not any(_reason(error) in problem.text for problem in self.problems):
                self.note("damaged_file", f"{_reason(error)}; the existing files are read")
            return readers
        return [reader]

    def _open_each(self, files: list[Path]) -> list[Reader]:
        readers: list[Reader] = []
        refusals = []
        for file in files:
            try:
                readers.append(self._open_file(file))
            except BagError as error:  # noqa: PERF203  (opening takes longer)
                refusals.append(str(error))
        if refusals and not any(reader.message_count for reader in readers):
            raise BagError("; ".join(refusals[:3]))
        for refusal in refusals:
            self.note("damaged_file", refusal)
        return readers

    def _open_file(self, path: Path) -> Reader:
        try:
            reader = rosbag1.Reader(path) if path.suffix == ".bag" else rosbag2.Reader(path)
            self._stack.enter_context(reader)
        except Exception as error:
            if path.suffix == ".mcap":
                return self._open_intact_part(path, error)
            raise BagError(f"{path} cannot be read: {_reason(error)}{_advice(path)}") from error
        return reader

    def _open_intact_part(self, path: Path, error: Exception) -> rosbag2.Reader:
        try:
            part = self._stack.enter_context(intact_part_of_mcap(path))
            reader = rosbag2.Reader(part)
            self._stack.enter_context(reader)
        except Exception as second:
            raise BagError(
                f"{path} cannot be read: {_reason(error)}; {_reason(second)}"
            ) from second
        if not reader.message_count:
            raise BagError(f"{path} cannot be read: {_reason(error)}; it has no intact message")
        self.note(
            "damaged_file",
            f"{path.name} is damaged ({_reason(error)}); {reader.message_count} messages before "
            "the damage are read",
        )
        return reader


def _by_file(reader: Reader) -> list[Any]:
    """One reader per file, instead of one reader for the whole folder.

    A reader of a folder ends at the first damage in any file.
    """
    folder: Any = getattr(reader, "storage", None)
    parts = []
    for file in getattr(folder, "storages", ()):
        part = copy(folder)
        part.storages, part.path = [file], file.path
        parts.append(part)
    return parts or [reader]


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _advice(path: Path) -> str:
    if path.suffix == ".bag":
        return "; `rosbag reindex` or `rosbag fix` may repair it"
    return "; `sqlite3 FILE .recover` may save its messages"
