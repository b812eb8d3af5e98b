"""A recording in any container ROS ever wrote, as one stream of messages.

rosbag2 folders (sqlite3 or mcap, plain or zstd-compressed), bare ``.mcap`` and ``.db3`` files, and
ROS 1 ``.bag`` files look the same from here. Damage becomes a listed problem as long as anything
can be read, and a :class:`BagError` otherwise.
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
    """Something of a recording that was skipped.

    Attributes:
        reason: short kind, e.g. ``damaged_file`` or a :data:`~..sensing.assembly.FrameProblem`.
        text: what happened.
        stamp_ns: when, None where it concerns the whole recording.
    """

    reason: str
    text: str
    stamp_ns: int | None = None

    def __str__(self) -> str:
        return self.text if self.stamp_ns is None else f"{self.stamp_ns / 1e9:.3f} s: {self.text}"


@dataclass(frozen=True, eq=False)
class RecordedMessage:
    """One message as it was recorded; :meth:`Recording.decode` opens it."""

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
        path: where it is.
        is_ros1: whether its messages are serialised the ROS 1 way.
        topics: name -> type and count.
        problems: damage that was met so far.

    Raises:
        BagError: there is no such recording, or nothing of it can be read.
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
        """Quality of service that the topic's publishers offered; empty where nothing says so."""
        return [
            qos
            for reader in self._readers
            for connection in reader.connections
            if connection.topic == topic
            for qos in getattr(connection.ext, "offered_qos_profiles", [])
        ]

    @property
    def span_ns(self) -> tuple[int, int]:
        """Times of reception of the first and the last message; (0, 0) of an empty recording."""
        full = [reader for reader in self._readers if reader.message_count]
        if not full:
            return (0, 0)
        return (
            min(int(reader.start_time) for reader in full),
            max(int(reader.end_time) for reader in full),
        )

    def note(self, reason: str, text: str, stamp_ns: int | None = None) -> None:
        """List a problem, once."""
        problem = BagProblem(reason, text, stamp_ns)
        if problem not in self._known_problems:
            self._known_problems.add(problem)
            self.problems.append(problem)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[RecordedMessage]:
        """Messages of some topics, or of all, in the order of their reception.

        A damaged file ends early, with a problem listed; the others are read on.
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
        if not connections:  # which the reader takes for all
            return
        try:
            yield from reader.messages(connections=connections)
        except Exception as error:  # damage shows in as many ways as there are parsers
            name = Path(str(reader.path)).name
            self.note("damaged_file", f"{name}: reading stopped early: {_said(error)}")

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
                f"{message.topic}: message is not a valid {message.kind}: {_said(error)}"
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
        """Definitions that the recording carries, else those of a standard installation.

        Only the type at hand is registered, so that an odd definition of some other topic does
        not make the recording unreadable.
        """
        if connection.msgdef.format == MessageDefinitionFormat.MSG:
            try:
                store = get_typestore(Stores.EMPTY)
                store.register(get_types_from_msg(connection.msgdef.data, connection.msgtype))
            except Exception as error:
                self.note(
                    "definition",
                    f"{connection.topic}: the recorded definition of {connection.msgtype} is "
                    f"unreadable ({_said(error)}); the standard one is used",
                )
            else:
                return store
        return ros1_types() if self.is_ros1 else ros2_types()

    def _open(self) -> list[Reader]:
        """One reader where the recording is intact, else one for each file that can be read."""
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
                raise BagError(f"{self.path} cannot be read: {_said(error)}") from error
            readers = self._open_each(files)
            if not any(_said(error) in problem.text for problem in self.problems):
                self.note("damaged_file", f"{_said(error)}; the files that are there are read")
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
            raise BagError(f"{path} cannot be read: {_said(error)}{_advice(path)}") from error
        return reader

    def _open_intact_part(self, path: Path, error: Exception) -> rosbag2.Reader:
        try:
            part = self._stack.enter_context(intact_part_of_mcap(path))
            reader = rosbag2.Reader(part)
            self._stack.enter_context(reader)
        except Exception as second:
            raise BagError(f"{path} cannot be read: {_said(error)}; {_said(second)}") from second
        if not reader.message_count:
            raise BagError(f"{path} cannot be read: {_said(error)}; no message of it is intact")
        self.note(
            "damaged_file",
            f"{path.name} is damaged ({_said(error)}); {reader.message_count} messages before the "
            "damage are read",
        )
        return reader


def _by_file(reader: Reader) -> list[Any]:
    """Readers of the single files that a reader goes through one after the other.

    A reader of a folder ends at the first damage, whichever file it is in.
    """
    folder: Any = getattr(reader, "storage", None)
    parts = []
    for file in getattr(folder, "storages", ()):
        part = copy(folder)
        part.storages, part.path = [file], file.path
        parts.append(part)
    return parts or [reader]


def _said(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _advice(path: Path) -> str:
    if path.suffix == ".bag":
        return "; `rosbag reindex` or `rosbag fix` may repair it"
    return "; `sqlite3 FILE .recover` may save its messages"
