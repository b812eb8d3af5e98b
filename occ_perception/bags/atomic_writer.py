"""A rosbag2 recording that appears whole or not at all, written without ROS."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer
from typing_extensions import Self

from occ_perception.atomic import OutputError, atomic_path, refuse_existing
from occ_perception.bags.message_types import ros2_types
from occ_perception.errors import OptionError, reason_of

Storage = Literal["mcap", "sqlite3"]

# ROS 2 Iron and older read the QoS of metadata version 8 only.
_METADATA_VERSION: Literal[8] = 8

_STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}

_FOREVER = QosTime(9223372036, 854775807)


def _qos(depth: int, durability: QosDurability = QosDurability.VOLATILE) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=depth,
        reliability=QosReliability.RELIABLE,
        durability=durability,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )


# QoS at playback: a late subscriber must still receive the mounts.
_STREAM = _qos(10)
_STATIC = _qos(1, QosDurability.TRANSIENT_LOCAL)


class _SqliteWriter(Sqlite3Writer):
    """Opens the database by its path.

    Its base class opens a URI made from the path, where ``#``, ``?`` and ``%`` have a meaning.
    """

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        del compression  # unused here: the writer compresses messages and files itself
        self.path = path / f"{path.name}.db3"
        self.conn = sqlite3.connect(self.path)
        self.conn.executescript(self.SQLITE_SCHEMA)
        self.cursor = self.conn.cursor()


class _Writer(Writer):
    STORAGE_PLUGINS = {  # noqa: RUF012  (as in the base class)
        **Writer.STORAGE_PLUGINS,
        StoragePlugin.SQLITE3: _SqliteWriter,
    }


class AtomicWriter:
    """Writes one recording; a context manager.

    If the folder ``path`` exists, it is complete; see :func:`~occ_perception.atomic.atomic_path`.

    Args:
        path: the rosbag2 folder to create.
        storage: container format.

    Attributes:
        compresses: whether the chunks of an mcap file are compressed (zstd).

    Raises:
        OptionError: unknown storage.
        OutputError: ``path`` exists, another process is writing it, or it cannot be written (a
            full disk). Any method can raise it; the message names ``path``.
    """

    compresses: ClassVar[bool] = False

    def __init__(self, path: str | Path, storage: Storage = "mcap") -> None:
        self.path = Path(path)
        if storage not in _STORAGES:
            raise OptionError(f"unknown storage {storage!r}, expected {' or '.join(_STORAGES)}")
        refuse_existing(self.path)
        self._storage = _STORAGES[storage]
        self._types = ros2_types()
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            unfinished = stack.enter_context(atomic_path(self.path, alone=True))
            # The files inside carry the folder's name, so the name must be final from the start.
            self._writer = _Writer(
                unfinished, version=_METADATA_VERSION, storage_plugin=self._storage
            )
            if self.compresses:
                self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            with self._failures_named():
                self._writer.open()
            stack.push(self._close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._stack.__exit__(*failure)

    def _close(self, failure: type[BaseException] | None, *_: object) -> None:
        try:
            if failure is None:
                with self._failures_named():
                    self._writer.close()
        finally:
            # On a full disk this fails again; the first error is the one to raise.
            with suppress(OSError, sqlite3.Error):
                self._writer.abort()

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            why = reason_of(error) if isinstance(error, OSError) else error
            raise OutputError(
                f"{self.path} could not be written: {why}; no partial output is left"
            ) from error

    def note(self, key: str, text: str) -> None:
        """Store a text in the recording's metadata, as custom data of rosbag2."""
        self._writer.set_custom_data(key, text)

    def write(self, topic: str, received_ns: int, message: Any, static: bool = False) -> None:
        """Write a message created by :meth:`new`; a static topic is latched at playback."""
        kind = message.__msgtype__
        raw = self._types.serialize_cdr(message, kind)
        with self._failures_named():
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(
                    topic,
                    kind,
                    typestore=self._types,
                    offered_qos_profiles=[_STATIC if static else _STREAM],
                )
            self._writer.write(self._connections[topic], received_ns, raw)

    def new(self, kind: str, **fields: Any) -> Any:
        """Create a message of a ROS 2 type; every field must be given."""
        return self._types.types[kind](**fields)
