"""Reads an sqlite3 file of a rosbag2 recording, with what its write-ahead log holds."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing
from pathlib import Path

from occ_perception.bags.stored_file import (
    Channel,
    Note,
    Stored,
    definition_of,
    qos_of,
    type_name,
)


class SqliteFile:
    """An sqlite3 file, see :class:`~.stored_file.StoredFile`.

    Nothing is written to the file's folder.

    Args:
        path: the file.
        note: takes problems.

    Raises:
        sqlite3.Error: the file is damaged, or not a recording.
        ValueError: the messages are not serialized as CDR.
    """

    def __init__(self, path: Path, note: Note) -> None:
        self.path = path
        with closing(_connection(path)) as database:
            counts = dict(
                database.execute("SELECT topic_id, count(*) FROM messages GROUP BY topic_id")
            )
            self._topics = {
                topic_id: _channel(row, counts.pop(topic_id, 0))
                for topic_id, *row in _topics(database)
            }
            first, last = database.execute(
                "SELECT min(timestamp), max(timestamp) FROM messages"
            ).fetchone()
        self.channels = list(self._topics.values())
        self.span_ns = None if first is None else (first, last)
        if counts:
            note(
                "damaged_file",
                f"{path.name}: {sum(counts.values())} messages belong to no topic and are not read",
            )
        if _beside(path, "-journal"):
            note(
                "damaged_file",
                f"{path.name}: a journal lies beside it: its last transaction may be incomplete",
            )

    def messages(self, topics: Collection[str]) -> Iterator[Stored]:
        """Messages of some topics in the order of reception."""
        wanted = [n for n, channel in self._topics.items() if channel.topic in topics]
        marks = ",".join("?" * len(wanted))
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) "
            "ORDER BY timestamp, id"
        )
        with closing(_connection(self.path)) as database:
            for topic_id, received_ns, raw in database.execute(query, wanted):
                yield self._topics[topic_id], received_ns, raw


def _connection(path: Path) -> sqlite3.Connection:
    """Open a database without locks and without a file of sqlite's own beside it.

    A write-ahead log holds the newest messages of a recorder that was killed, or whose folder was
    copied while it recorded. As "immutable", sqlite would ignore it; in exclusive mode it keeps
    the log's index in memory instead of a file.
    """
    has_log = _beside(path, "-wal")
    mode = "mode=ro&vfs=unix-none" if has_log else "immutable=1"
    database = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    if has_log:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
    return database


def _beside(path: Path, suffix: str) -> bool:
    """Whether sqlite left a file that is not empty beside the database."""
    file = path.with_name(path.name + suffix)
    return file.is_file() and file.stat().st_size > 0


def _topics(database: sqlite3.Connection) -> Iterator[tuple[int, str, str, str, str, str, str]]:
    """Rows of id, name, type, serialization, QoS, and encoding and text of the definition.

    Older versions of the format lack some of these.
    """
    columns = {row[1] for row in database.execute("PRAGMA table_info(topics)")}
    qos = "offered_qos_profiles" if "offered_qos_profiles" in columns else "''"
    definitions = {}
    if list(database.execute("PRAGMA table_info(message_definitions)")):
        for kind, *definition in database.execute(
            "SELECT topic_type, encoding, encoded_message_definition FROM message_definitions"
        ):
            definitions[kind] = definition
    for row in database.execute(
        f"SELECT id, name, type, serialization_format, {qos} FROM topics ORDER BY id"
    ):
        yield (*row, *definitions.get(row[2], ("", "")))


def _channel(row: list[str], count: int) -> Channel:
    name, kind, serialization, qos, encoding, definition = row
    if serialization != "cdr":
        raise ValueError(f"messages of {name} are serialized as {serialization}, expected cdr")
    return Channel(name, type_name(kind), definition_of(encoding, definition), count, qos_of(qos))
